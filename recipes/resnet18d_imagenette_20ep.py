"""ResNet-18-D on Imagenette in 20 epochs at 128 px: `resnet18d_imagenette_5ep`, longer and with weight decay.

Our own recipe; nobody has published a result for it. The leaderboard of the data set (README of fastai/imagenette) has
91.57 % for 20 epochs at 128 px, with another network. Its rules are kept: random initial weights, no test-time
augmentation, and evaluation at the resolution of training. The network is that of He et al. 2019, arXiv:1812.01187,
section 4, and the optimizer Muon: the recipe for 5 epochs gives their sources. Longer trainings fit the images more
closely, so crops are smaller and weights decay. docs/results.md has what was tried.

    python -m trainer prepare folder SRC --write-mode raw --out data/imagenette
    python -m trainer train resnet18d_imagenette_20ep --data data/imagenette --run-dir runs/imagenette_20ep
"""

from trainer.recipe import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CenterCrop,
    CrossEntropy,
    LibraryOptimizer,
    Linear,
    RandomResizedCrop,
    Recipe,
    ResNet,
    Warmup,
)

recipe = Recipe(
    name="resnet18d_imagenette_20ep",
    dataset="Imagenette",
    published=None,
    model=ResNet(depth=18, variant="d", zero_init_residual=True),
    num_classes=10,
    train_crop=RandomResizedCrop(resolution=128, scale=(0.25, 1.0)),
    flip=True,
    eval_crop=CenterCrop(resolution=128, crop_ratio=0.875),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=LibraryOptimizer(
        name="timm/muon",
        lr=0.02,
        weight_decay=0.05,
        decay_norm=False,
        decay_bias=False,
        options={"momentum": 0.9, "nesterov": True},
    ),
    schedule=Linear(warmup=Warmup(epochs=1, lr=0.0)),
    epochs=20,
    global_batch_size=64,
    micro_batch_size=64,
    precision="bf16",
)
