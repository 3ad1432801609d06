"""ResNet-50 on ImageNet with batch 1024 and blocks that start silent: He et al. 2019, arXiv:1812.01187, Table 4.

Published: 76.37 % top-1, 224 px centre crop of short side 256.
As resnet50_he2019_1k_warmup, with the last gamma of every residual block at 0 (section 3.1).
Unverified: the result is from memory.
Not as in the paper: as in resnet50_he2019_1k_warmup; bf16, there fp32.

    torchrun --nproc-per-node 8 -m trainer train resnet50_he2019_1k_zero_gamma --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_he2019_1k_warmup import recipe as base
from trainer.recipe import Published, ResNet

recipe = replace(
    base,
    name="resnet50_he2019_1k_zero_gamma",
    published=Published(
        top1=76.37,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2019, arXiv:1812.01187, Table 4",
    ),
    model=ResNet(depth=50, variant="a", zero_init_residual=True),
)
