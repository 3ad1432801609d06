"""ResNet-50 on ImageNet with batch 1024 and a rate in proportion: He et al. 2019, arXiv:1812.01187, Table 4.

Published: 75.17 % top-1, 224 px centre crop of short side 256.
As resnet50_he2019, but 8 GPUs x 128 images and lr 0.1 * 1024 / 256 (section 3.1, linear scaling): the first rung, on
which the larger batch costs accuracy.
Unverified: the result is from memory.
Not as in the paper: as in resnet50_he2019; bf16, there fp32.

    torchrun --nproc-per-node 8 -m trainer train resnet50_he2019_1k --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_he2019 import recipe as base
from trainer.recipe import SGD, Published

recipe = replace(
    base,
    name="resnet50_he2019_1k",
    published=Published(
        top1=75.17,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2019, arXiv:1812.01187, Table 4",
    ),
    optimizer=SGD(lr=0.1 * 1024 / 256, momentum=0.9, nesterov=True, weight_decay=1e-4),
    global_batch_size=1024,
    micro_batch_size=128,
)
