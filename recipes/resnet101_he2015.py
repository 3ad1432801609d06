"""ResNet-101 on ImageNet as it was first trained: He et al. 2015, arXiv:1512.03385.

Published: 23.6 % top-1 error, 7.1 % top-5, one run, 224 px centre crop of short side 256, on the authors' page of
models.
All but the depth is resnet50_he2015, which says where each number is from; the epochs of the drops are a usual
reading, unverified.
Not as in the paper: the form of momentum and bf16, as there.

    torchrun --nproc-per-node 8 -m trainer train resnet101_he2015 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_he2015 import recipe as base
from trainer.recipe import Published, ResNet

recipe = replace(
    base,
    name="resnet101_he2015",
    published=Published(
        top1=76.4,
        runs=1,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2015, arXiv:1512.03385; the authors' page, KaimingHe/deep-residual-networks",
    ),
    model=ResNet(depth=101, variant="a"),
)
