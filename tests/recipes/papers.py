"""What the source of each recipe says, and what follows from it by hand. Every figure here is the source's, not ours.

A family's function holds what its members share; the tables hold what they publish. Rates are written by optimizer
step, so that both ends of a plateau can be named. test_recipes.py compares the recipe files with this.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trainer.recipe import (
    BinaryCrossEntropy,
    CenterCrop,
    Color,
    CrossEntropy,
    FineTuning,
    Loss,
    Mixing,
    PaddedCrop,
    PcaLighting,
    ProgressiveResizing,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    ScaleJitterCrop,
    TrainCrop,
    TrivialAugmentWide,
)

IMAGENET_IMAGES = 1_281_167
CROSS_ENTROPY = CrossEntropy(label_smoothing=0.0)
SMOOTHED = CrossEntropy(label_smoothing=0.1)


class Net(NamedTuple):
    """An architecture in numbers."""

    parameters: int
    weights: int  # tensors: convolutions and the classifier
    norms: int  # each has gamma and beta
    blocks: int  # 0: there are no shortcuts


@dataclass(frozen=True, kw_only=True)
class Images:
    """What happens to an image before the model sees it."""

    train_crop: TrainCrop
    eval_crop: CenterCrop
    also_eval_crop: CenterCrop | None = None
    progressive: ProgressiveResizing | None = None
    flip: bool = True
    color: Color | None = None
    augmentation: TrivialAugmentWide | RandAugment | None = None
    erasing: RandomErasing | None = None
    mixing: Mixing | None = None
    repeats: int = 1
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What the source of a recipe says, and what follows from it by hand."""

    source: str  # words that the published result's source holds
    named: str | None = None  # words that the docstring holds instead of `source`
    told: str  # how the docstring states the result
    top1: float | None
    sd: float | None = None
    runs: int | None = 1  # that top1 is the mean of; None: not stated
    statistic: str | None = None  # which epochs a run's result is of; None: not stated
    comparable: bool = True
    protocol: tuple[str, ...] = ()  # words of the published result's protocol, besides the resolution
    doubts: tuple[str, ...] = ()  # words of the docstring on what is not verified, or not as in the source

    dataset: str = "ImageNet-1k"
    images: int = IMAGENET_IMAGES  # of the published training set
    classes: int = 1000
    sees: Images
    resolutions: Mapping[int, int] = field(default_factory=dict)  # of the training crops in an epoch, if not one

    batch: int
    norm_batch: int  # images that batch normalisation sees together
    micro_batch: int | None = None  # of one forward pass; None: norm_batch
    processes: Mapping[int, int | str]  # for a number of them: forward passes per step, or the counts that fit
    precise_norm_images: int | None = None
    epochs: int
    steps: int  # in an epoch
    lr: Mapping[int, float]  # at the start of a step

    loss: Loss = CROSS_ENTROPY
    optimizer: str = "SGD"
    settings: Mapping[str, Any]  # of each group of the optimizer
    groups: list[tuple[int, float, float]]  # number of tensors, their weight decay, their share of the rate
    ema: tuple[float, int, float] | None = None  # decay, steps from one update to the next, epoch it starts at
    fine_tuning: FineTuning | None = None

    net: Net
    gammas_zero: int = 0
    fc_std: float
    fc_bias: float | None = None  # None: PyTorch's default, uniform
    drop_path: float = 0.0
    blurs: tuple[int, int] = (0, 0)  # convolutions and poolings with a low-pass filter


# ---------------------------------------------------------------------------------------------------- architectures

# parameters: torchvision's weights metadata; bottlenecks have three convolutions, others two, each with a norm, and
# the stem one; shortcuts that change shape one: in three stages of basic blocks and in four of bottlenecks
RESNETS = {
    18: Net(11_689_512, 2 * 8 + 1 + 3 + 1, 2 * 8 + 1 + 3, 8),
    34: Net(21_797_672, 2 * 16 + 1 + 3 + 1, 2 * 16 + 1 + 3, 16),
    50: Net(25_557_032, 3 * 16 + 1 + 4 + 1, 3 * 16 + 1 + 4, 16),
    101: Net(44_549_160, 3 * 33 + 1 + 4 + 1, 3 * 33 + 1 + 4, 33),
    152: Net(60_192_808, 3 * 50 + 1 + 4 + 1, 3 * 50 + 1 + 4, 50),
}
FEATURES = {18: 512, 34: 512, 50: 2048, 101: 2048, 152: 2048}
PROJECTIONS = 64 * 128 + 128 * 256 + 256 * 512 + 2 * (128 + 256 + 512)  # of ResNet-18 and -34, with their norms


