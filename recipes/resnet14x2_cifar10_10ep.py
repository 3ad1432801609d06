"""A ResNet-14 of twice the width on CIFAR-10 in 10 epochs: for the impatient, a sixteenth of He et al.'s training.

Our own recipe; nobody has published a result for it. Its blocks are those of He et al. 2015, arXiv:1512.03385,
section 4.2, with the channels doubled as in Zagoruyko and Komodakis 2016, arXiv:1605.07146: fewer and wider layers use
the machine better. What short training wants: Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) as
timm implements it, one rise and one fall of the rate (Smith and Topin 2017, arXiv:1708.07120), label smoothing, and
shifts of 2 px only (Jordan 2024, arXiv:2404.00498). Evaluated at 32 px, one view. docs/results.md has what was tried.

    python -m trainer prepare cifar10 SRC --out data/cifar10
    python -m trainer train resnet14x2_cifar10_10ep --data data/cifar10 --run-dir runs/cifar10_10ep
"""

from trainer.recipe import CenterCrop, CifarResNet, CrossEntropy, LibraryOptimizer, Linear, PaddedCrop, Recipe, Warmup

recipe = Recipe(
    name="resnet14x2_cifar10_10ep",
    dataset="CIFAR-10",
    published=None,
    model=CifarResNet(depth=14, width=2),
    num_classes=10,
    train_crop=PaddedCrop(resolution=32, padding=2, padding_mode="reflect"),
    flip=True,
    eval_crop=CenterCrop(resolution=32, crop_ratio=1.0),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=LibraryOptimizer(
        name="timm/muon",
        lr=0.03,
        weight_decay=0.0,
        decay_norm=False,
        decay_bias=False,
        options={"momentum": 0.9, "nesterov": True},
    ),
    schedule=Linear(warmup=Warmup(epochs=0.5, lr=0.0)),
    epochs=10,
    global_batch_size=256,
    micro_batch_size=128,
    precision="bf16",
)
