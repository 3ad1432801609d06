"""ResNet-50-D on ImageNet: the network of He et al. 2019, "Bag of Tricks", arXiv:1812.01187, Table 5.

Published: 77.16 % top-1, 224 px centre crop of short side 256.
As resnet50_he2019_1k_no_bias_decay, with the deep stem of three 3x3 convolutions and average pooling in the shortcuts,
and the stride on the 3x3 (section 4).
Unverified: the result is from memory.
Not as in the paper: as in resnet50_he2019_1k_no_bias_decay; bf16, there fp16.

    torchrun --nproc-per-node 8 -m trainer train resnet50d_he2019 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_he2019_1k_no_bias_decay import recipe as base
from trainer.recipe import Published, ResNet

recipe = replace(
    base,
    name="resnet50d_he2019",
    published=Published(
        top1=77.16,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2019, arXiv:1812.01187, Table 5",
    ),
    model=ResNet(depth=50, variant="d", zero_init_residual=True),
)
