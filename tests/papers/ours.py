"""Our own recipes, which no paper publishes."""

from dataclasses import replace

from tests.papers.paper import (
    RESNETS,
    SMOOTHED,
    Images,
    Net,
    Paper,
    centre,
    cifar_net,
    half_cosine,
    szegedy,
    uniform,
)
from trainer.recipe import FineTuning, PaddedCrop, RandomResizedCrop

# timm's: each update is scaled as in arXiv:2502.16982, equation 4
MUON = {"momentum": 0.9, "nesterov": True, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 5, "conv_mode": "flatten"}

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

# our own: Muon, up to 0.03 in half an epoch and down to 0, in batches of 256; no decay
BUDGET = Paper(
    source="",
    named="arXiv:1512.03385",
    told="nobody has published a result",
    top1=None,
    dataset="CIFAR-10",
    images=50_000,
    classes=10,
    sees=Images(
        train_crop=PaddedCrop(resolution=32, padding=2, padding_mode="reflect"),
        eval_crop=centre(32, 32),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    batch=256,
    norm_batch=128,
    processes={1: 2, 2: 1, 8: "1, 2", 64: "1, 2"},
    epochs=10,
    steps=195,
    lr={0: 0.0, 39: 0.03 * 0.2 / 0.5, 195: 0.03 * 9 / 9.5, 975: 0.03 * 5 / 9.5, 1949: 0.03 / (9.5 * 195)},
    loss=SMOOTHED,
    optimizer="Muon",
    settings=MUON,
    groups=[(14 + 2 * 13 + 1, 0.0, 1.0)],
    net=cifar_net(2, width=2),
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

# our own: Muon, up to 0.02 in half an epoch and down to 0, in batches of 64; the stem is that of resnet50d_he2019
RESNET18D = Net(
    RESNETS[18].parameters - 513 * 990 - 49 * 3 * 64 + 9 * (3 * 32 + 32 * 32 + 32 * 64) + 4 * 32, 21 + 2, 20 + 2, 8
)
IMAGENETTE = Paper(
    source="",
    named="arXiv:1812.01187",
    told="87.43 % for 5 epochs at 128 px",
    top1=None,
    dataset="Imagenette",
    images=9_469,
    classes=10,
    sees=Images(
        train_crop=RandomResizedCrop(resolution=128, scale=(0.35, 1.0)),
        eval_crop=centre(128, 128 / 0.875),
    ),
    batch=64,
    norm_batch=64,
    processes={1: 1, 8: "1", 64: "1"},
    epochs=5,
    steps=147,
    lr={0: 0.0, 21: 0.02 * 21 / 73.5, 147: 0.02 * 4 / 4.5, 441: 0.02 * 2 / 4.5, 734: 0.02 / (4.5 * 147)},
    loss=SMOOTHED,
    optimizer="Muon",
    settings=MUON,
    groups=[(23 + 2 * 22 + 1, 0.0, 1.0)],
    net=RESNET18D,
    variant="d",
    gammas_zero=8,
    fc_std=uniform(512),
)

# our own: the same, up to 0.02 in one epoch; smaller crops, weight decay
IMAGENETTE_20 = replace(
    IMAGENETTE,
    told="91.57 % for 20 epochs at 128 px",
    sees=Images(train_crop=RandomResizedCrop(resolution=128, scale=(0.25, 1.0)), eval_crop=IMAGENETTE.sees.eval_crop),
    epochs=20,
    lr={0: 0.0, 21: 0.02 / 7, 147: 0.02, 441: 0.02 * 17 / 19, 2939: 0.02 / (19 * 147)},
    groups=[(23, 0.05, 1.0), (2 * 22 + 1, 0.0, 1.0)],
)

PAPERS = {
    "resnet50_finetune": FINETUNE,
    "resnet14x2_cifar10_10ep": BUDGET,
    "resnet18d_imagenette_5ep": IMAGENETTE,
    "resnet18d_imagenette_20ep": IMAGENETTE_20,
    "resnet20_digits": DIGITS,
}
