"""ResNet-18 on ImageNet as it was first trained: He et al. 2015, arXiv:1512.03385, Table 2.

Published: 27.88 % top-1 error, the mean over 10 crops. It is not comparable with our single crop, for which the authors
give no result; for scale, fb.resnet.torch reports 30.43 % with one crop and another recipe (second-hand). Its control
is plain18_he2015: 27.94 % in the same table.
All but the depth is resnet50_he2015, which says where each number is from; the epochs of the drops are a usual
reading, unverified.
Not as in the paper: shortcuts that change shape are 1x1 convolutions (option B, as torchvision), those of Table 2 have
no parameters (option A); the form of momentum and bf16, as there.

    torchrun --nproc-per-node 8 -m trainer train resnet18_he2015 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_he2015 import recipe as base
from trainer.recipe import Published, ResNet

recipe = replace(
    base,
    name="resnet18_he2015",
    published=Published(
        top1=72.12,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px, mean of 10 crops",
        source="He et al. 2015, arXiv:1512.03385, Table 2",
        incomparable="ours is one centre crop",
    ),
    model=ResNet(depth=18),
)
