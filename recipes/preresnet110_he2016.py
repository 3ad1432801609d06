"""The pre-activation ResNet-110 on CIFAR-10: He et al. 2016, "Identity Mappings", arXiv:1603.05027, Table 3.

Published: 6.37 % test error, the median of 5 runs.
As resnet110_he2015, whose training the paper keeps, warmup included; here norm and ReLU come before each convolution.
Two-layer blocks, whose shortcuts are the parameter-free ones of He et al. 2015: the paper names none for them, and the
authors' code has bottlenecks alone.
Not as in the paper: the mean is subtracted per channel, not per pixel; bf16, there fp32.

    python -m trainer prepare cifar10 SRC --out data/cifar10
    python -m trainer train preresnet110_he2016 --data data/cifar10 --run-dir runs/preresnet110_he2016
"""

from dataclasses import replace

from recipes.resnet110_he2015 import recipe as base
from trainer.recipe import CifarResNet, Published

recipe = replace(
    base,
    name="preresnet110_he2016",
    published=Published(
        top1=93.63,
        runs=5,
        statistic=None,
        protocol="CIFAR-10 test, 32 px, median of the runs",
        source="He et al. 2016, arXiv:1603.05027, Table 3",
    ),
    model=CifarResNet(depth=110, preactivation=True),
)
