"""ResNet-50 on ImageNet with batch 8192 and constant warmup: Goyal et al. 2017, arXiv:1706.02677.

Published: 25.88 +- 0.56 % top-1 error at k*n = 8k, where gradual warmup has 23.74 and none 24.84: the median of the
last 5 epochs, mean and deviation of 5 runs.
As resnet50_goyal2017_8k, but lr 0.1 for the first 5 epochs and then 3.2 at once (section 5.2): the second of the
paper's controls.
Not as in the paper: bf16 (--precision fp32 is the literal one).

    torchrun --nproc-per-node 8 -m trainer train resnet50_goyal2017_8k_constant_warmup --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_goyal2017_8k import recipe as base
from trainer.recipe import Published, Steps, Warmup

recipe = replace(
    base,
    name="resnet50_goyal2017_8k_constant_warmup",
    published=Published(
        top1=74.12,
        sd=0.56,
        runs=5,
        statistic="median of the last 5",
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="Goyal et al. 2017, arXiv:1706.02677, Table 1",
    ),
    schedule=Steps(milestones=(30, 60, 80), warmup=Warmup(epochs=5, lr=0.1, shape="constant")),
)