def plain(depth: int) -> Net:
    """ResNet-18 or -34 without its shortcuts."""
    net = RESNETS[depth]
    return Net(net.parameters - PROJECTIONS, net.weights - 3, net.norms - 3, 0)


def cifar_net(n: int, *, width: int = 1, residual: bool = True) -> Net:
    """He et al. 2015, section 4.2: 6n + 1 convolutions of 16, 32 and 64 channels, each with a norm; 10 classes."""
    first, second, third = 16 * width, 32 * width, 64 * width
    convolutions = 9 * first * (3 + 2 * n * first)
    convolutions += 9 * second * (first + (2 * n - 1) * second) + 9 * third * (second + (2 * n - 1) * third)
    norms = 2 * (first * (2 * n + 1) + second * 2 * n + third * 2 * n)
    return Net(convolutions + norms + (third + 1) * 10, 6 * n + 2, 6 * n + 1, 3 * n if residual else 0)


def uniform(inputs: int) -> float:
    """Deviation of PyTorch's classifier: uniform in +-1 / sqrt(inputs)."""
    return 1 / math.sqrt(3 * inputs)


def all_decayed(net: Net, decay: float) -> list[tuple[int, float, float]]:
    return [(net.weights + 1 + 2 * net.norms, decay, 1.0)]


def norms_exempt(net: Net, decay: float) -> list[tuple[int, float, float]]:
    return [(net.weights + 1, decay, 1.0), (2 * net.norms, 0.0, 1.0)]


def norms_and_biases_exempt(net: Net, decay: float) -> list[tuple[int, float, float]]:
    return [(net.weights, decay, 1.0), (2 * net.norms + 1, 0.0, 1.0)]


# ------------------------------------------------------------------------------------------------------ rates, crops


def drops(steps: int, epochs: int, rates: Mapping[int, float]) -> dict[int, float]:
    """Each rate holds from the first step of its epoch until the step before the next rate's."""
    ends = [*list(rates)[1:], epochs]
    return {
        step: lr
        for (epoch, lr), end in zip(rates.items(), ends, strict=True)
        for step in (epoch * steps, end * steps - 1)
    }


def plateaus(steps: int, rates: Mapping[int, float]) -> dict[int, float]:
    """Each rate holds from the first to the last step of its epoch."""
    return {step: lr for epoch, lr in rates.items() for step in (epoch * steps, (epoch + 1) * steps - 1)}


def half_cosine(peak: float, share: float, last: float = 0.0) -> float:
    return last + (peak - last) * (1 + math.cos(math.pi * share)) / 2


def szegedy(resolution: int) -> RandomResizedCrop:
    """8 % to 100 % of the area, 3:4 to 4:3."""
    return RandomResizedCrop(resolution=resolution, scale=(0.08, 1.0), ratio=(0.75, 4 / 3))


def centre(resolution: int, short_side: float) -> CenterCrop:
    return CenterCrop(resolution=resolution, crop_ratio=resolution / short_side, flip_tta=False)


EIGHT_OF_EIGHT: Mapping[int, int | str] = {1: 8, 8: 1, 64: "1, 2, 4, 8"}

# -------------------------------------------------------------- He et al. 2015, ImageNet: section 3.4, authors' page


def he_imagenet(depth: int, net: Net, top1: float, told: str, *, ten_crops: bool) -> Paper:
    return Paper(
        source="Table 2" if ten_crops else "KaimingHe/deep-residual-networks",
        named="arXiv:1512.03385",
        told=told,
        top1=top1,
        comparable=not ten_crops,
        protocol=("mean of 10 crops",) if ten_crops else ("centre crop of short side 256",),
        doubts=("unverified",) if depth != 50 else ("Unverified", "usual reading", "1x1 has it"),
        sees=Images(
            train_crop=ScaleJitterCrop(resolution=224, short_side=(256, 480)),
            color=PcaLighting(std=0.1),
            eval_crop=centre(224, 256),
        ),
        batch=256,
        norm_batch=32,
        processes=EIGHT_OF_EIGHT,
        precise_norm_images=16_384,
        epochs=120,
        steps=5004,
        lr=drops(5004, 120, {0: 0.1, 30: 0.01, 60: 0.001, 90: 0.0001}),
        settings={"momentum": 0.9, "nesterov": False},
        groups=all_decayed(net, 1e-4),
        net=net,
        fc_std=uniform(FEATURES[depth]),
    )


