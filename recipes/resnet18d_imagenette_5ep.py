"""ResNet-18-D on Imagenette in 5 epochs at 128 px: ten classes of real photographs, in minutes on a CPU with bf16.

Our own recipe; nobody has published a result for it. The leaderboard of the data set (README of fastai/imagenette) has
87.43 % for 5 epochs at 128 px, the mean of 5 runs, with another network. Its rules are kept: random initial weights, no
test-time augmentation, and evaluation at the resolution of training. The evaluation leaves out the edge, as there: it
takes the common 224 of 256 px, fastai 128 of 152.

The network is that of He et al. 2019, arXiv:1812.01187, section 4, with blocks that start as their shortcut (Goyal et
al. 2017, section 5.1). Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes each update of a
convolution's weights orthogonal. timm's version has a rate in proportion to the root of the longer side (Liu et al.
2025, arXiv:2502.16982, section 2.2), and NAdamW for norms and biases. docs/results.md has what was tried.

    python -m trainer prepare folder SRC --write-mode raw --out data/imagenette
    python -m trainer train resnet18d_imagenette_5ep --data data/imagenette --run-dir runs/imagenette_5ep
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
    name="resnet18d_imagenette_5ep",
    dataset="Imagenette",
    published=None,
    model=ResNet(depth=18, variant="d", zero_init_residual=True),
    num_classes=10,
    train_crop=RandomResizedCrop(resolution=128, scale=(0.35, 1.0)),
    flip=True,
    eval_crop=CenterCrop(resolution=128, crop_ratio=0.875),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=LibraryOptimizer(
        name="timm/muon",
        lr=0.02,
        weight_decay=0.0,
        decay_norm=False,
        decay_bias=False,
        options={"momentum": 0.9, "nesterov": True},
    ),
    schedule=Linear(warmup=Warmup(epochs=0.5, lr=0.0)),
    epochs=5,
    global_batch_size=64,
    micro_batch_size=64,
    precision="bf16",
)
