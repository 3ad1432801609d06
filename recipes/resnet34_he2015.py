"""ResNet-34 on ImageNet as it was first trained: He et al. 2015, arXiv:1512.03385, Table 3.

Published: 24.52 % top-1 error of option B, the mean over 10 crops. It is not comparable with our single crop, for which
the authors give no result; for scale, fb.resnet.torch reports 26.73 % with one crop and another recipe (second-hand).
Its control is plain34_he2015: 28.54 % in Table 2.
All but the depth is resnet50_he2015, which says where each number is from; the epochs of the drops are a usual
reading, unverified.
Shortcuts that change shape are 1x1 convolutions (option B, as in torchvision); Table 2 has option A, 25.03 %.
Not as in the paper: the form of momentum and bf16, as there.

    torchrun --nproc-per-node 8 -m trainer train resnet34_he2015 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_he2015 import recipe as base
from trainer.recipe import Published, ResNet

recipe = replace(
    base,
    name="resnet34_he2015",
    published=Published(
        top1=75.48,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px, mean of 10 crops",
        source="He et al. 2015, arXiv:1512.03385, Table 3",
        incomparable="ours is one centre crop",
    ),
    model=ResNet(depth=34),
)