HE_IMAGENET = {
    "resnet18_he2015": he_imagenet(18, RESNETS[18], 100 - 27.88, "27.88 % top-1 error", ten_crops=True),
    "resnet34_he2015": he_imagenet(34, RESNETS[34], 100 - 25.03, "25.03 % top-1 error", ten_crops=True),
    "plain18_he2015": he_imagenet(18, plain(18), 100 - 27.94, "27.94 % top-1 error", ten_crops=True),
    "plain34_he2015": he_imagenet(34, plain(34), 100 - 28.54, "28.54 % top-1 error", ten_crops=True),
    "resnet50_he2015": he_imagenet(50, RESNETS[50], 100 - 24.7, "24.7 % top-1 error", ten_crops=False),
    "resnet101_he2015": he_imagenet(101, RESNETS[101], 100 - 23.6, "23.6 % top-1 error", ten_crops=False),
    "resnet152_he2015": he_imagenet(152, RESNETS[152], 100 - 23.0, "23.0 % top-1 error", ten_crops=False),
}

# ------------------------------------------- He et al. 2015, CIFAR-10: section 4.2, Table 6; 64k iterations, two GPUs

CIFAR_DROPS = {0: 0.1, 31_979: 0.1, 31_980: 0.01, 47_969: 0.01, 47_970: 0.001, 63_959: 0.001}
CIFAR_WARMUP = {0: 0.01, 399: 0.01, 400: 0.1} | {step: lr for step, lr in CIFAR_DROPS.items() if step}


def he_cifar(
    n: int, error: float | None, told: str, *, sd: float | None = None, residual: bool = True, warmup: bool = False
) -> Paper:
    net = cifar_net(n, residual=residual)
    return Paper(
        source="Table 6",
        named="arXiv:1512.03385",
        told=told,
        top1=None if error is None else 100 - error,
        sd=sd,
        runs=5 if sd else 1,
        statistic="final",
        protocol=("CIFAR-10 test",),
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
        epochs=164,
        steps=390,
        lr=CIFAR_WARMUP if warmup else CIFAR_DROPS,
        settings={"momentum": 0.9, "nesterov": False},
        groups=all_decayed(net, 1e-4),
        net=net,
        fc_std=uniform(64),
    )


HE_CIFAR = {
    "resnet20_he2015": he_cifar(3, 8.75, "8.75 % test error"),
    "resnet32_he2015": he_cifar(5, 7.51, "7.51 % test error"),
    "resnet44_he2015": he_cifar(7, 7.17, "7.17 % test error"),
    "resnet56_he2015": he_cifar(9, 6.97, "6.97 % test error"),
    "resnet110_he2015": he_cifar(18, 6.61, "6.61 +- 0.16 % test error", sd=0.16, warmup=True),
    "resnet1202_he2015": he_cifar(200, 7.93, "7.93 % test error", warmup=True),
    "plain20_he2015": he_cifar(3, None, "only curves (Figure 6), no number", residual=False),
    "plain56_he2015": he_cifar(9, None, "only curves (Figure 6), no number", residual=False),
}

# -------------------------------- Goyal et al. 2017, Tables 1 and 2, sections 2 and 5.1: eta = 0.1 * kn / 256, n = 32

GRADUAL = {0: 0.1, 1: 0.1 + 3.1 / 780, 156: 0.72, 2 * 156: 1.34, 3 * 156: 1.96, 4 * 156: 2.58}  # 3.1 more in 780 steps
CONSTANT = {0: 0.1, 156: 0.1, 5 * 156 - 1: 0.1}
GOYAL_DROPS = {5: 3.2, 30: 0.32, 60: 0.032, 80: 0.0032}


