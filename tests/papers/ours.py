"""Our own recipes, which no paper publishes."""

from tests.papers.paper import (
    RESNETS,
    SMOOTHED,
    Images,
    Paper,
    centre,
    cifar_net,
    half_cosine,
    norms_and_biases_exempt,
    szegedy,
    uniform,
)
from trainer.recipe import FineTuning, PaddedCrop

# our own: half a cosine from 0.1 after two epochs of warmup from 0.01
DIGITS = Paper(
    source="",
    named="arXiv:1512.03385",
    told="nobody has published a result",
    top1=None,
    dataset="digits (scikit-learn)",
    images=1_437,
    classes=10,
    sees=Images(
        train_crop=PaddedCrop(resolution=16, padding=2, fill=(0, 0, 0)),
        eval_crop=centre(16, 16),
        flip=False,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    batch=96,
    norm_batch=48,
    processes={1: 2, 2: 1, 8: "1, 2", 64: "1, 2"},
    epochs=20,
    steps=14,
    lr={0: 0.01, 14: 0.055, 28: 0.1, 154: 0.05, 279: half_cosine(0.1, 251 / 252)},
    settings={"momentum": 0.9, "nesterov": True},
    groups=[(19 + 2, 5e-4, 1.0), (38, 0.0, 1.0)],
    precision="fp32",
    net=cifar_net(3),
    fc_std=uniform(64),
)

# our own: a straight line up to 0.2 in 3 epochs and one down to 0; decay on weights alone; blocks start silent
BUDGET = Paper(
    source="",
    named="arXiv:1512.03385",
    told="nobody has published a result",
    top1=None,
    dataset="CIFAR-10",
    images=50_000,
    classes=10,
    sees=Images(
        train_crop=PaddedCrop(resolution=32, padding=4, fill=(125, 123, 114)),
        eval_crop=centre(32, 32),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    batch=128,
    norm_batch=64,
    processes={1: 2, 2: 1, 8: "1, 2", 64: "1, 2"},
    epochs=10,
    steps=390,
    lr={0: 0.02, 390: 0.11, 780: 0.2, 2340: 0.1, 3899: 0.2 / (8 * 390)},
    loss=SMOOTHED,
    settings={"momentum": 0.9, "nesterov": True},
    groups=norms_and_biases_exempt(cifar_net(2, width=2), 5e-4),
    net=cifar_net(2, width=2),
    gammas_zero=6,
    fc_std=uniform(128),
)

# our own; Oxford-IIIT Pet, the example, has 3,680 images of 37 classes; the backbone learns at a tenth of the rate
FINETUNE = Paper(
    source="",
    named="arXiv:2002.11770",
    told="nobody has published a result",
    top1=None,
    doubts=("from memory", "--model.no-pretrained", "--fine-tuning.backbone-lr", "--fine-tuning.freeze-norms"),
    dataset="any folder of classes",
    images=3_680,
    classes=37,
    sees=Images(train_crop=szegedy(224), eval_crop=centre(224, 256)),
    batch=64,
    norm_batch=64,
    processes={1: 1, 8: "1", 64: "1"},
    epochs=30,
    steps=57,
    lr={0: 0.001, 19: 0.004, 57: 0.01, 58: half_cosine(0.01, 1 / (29 * 57))}
    | {epoch * 57: half_cosine(0.01, (epoch - 1) / 29) for epoch in (8, 15, 29)},
    settings={"momentum": 0.9, "nesterov": True},
    groups=[(53 + 106, 1e-4, 0.1), (2, 1e-4, 1.0)],
    fine_tuning=FineTuning(backbone_lr=0.1, freeze_norms=False),
    library="torchvision/resnet50",
    net=RESNETS[50]._replace(parameters=25_557_032 - 2049 * 1000 + 2049 * 37),
    fc_std=uniform(2048),
)

PAPERS = {"resnet50_finetune": FINETUNE, "resnet14x2_cifar10_10ep": BUDGET, "resnet20_digits": DIGITS}
