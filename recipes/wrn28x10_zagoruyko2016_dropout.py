"""WRN-28-10 with dropout on CIFAR-10: Zagoruyko and Komodakis 2016, "Wide Residual Networks", arXiv:1605.07146.

Published: 3.89 % test error, the median of 5 runs (the README of the authors' repository).
As wrn28x10_zagoruyko2016, with dropout of 0.3 between the convolutions of each block (section 2.4).
Unverified: that the runs are measured at their last epoch.
Not as in the paper: bf16, there fp32.

    python -m trainer prepare cifar10 SRC --out data/cifar10
    python -m trainer train wrn28x10_zagoruyko2016_dropout --data data/cifar10 --run-dir runs/wrn28x10_dropout
"""

from dataclasses import replace

from recipes.wrn28x10_zagoruyko2016 import recipe as base
from trainer.recipe import Published, WideResNet

recipe = replace(
    base,
    name="wrn28x10_zagoruyko2016_dropout",
    published=Published(
        top1=96.11,
        runs=5,
        statistic=None,
        protocol="CIFAR-10 test, 32 px, median of the runs",
        source="Zagoruyko and Komodakis 2016, arXiv:1605.07146; szagoruyko/wide-residual-networks, README",
    ),
    model=WideResNet(depth=28, width=10, dropout=0.3),
)