def goyal(
    error: float, sd: float, told: str, *, depth: int = 50, zeros: int = 16, lr: Mapping[int, float], **others: Any
) -> Paper:
    values: dict[str, Any] = {
        "batch": 8192,
        "micro_batch": 128,
        "processes": {1: 64, 8: 8, 64: 1, 48: "1, 2, 4, 8, 16, 32, 64"},
        "steps": 156,
    }
    return Paper(
        source="arXiv:1706.02677",
        told=told,
        top1=100 - error,
        sd=sd,
        runs=5,
        statistic="median of the last 5",
        protocol=("centre crop of short side 256",),
        sees=Images(train_crop=szegedy(224), eval_crop=centre(224, 256)),
        norm_batch=32,
        epochs=90,
        lr=lr,
        settings={"momentum": 0.9, "nesterov": True},
        groups=norms_exempt(RESNETS[depth], 1e-4),
        net=RESNETS[depth],
        gammas_zero=zeros,
        fc_std=0.01,
        fc_bias=0.0,
        **(values | others),
    )


GOYAL = {
    "resnet50_goyal2017": goyal(
        23.60,
        0.12,
        "23.60 +- 0.12 % top-1 error",
        lr=drops(5004, 90, {0: 0.1, 30: 0.01, 60: 0.001, 80: 0.0001}),
        batch=256,
        micro_batch=32,
        processes=EIGHT_OF_EIGHT,
        steps=5004,
    ),
    "resnet50_goyal2017_8k": goyal(
        23.74, 0.09, "23.74 +- 0.09 % top-1 error", lr=GRADUAL | drops(156, 90, GOYAL_DROPS)
    ),
    "resnet50_goyal2017_8k_no_warmup": goyal(
        24.84,
        0.37,
        "24.84 +- 0.37 % top-1 error",
        lr=drops(156, 90, {0: 3.2, 30: 0.32, 60: 0.032, 80: 0.0032}),
        doubts=("from memory",),
    ),
    "resnet50_goyal2017_8k_constant_warmup": goyal(
        25.88,
        0.56,
        "25.88 +- 0.56 % top-1 error",
        lr=CONSTANT | drops(156, 90, GOYAL_DROPS),
        doubts=("Unverified", "our reading"),
    ),
    "resnet50_goyal2017_8k_gamma1": goyal(
        24.11,
        0.07,
        "24.11 +- 0.07 % top-1 error",
        zeros=0,
        lr=GRADUAL | drops(156, 90, GOYAL_DROPS),
        doubts=("from memory",),
    ),
    "resnet101_goyal2017_8k": goyal(
        22.36,
        0.09,
        "22.36 +- 0.09 % top-1 error",
        depth=101,
        zeros=33,
        lr=GRADUAL | drops(156, 90, GOYAL_DROPS),
        doubts=("from memory",),
    ),
}

# ---------------------------------------------------- torchvision: references/classification, metadata of its weights


def torchvision_v1(depth: int, top1: float) -> Paper:
    """8 GPUs x 32, lr 0.1, a tenth of it every 30 epochs."""
    return Paper(
        source=f"ResNet{depth}_Weights.IMAGENET1K_V1",
        named="weights metadata",
        told=f"{top1:.3f} % top-1",
        top1=top1,
        protocol=("centre crop of short side 256",),
        doubts=("unverified",) if depth != 50 else ("Unverified",),
        sees=Images(train_crop=szegedy(224), eval_crop=centre(224, 256)),
        batch=256,
        norm_batch=32,
        processes=EIGHT_OF_EIGHT,
        epochs=90,
        steps=5004,
        lr=drops(5004, 90, {0: 0.1, 30: 0.01, 60: 0.001}),
        settings={"momentum": 0.9, "nesterov": False},
        groups=all_decayed(RESNETS[depth], 1e-4),
        net=RESNETS[depth],
        fc_std=uniform(FEATURES[depth]),
    )


