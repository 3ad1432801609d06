"""WRN-28-10 on CIFAR-10: Zagoruyko and Komodakis 2016, "Wide Residual Networks", arXiv:1605.07146.

Published: 4.00 % test error, the median of 5 runs, without dropout (the README of the authors' repository).
From the authors' code: batch 128 on one GPU, 200 epochs of 390 batches, Nesterov momentum 0.9, weight decay 5e-4 on
every parameter, lr 0.1, x 0.2 at epochs 60, 120 and 160, 4 px of padding that reflect the image, random 32 x 32 crop,
flip, mean and deviation per channel. The code drops the rate as the epoch of that number begins, one earlier than here.
Unverified: that the runs are measured at their last epoch.
Not as in the paper: bf16, there fp32.

    python -m trainer prepare cifar10 SRC --out data/cifar10
    python -m trainer train wrn28x10_zagoruyko2016 --data data/cifar10 --run-dir runs/wrn28x10_zagoruyko2016
"""

from dataclasses import replace

from recipes.resnet20_he2015 import recipe as base
from trainer.recipe import SGD, PaddedCrop, Published, Steps, WideResNet

recipe = replace(
    base,
    name="wrn28x10_zagoruyko2016",
    published=Published(
        top1=96.00,
        runs=5,
        statistic=None,
        protocol="CIFAR-10 test, 32 px, median of the runs",
        source="Zagoruyko and Komodakis 2016, arXiv:1605.07146; szagoruyko/wide-residual-networks, README",
    ),
    model=WideResNet(depth=28, width=10),
    train_crop=PaddedCrop(resolution=32, padding=4, padding_mode="reflect"),
    optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=Steps(milestones=(60, 120, 160), factor=0.2),
    epochs=200,
    micro_batch_size=128,
)
