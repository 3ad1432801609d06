"""ResNet-32 on CIFAR-10: He et al. 2015, arXiv:1512.03385, section 4.2 and Table 6.

Published: 7.51 % test error, one run, at the end of 64k iterations.
All but the depth is resnet20_he2015, which says what is from the paper.
Not as in the paper: the mean is subtracted per channel, and bf16, as there.

    python -m trainer prepare cifar10 SRC --out data/cifar10
    python -m trainer train resnet32_he2015 --data data/cifar10 --run-dir runs/resnet32_he2015
"""

from dataclasses import replace

from recipes.resnet20_he2015 import recipe as base
from trainer.recipe import CifarResNet, Published

recipe = replace(
    base,
    name="resnet32_he2015",
    published=Published(
        top1=92.49,
        runs=1,
        statistic="final",
        protocol="CIFAR-10 test, 32 px",
        source="He et al. 2015, arXiv:1512.03385, Table 6",
    ),
    model=CifarResNet(depth=32),
)
