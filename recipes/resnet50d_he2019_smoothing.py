"""ResNet-50-D on ImageNet with smoothed labels: He et al. 2019, "Bag of Tricks", arXiv:1812.01187, Table 6.

Published: 78.31 % top-1, 224 px centre crop of short side 256.
As resnet50d_he2019_cosine, with label smoothing 0.1 (section 5.2).
Unverified: the result is from memory.
Not as in the paper: as in resnet50d_he2019_cosine; bf16, there fp16.

    torchrun --nproc-per-node 8 -m trainer train resnet50d_he2019_smoothing --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50d_he2019_cosine import recipe as base
from trainer.recipe import CrossEntropy, Published

recipe = replace(
    base,
    name="resnet50d_he2019_smoothing",
    published=Published(
        top1=78.31,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2019, arXiv:1812.01187, Table 6",
    ),
    loss=CrossEntropy(label_smoothing=0.1),
)
