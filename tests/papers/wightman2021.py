"""Wightman et al. 2021, "ResNet strikes back"; timm 224 px results of a1, a2, a3."""

from typing import NamedTuple

from tests.papers.paper import (
    FEATURES,
    RESNETS,
    Images,
    Paper,
    half_cosine,
    norms_and_biases_exempt,
    plateaus,
    szegedy,
    uniform,
)
from trainer.recipe import BinaryCrossEntropy, CenterCrop, Mixing, RandAugment

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


PAPERS = {
    f"resnet{depth}_wightman2021_{name}": wightman(depth, name, top1)
    for depth, results in STRIKES_BACK.items()
    for name, top1 in zip(("a1", "a2", "a3"), results, strict=True)
}
