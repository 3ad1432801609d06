"""ResNet-101 on ImageNet with batch 8192: Goyal et al. 2017, arXiv:1706.02677.

Published: 22.36 +- 0.09 % top-1 error at k*n = 8k, where k*n = 256 has 22.08 +- 0.06: the median of the last 5 epochs,
mean and deviation of 5 runs.
All but the depth is resnet50_goyal2017_8k, which says where each number is from.
Not as in the paper: bf16 (--precision fp32 is the literal one).

    torchrun --nproc-per-node 8 -m trainer train resnet101_goyal2017_8k --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_goyal2017_8k import recipe as base
from trainer.recipe import Published, ResNet

recipe = replace(
    base,
    name="resnet101_goyal2017_8k",
    published=Published(
        top1=77.64,
        sd=0.09,
        runs=5,
        statistic="median of the last 5",
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="Goyal et al. 2017, arXiv:1706.02677, Table 2c",
    ),
    model=ResNet(depth=101, zero_init_residual=True, fc_std=0.01),
)
