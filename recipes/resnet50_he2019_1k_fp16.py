"""ResNet-50 on ImageNet with batch 1024 in fp16: the efficient training of He et al. 2019, arXiv:1812.01187, Table 4.

Published: 76.21 % top-1, 224 px centre crop of short side 256.
As resnet50_he2019_1k_no_bias_decay, in fp16 with fp32 parameters and a scaled loss (section 3.2). It is the last rung
of the table, and what Tables 5 and 6 build on.
Unverified: the result is from memory.
Not as in the paper: as in resnet50_he2019_1k_no_bias_decay, but for the precision, which is the paper's.

    torchrun --nproc-per-node 8 -m trainer train resnet50_he2019_1k_fp16 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_he2019_1k_no_bias_decay import recipe as base
from trainer.recipe import Published

recipe = replace(
    base,
    name="resnet50_he2019_1k_fp16",
    published=Published(
        top1=76.21,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2019, arXiv:1812.01187, Table 4",
    ),
    precision="fp16",
)
