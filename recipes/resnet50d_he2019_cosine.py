"""ResNet-50-D on ImageNet with a cosine: He et al. 2019, "Bag of Tricks", arXiv:1812.01187, Table 6.

Published: 77.91 % top-1, 224 px centre crop of short side 256.
As resnet50d_he2019, but after the warmup half a cosine to 0, changed every step, in place of three drops (section 5.1).
Unverified: the result is from memory.
Not as in the paper: as in resnet50d_he2019; bf16, there fp16.

    torchrun --nproc-per-node 8 -m trainer train resnet50d_he2019_cosine --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50d_he2019 import recipe as base
from trainer.recipe import Cosine, Published, Warmup

recipe = replace(
    base,
    name="resnet50d_he2019_cosine",
    published=Published(
        top1=77.91,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2019, arXiv:1812.01187, Table 6",
    ),
    schedule=Cosine(warmup=Warmup(epochs=5, lr=0.0)),
)
