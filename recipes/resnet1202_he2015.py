"""ResNet-1202 on CIFAR-10, a network too deep for its data: He et al. 2015, arXiv:1512.03385, section 4.2 and Table 6.

Published: 7.93 % test error, one run: worse than ResNet-110 although both fit the training images.
19.4 M parameters. All but the depth is resnet110_he2015; that its 400 iterations at lr 0.01 are meant here too is our
reading, unverified. On a GPU of little memory --micro-batch-size 32, and then the norms see 32 images.
Not as in the paper: the mean is subtracted per channel, and bf16, as there.

    python -m trainer prepare cifar10 SRC --out data/cifar10
    python -m trainer train resnet1202_he2015 --data data/cifar10 --run-dir runs/resnet1202_he2015
"""

from dataclasses import replace

from recipes.resnet110_he2015 import recipe as base
from trainer.recipe import CifarResNet, Published

recipe = replace(
    base,
    name="resnet1202_he2015",
    published=Published(
        top1=92.07,
        runs=1,
        statistic="final",
        protocol="CIFAR-10 test, 32 px",
        source="He et al. 2015, arXiv:1512.03385, Table 6",
    ),
    model=CifarResNet(depth=1202),
)
