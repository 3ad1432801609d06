"""ResNet-18-D on Imagenette in 20 epochs at 128 px: `resnet18d_imagenette_5ep`, longer and with weight decay.

Our own recipe; nobody has published a result for it. The leaderboard of the data set (README of fastai/imagenette) has
91.57 % for 20 epochs at 128 px, with another network. Its rules are kept: random initial weights, no test-time
augmentation, and evaluation at the resolution of training. The network is that of He et al. 2019, arXiv:1812.01187,
section 4, and the optimizer Muon: the recipe for 5 epochs gives their sources. Longer trainings fit the images more
closely, so crops are smaller and weights decay. docs/results.md has what was tried.

    python -m trainer prepare folder SRC --write-mode raw --out data/imagenette
    python -m trainer train resnet18d_imagenette_20ep --data data/imagenette --run-dir runs/imagenette_20ep
"""

from dataclasses import replace

from recipes.resnet18d_imagenette_5ep import recipe as base
from trainer.recipe import Linear, RandomResizedCrop, Warmup

recipe = replace(
    base,
    name="resnet18d_imagenette_20ep",
    train_crop=RandomResizedCrop(resolution=128, scale=(0.25, 1.0)),
    optimizer=replace(base.optimizer, weight_decay=0.05),
    schedule=Linear(warmup=Warmup(epochs=1, lr=0.0)),
    epochs=20,
)
