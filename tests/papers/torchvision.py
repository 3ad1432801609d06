"""torchvision: references/classification, metadata of its weights."""

from dataclasses import replace
from typing import Any

from tests.papers.paper import (
    EIGHT_OF_EIGHT,
    FEATURES,
    RESNETS,
    SMOOTHED,
    Images,
    Net,
    Paper,
    all_decayed,
    centre,
    drops,
    half_cosine,
    norms_exempt,
    plateaus,
    szegedy,
    uniform,
)
from trainer.recipe import Mixing, RandomErasing, TrivialAugmentWide

# its relatives, parameters from the weights metadata: the tensors of ResNet-50, in other shapes
RESNEXT50, WIDE50 = RESNETS[50]._replace(parameters=25_028_904), RESNETS[50]._replace(parameters=68_883_240)


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


def torchvision_v2(depth: int, top1: float, repeats: int, resolution: int) -> Paper:
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
            train_crop=szegedy(resolution),
            eval_crop=centre(224, 232),
            augmentation=TrivialAugmentWide(interpolation="bilinear"),
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


def relative_v1(net: Net, weights: str, top1: float, **others: Any) -> Paper:
    """As ResNet-50's, but for what is stated."""
    base = torchvision_v1(50, top1)
    source = f"{weights}_Weights.IMAGENET1K_V1"
    return replace(base, source=source, net=net, groups=all_decayed(net, 1e-4), **others)


def relative_v2(net: Net, weights: str, top1: float, resolution: int) -> Paper:
    base = torchvision_v2(50, top1, repeats=1, resolution=resolution)
    return replace(
        base,
        source=f"{weights}_Weights.IMAGENET1K_V2",
        net=net,
        groups=norms_exempt(net, 2e-5),
    )


PAPERS = {
    # README of the references: 100 epochs, so that the rate drops once more
    "resnext50_torchvision_v1": relative_v1(
        RESNEXT50,
        "ResNeXt50_32X4D",
        77.618,
        doubts=(),
        epochs=100,
        lr=drops(5004, 100, {0: 0.1, 30: 0.01, 60: 0.001, 90: 0.0001}),
    ),
    "resnext50_torchvision_v2": relative_v2(RESNEXT50, "ResNeXt50_32X4D", 81.198, 224),
    # pull request 912: 256 epochs of a cosine, with restarts that are not stated
    "wideresnet50_torchvision_v1": relative_v1(
        WIDE50,
        "Wide_ResNet50_2",
        78.468,
        doubts=("Unverified", "without restarts"),
        epochs=256,
        lr=plateaus(5004, {epoch: half_cosine(0.1, epoch / 256) for epoch in (0, 64, 128, 192, 255)}),
    ),
    "wideresnet50_torchvision_v2": relative_v2(WIDE50, "Wide_ResNet50_2", 81.602, 176),
    "resnet18_torchvision_v1": torchvision_v1(18, 69.758),
    "resnet34_torchvision_v1": torchvision_v1(34, 73.314),
    "resnet50_torchvision_v1": torchvision_v1(50, 76.130),
    "resnet101_torchvision_v1": torchvision_v1(101, 77.374),
    "resnet152_torchvision_v1": torchvision_v1(152, 78.312),
    "resnet50_torchvision_v2": torchvision_v2(50, 80.858, repeats=4, resolution=176),
    "resnet101_torchvision_v2": torchvision_v2(101, 81.886, repeats=1, resolution=224),
    "resnet152_torchvision_v2": torchvision_v2(152, 82.284, repeats=1, resolution=224),
}
