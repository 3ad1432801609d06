"""The plain network of 34 layers, without shortcuts, on ImageNet: He et al. 2015, arXiv:1512.03385, Table 2.

Published: 28.54 % top-1 error, the mean over 10 crops; not comparable with our single crop.
It trails plain-18: more layers, larger error, the degradation that shortcuts remove.
It is resnet34_he2015 without shortcuts, and so without the parameters of their projections. The control: compare it
with that recipe on the same machine, not with the number above.
Not as in the paper: the form of momentum and bf16; resnet50_he2015 has the whole list, and what is unverified.

    torchrun --nproc-per-node 8 -m trainer train plain34_he2015 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet34_he2015 import recipe as base
from trainer.recipe import Published, ResNet

recipe = replace(
    base,
    name="plain34_he2015",
    published=Published(
        top1=71.46,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px, mean of 10 crops",
        source="He et al. 2015, arXiv:1512.03385, Table 2",
        incomparable="ours is one centre crop",
    ),
    model=ResNet(depth=34, residual=False),
)