def torchvision_v2(depth: int, top1: float, repeats: int) -> Paper:
    """8 GPUs x 128; the linear warmup is LinearLR(start_factor=0.01), the cosine has T_max = 595."""
    cosine = {epoch: half_cosine(0.5, (epoch - 5) / 595) for epoch in (5, 100, 302, 599)}
    return Paper(
        source=f"ResNet{depth}_Weights.IMAGENET1K_V2",
        named="weights metadata",
        told=f"{top1:.3f} % top-1",
        top1=top1,
        protocol=("centre crop of short side 232", "averaged weights"),
        doubts=("Unverified", "copies of"),
        sees=Images(
            train_crop=szegedy(176),
            eval_crop=centre(224, 232),
            augmentation=TrivialAugmentWide(),
            erasing=RandomErasing(probability=0.1, scale=(0.02, 0.33), ratio=(0.3, 3.3)),
            mixing=Mixing(mixup_alpha=0.2, cutmix_alpha=1.0, cutmix_probability=0.5, probability=1.0),
            repeats=repeats,
        ),
        batch=1024,
        norm_batch=128,
        processes=EIGHT_OF_EIGHT,
        epochs=600,
        steps=1251,
        lr=plateaus(1251, {0: 0.005, 1: 0.104, 2: 0.203, 3: 0.302, 4: 0.401} | cosine),
        loss=SMOOTHED,
        settings={"momentum": 0.9, "nesterov": False},
        groups=norms_exempt(RESNETS[depth], 2e-5),
        ema=(0.998907733, 32, 5),  # 0.99998 ** (8 * 128 * 32 / 600), in its first order
        net=RESNETS[depth],
        fc_std=uniform(FEATURES[depth]),
    )


TORCHVISION = {
    "resnet18_torchvision_v1": torchvision_v1(18, 69.758),
    "resnet34_torchvision_v1": torchvision_v1(34, 73.314),
    "resnet50_torchvision_v1": torchvision_v1(50, 76.130),
    "resnet101_torchvision_v1": torchvision_v1(101, 77.374),
    "resnet152_torchvision_v1": torchvision_v1(152, 78.312),
    "resnet50_torchvision_v2": torchvision_v2(50, 80.858, repeats=4),
    "resnet101_torchvision_v2": torchvision_v2(101, 81.886, repeats=1),
    "resnet152_torchvision_v2": torchvision_v2(152, 82.284, repeats=1),
}

# -------------------------------------- Wightman et al. 2021, "ResNet strikes back"; timm 224 px results of a1, a2, a3

STRIKES_BACK = {
    18: (71.504, 70.634, 68.250),
    34: (76.420, 75.520, 72.996),
    50: (80.382, 79.828, 78.052),
    101: (81.494, 81.344, 79.836),
    152: (81.998, 81.764, 80.548),
}


class Procedure(NamedTuple):
    """A column of the paper's table of procedures."""

    epochs: int
    resolution: int
    lr: float
    weight_decay: float
    label_smoothing: float
    target_threshold: float | None
    drop_path: float
    repeats: int
    magnitude: float
    mixup: float


PROCEDURES = {
    "a1": Procedure(600, 224, 5e-3, 0.01, 0.1, None, 0.05, 3, 7.0, 0.2),
    "a2": Procedure(300, 224, 5e-3, 0.02, 0.0, 0.2, 0.05, 3, 7.0, 0.1),
    "a3": Procedure(100, 160, 8e-3, 0.02, 0.0, 0.2, 0.0, 1, 6.0, 0.1),
}


