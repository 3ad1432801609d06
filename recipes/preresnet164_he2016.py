"""The pre-activation ResNet-164 on CIFAR-10: He et al. 2016, "Identity Mappings", arXiv:1603.05027, Table 3.

Published: 5.46 % test error, the median of 5 runs.
As resnet110_he2015, whose training the paper keeps, warmup included; here norm and ReLU come before each convolution.
Bottlenecks, with 1x1 convolutions in the shortcuts that change shape and the stride on the first 1x1, as in the
authors' code (KaimingHe/resnet-1k-layers).
Not as in the paper: the mean is subtracted per channel, not per pixel; bf16, there fp32.

    python -m trainer prepare cifar10 SRC --out data/cifar10
    python -m trainer train preresnet164_he2016 --data data/cifar10 --run-dir runs/preresnet164_he2016
"""

from dataclasses import replace

from recipes.resnet110_he2015 import recipe as base
from trainer.recipe import CifarResNet, Published

recipe = replace(
    base,
    name="preresnet164_he2016",
    published=Published(
        top1=94.54,
        runs=5,
        statistic=None,
        protocol="CIFAR-10 test, 32 px, median of the runs",
        source="He et al. 2016, arXiv:1603.05027, Table 3",
    ),
    model=CifarResNet(depth=164, preactivation=True, bottleneck=True),
)
