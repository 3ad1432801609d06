"""ResNet-50 on ImageNet with batch 1024 and decay on weights alone: He et al. 2019, arXiv:1812.01187, Table 4.

Published: 76.03 % top-1, 224 px centre crop of short side 256.
As resnet50_he2019_1k_zero_gamma, but no weight decay on biases, gammas and betas (section 3.1). In the table this rung
goes down.
Unverified: the result is from memory.
Not as in the paper: as in resnet50_he2019_1k_zero_gamma; bf16, there fp32.

    torchrun --nproc-per-node 8 -m trainer train resnet50_he2019_1k_no_bias_decay --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_he2019_1k_zero_gamma import recipe as base
from trainer.recipe import SGD, Published

recipe = replace(
    base,
    name="resnet50_he2019_1k_no_bias_decay",
    published=Published(
        top1=76.03,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2019, arXiv:1812.01187, Table 4",
    ),
    optimizer=SGD(
        lr=0.1 * 1024 / 256, momentum=0.9, nesterov=True, weight_decay=1e-4, decay_norm=False, decay_bias=False
    ),
)