def wightman(depth: int, name: str, top1: float) -> Paper:
    row, net = PROCEDURES[name], RESNETS[depth]
    # timm's: the cosine counts from epoch 0, the warmup covers its first 5 epochs
    warmup = {0: 1e-4, 1: 0.00108, 2: 0.00206, 3: 0.00304, 4: 0.00402}
    if name == "a3":
        warmup = {0: 1e-4, 1: 0.00168, 2: 0.00326, 3: 0.00484, 4: 0.00642}
    epochs = (5, row.epochs // 4, row.epochs // 2, row.epochs - 1)
    cosine = {epoch: half_cosine(row.lr, epoch / row.epochs, 1e-6) for epoch in epochs}
    return Paper(
        source=f"timm, resnet{depth}.{name}_in1k",
        named="arXiv:2110.00476",
        told=f"{top1:.3f} % top-1",
        top1=top1,
        protocol=("ratio 0.95",),
        doubts=("Unverified", "reproductions" if depth == 50 else "of this depth"),
        sees=Images(
            train_crop=szegedy(row.resolution),
            eval_crop=CenterCrop(resolution=224, crop_ratio=0.95, flip_tta=False),
            augmentation=RandAugment(operations=2, magnitude=row.magnitude, magnitude_std=0.5, probability=0.5),
            mixing=Mixing(mixup_alpha=row.mixup, cutmix_alpha=1.0, cutmix_probability=0.5, probability=1.0),
            repeats=row.repeats,
        ),
        batch=2048,
        norm_batch=512,
        processes={1: 4, 4: 1, 8: "1, 2, 4", 64: "1, 2, 4"},
        epochs=row.epochs,
        steps=625,
        lr=plateaus(625, warmup | cosine),
        loss=BinaryCrossEntropy(
            label_smoothing=row.label_smoothing, target_threshold=row.target_threshold, over_classes="mean"
        ),
        optimizer="Lamb",
        settings={"betas": (0.9, 0.999), "eps": 1e-6, "max_grad_norm": 1.0, "bias_correction": True},
        groups=norms_and_biases_exempt(net, row.weight_decay),
        net=net,
        gammas_zero=net.blocks,
        fc_std=uniform(FEATURES[depth]),
        drop_path=row.drop_path,
    )


WIGHTMAN = {
    f"resnet{depth}_wightman2021_{name}": wightman(depth, name, top1)
    for depth, results in STRIKES_BACK.items()
    for name, top1 in zip(("a1", "a2", "a3"), results, strict=True)
}

# ------------------------------------------- Leclerc et al. 2023, FFCV: configurations and result file of its trainer

# epochs: (ramp of the resolution, first epoch of 192 px, top-1 of ResNet-18, of ResNet-50)
LECLERC_TABLE = {
    16: ((11, 13), 12, 66.9, 73.76),
    24: ((17, 20), 19, 68.8, 75.56),
    32: ((23, 27), 25, 70.0, 76.59),
    40: ((29, 34), 32, 70.6, 77.24),
    56: ((41, 48), 45, 71.3, 78.02),
    88: ((65, 76), 71, 72.4, 78.43),
}


def leclerc(depth: int, epochs: int) -> Paper:
    (start, end), first, *results = LECLERC_TABLE[epochs]
    top1 = results[depth == 50]
    # ResNet-18: one GPU x 1024, ResNet-50: 8 x 512
    batch, norm_batch, steps, lr, decay = (1024, 1024, 1251, 0.5, 5e-5) if depth == 18 else (4096, 512, 312, 1.7, 1e-4)
    return Paper(
        source=f"libffcv/ffcv-imagenet, rn{depth}, {epochs} epochs",
        named="arXiv:2306.12517",
        told=f"{top1} % top-1" if top1 != 70 else "70.0 % top-1",
        top1=top1,
        statistic="final",
        protocol=("mirror image", "224/256"),
        doubts=("Not as there", "the shortcuts'", "fp16"),
        sees=Images(
            train_crop=szegedy(192),
            eval_crop=CenterCrop(resolution=256, crop_ratio=0.875, flip_tta=True),
            also_eval_crop=centre(224, 256),
            progressive=ProgressiveResizing(start_resolution=160, start_epoch=start, end_epoch=end, multiple=32),
        ),
        resolutions={0: 160, start: 160, first - 1: 160, first: 192, end: 192, epochs - 1: 192},
        batch=batch,
        norm_batch=norm_batch,
        processes={1: 1, 8: "1", 64: "1"} if depth == 18 else EIGHT_OF_EIGHT,
        epochs=epochs,
        steps=steps,
        lr={
            0: 1e-4 * lr,
            steps: (1e-4 * lr + lr) / 2,
            2 * steps: lr,
            (2 + epochs) // 2 * steps: lr / 2,
            epochs * steps - 1: lr / ((epochs - 2) * steps),
        },
        loss=SMOOTHED,
        settings={"momentum": 0.9, "nesterov": False},
        groups=norms_exempt(RESNETS[depth], decay),
        net=RESNETS[depth],
        fc_std=uniform(FEATURES[depth]),
        blurs=(6, 0),
    )


LECLERC = {
    f"resnet{depth}_leclerc2023_{epochs}ep": leclerc(depth, epochs) for depth in (18, 50) for epochs in LECLERC_TABLE
}

# ------------------------------------------------------------------------------------------------------------ others

# DeepLearningExamples, resnet50v1.5: lr 0.256 per 256, decay 1/32768, which is 3.0517578125e-5
NVIDIA = Paper(
    source="NVIDIA DeepLearningExamples",
    named="NVIDIA",
    told="77.12 +- 0.11 % top-1",
    top1=77.12,
    sd=0.11,
    runs=None,
    protocol=("centre crop of short side 256",),
    doubts=("the shortcuts'", "for inputs"),
    sees=Images(train_crop=szegedy(224), eval_crop=centre(224, 256)),
    batch=2048,
    norm_batch=256,
    processes=EIGHT_OF_EIGHT,
    epochs=90,
    steps=625,
    lr=plateaus(
        625,
        {epoch: 0.256 * (epoch + 1) for epoch in range(8)}
        | {epoch: half_cosine(2.048, (epoch - 8) / 82) for epoch in (8, 9, 49, 89)},
    ),
    loss=SMOOTHED,
    settings={"momentum": 0.875, "nesterov": False},
    groups=norms_exempt(RESNETS[50], 3.0517578125e-5),
    net=RESNETS[50],
    fc_std=uniform(2048),
)

# pycls' configuration of its R-50: lr 0.2, cosine per epoch, Nesterov, 5e-5 on everything
PYCLS = Paper(
    source="arXiv:1905.13214",
    told="76.81 % top-1",
    top1=76.81,
    runs=5,
    protocol=("centre crop of short side 256",),
    doubts=("Unverified: sources conflict on warmup",),
    sees=Images(train_crop=szegedy(224), color=PcaLighting(std=0.1), eval_crop=centre(224, 256)),
    batch=256,
    norm_batch=32,
    processes=EIGHT_OF_EIGHT,
    epochs=100,
    steps=5004,
    lr=plateaus(5004, {epoch: half_cosine(0.2, epoch / 100) for epoch in (0, 1, 25, 50, 99)} | {0: 0.2, 50: 0.1}),
    settings={"momentum": 0.9, "nesterov": True},
    groups=all_decayed(RESNETS[50], 5e-5),
    net=RESNETS[50],
    fc_std=0.01,
    fc_bias=0.0,
)

# mosaicml/examples, mild: decay 5e-4 relative to the peak rate, so 5e-4 / 2.048 as it is multiplied by the rate
MOSAIC = Paper(
    source="mosaicml",
    told="nothing for exactly these 36 epochs",
    top1=None,
    doubts=("28.8 epochs", "76.19 %", "75.9 %", "uniform in 0 to 1", "nearest neighbours"),
    sees=Images(
        train_crop=szegedy(176),
        eval_crop=centre(224, 232),
        progressive=ProgressiveResizing(start_resolution=88, start_epoch=14.4, end_epoch=28.8, multiple=4),
    ),
    resolutions={0: 88, 14: 88, 15: 92, 21: 128, 28: 172, 29: 176, 35: 176},
    batch=2048,
    norm_batch=256,
    processes=EIGHT_OF_EIGHT,
    epochs=36,
    steps=625,
    lr={
        0: 0.0,
        1: 2.048 / 5000,
        4 * 625: 1.024,
        8 * 625: 2.048,
        22 * 625: 1.024,
        35 * 625: half_cosine(2.048, 27 / 28),
    },
    loss=BinaryCrossEntropy(label_smoothing=0.08, target_threshold=None, over_classes="sum"),
    optimizer="SGDW",
    settings={"momentum": 0.875, "nesterov": False},
    groups=all_decayed(RESNETS[50], 5e-4 / 2.048),
    ema=(0.870551, 20, 0),  # 2 ** (-20 / 100): a half-life of 100 steps
    net=RESNETS[50],
    fc_std=math.sqrt(2 / 2048),
    fc_bias=-math.log(1000),
    blurs=(6, 1),
)

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
        train_crop=PaddedCrop(resolution=32, padding=4, fill=(0, 0, 0)),
        eval_crop=centre(32, 32),
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
    net=RESNETS[50]._replace(parameters=25_557_032 - 2049 * 1000 + 2049 * 37),
    fc_std=uniform(2048),
)

PAPERS: dict[str, Paper] = {
    **HE_IMAGENET,
    **HE_CIFAR,
    **GOYAL,
    **TORCHVISION,
    **WIGHTMAN,
    **LECLERC,
    "resnet50_mosaic2022_mild": MOSAIC,
    "resnet50_nvidia_90ep": NVIDIA,
    "resnet50_radosavovic2019": PYCLS,
    "resnet50_finetune": FINETUNE,
    "resnet14x2_cifar10_10ep": BUDGET,
    "resnet20_digits": DIGITS,
}
