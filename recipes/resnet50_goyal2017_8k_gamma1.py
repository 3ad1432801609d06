"""ResNet-50 on ImageNet with batch 8192 and every gamma starting at 1: Goyal et al. 2017, arXiv:1706.02677.

Published: 24.11 +- 0.07 % top-1 error at k*n = 8k, where zero gammas have 23.74: the median of the last 5 epochs, mean
and deviation of 5 runs.
As resnet50_goyal2017_8k, but the last gamma of every block starts at 1 as all others do: the control of section 5.1's
initialisation.
Not as in the paper: bf16 (--precision fp32 is the literal one).

    torchrun --nproc-per-node 8 -m trainer train resnet50_goyal2017_8k_gamma1 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_goyal2017_8k import recipe as base
from trainer.recipe import Published, ResNet

recipe = replace(
    base,
    name="resnet50_goyal2017_8k_gamma1",
    published=Published(
        top1=75.89,
        sd=0.07,
        runs=5,
        statistic="median of the last 5",
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="Goyal et al. 2017, arXiv:1706.02677, Table 2b",
    ),
    model=ResNet(depth=50, zero_init_residual=False, fc_std=0.01),
)
