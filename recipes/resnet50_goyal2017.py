"""ResNet-50 on ImageNet with batch 256, the small-batch baseline: Goyal et al. 2017, arXiv:1706.02677, Table 1.

Published: 23.60 +- 0.12 % top-1 error at k*n = 256: the median of the last 5 epochs, mean and deviation of 5 runs.
As resnet50_goyal2017_8k, on 8 workers of 32 images: lr = 0.1 * 256 / 256, and no warmup, which the paper has only
where k*n is above 256. --micro-batch-size 256 runs it on one large GPU in one pass: norms still see 32 images.
Not as in the paper: bf16 (--precision fp32 is the literal one).

    torchrun --nproc-per-node 8 -m trainer train resnet50_goyal2017 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_goyal2017_8k import recipe as base
from trainer.recipe import SGD, Published, Steps

recipe = replace(
    base,
    name="resnet50_goyal2017",
    published=Published(
        top1=76.40,
        sd=0.12,
        runs=5,
        statistic="median of the last 5",
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="Goyal et al. 2017, arXiv:1706.02677, Table 1",
    ),
    optimizer=SGD(lr=0.1 * 256 / 256, momentum=0.9, nesterov=True, weight_decay=1e-4, decay_norm=False),
    schedule=Steps(milestones=(30, 60, 80)),
    global_batch_size=256,
    micro_batch_size=32,
)
