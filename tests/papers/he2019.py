"""He et al. 2019, "Bag of Tricks", Tables 4 to 6: sections 2, 3.1, 4 and 5; 8 GPUs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.papers.paper import (
    EIGHT_OF_EIGHT,
    RESNETS,
    SMOOTHED,
    Images,
    Net,
    Paper,
    all_decayed,
    centre,
    drops,
    half_cosine,
    norms_and_biases_exempt,
    szegedy,
    uniform,
)
from trainer.recipe import ColorJitter, Distillation, Mixing, ResNet

# two convolutions with norms more in the stem; parameters: 3x3 of 3-32-32-64 in place of 7x7 of 3-64
RESNET50D = Net(RESNETS[50].parameters - 49 * 3 * 64 + 9 * (3 * 32 + 32 * 32 + 32 * 64) + 4 * 32, 54 + 2, 53 + 2, 16)
SEES = Images(train_crop=szegedy(224), eval_crop=centre(224, 256), color=ColorJitter(brightness=0.4, saturation=0.4))
BASELINE = Paper(
    source="arXiv:1812.01187, Table 4",
    named="arXiv:1812.01187",
    told="75.87 % top-1",
    top1=75.87,
    runs=None,
    protocol=("centre crop of short side 256",),
    doubts=("from memory", "PCA noise", "Xavier", "differs from the paper's text"),
    sees=SEES,
    batch=256,
    norm_batch=32,
    processes=EIGHT_OF_EIGHT,
    epochs=120,
    steps=5004,
    lr=drops(5004, 120, {0: 0.1, 30: 0.01, 60: 0.001, 90: 0.0001}),
    settings={"momentum": 0.9, "nesterov": True},
    groups=all_decayed(RESNETS[50], 1e-4),
    net=RESNETS[50],
    variant="a",
    fc_std=uniform(2048),
)
STEPS = 1251  # of 1024 images
FROM_ZERO = {0: 0.0, STEPS: 0.08, 5 * STEPS // 2: 0.2 * (5 * STEPS // 2) / (5 * STEPS / 2), 4 * STEPS: 0.32}


def rung(base: Paper, top1: float, **changes: Any) -> Paper:
    values = {"told": f"{top1:.2f} % top-1", "top1": top1, "doubts": ("from memory",), **changes}
    return replace(base, **values)


def cosine(epochs: int) -> Mapping[int, float]:
    """Half a cosine over the epochs after the warmup."""
    after = {epoch * STEPS: half_cosine(0.4, (epoch - 5) / (epochs - 5)) for epoch in (5, 6, epochs // 2, epochs - 1)}
    return FROM_ZERO | after


LARGE_DROPS = {30: 0.04, 60: 0.004, 90: 0.0004}
LARGE = rung(BASELINE, 75.17, batch=1024, norm_batch=128, steps=STEPS, lr=drops(STEPS, 120, {0: 0.4} | LARGE_DROPS))
WARM = rung(LARGE, 75.93, lr=FROM_ZERO | drops(STEPS, 120, {5: 0.4} | LARGE_DROPS))
SILENT = rung(WARM, 76.37, gammas_zero=16)
EXEMPT = rung(SILENT, 76.03, groups=norms_and_biases_exempt(RESNETS[50], 1e-4))
HALF = rung(EXEMPT, 76.21, precision="fp16", same_precision=True)
TWEAKED = rung(
    EXEMPT,
    77.16,
    source="arXiv:1812.01187, Table 5",
    net=RESNET50D,
    variant="d",
    groups=norms_and_biases_exempt(RESNET50D, 1e-4),
)
COSINE = rung(TWEAKED, 77.91, source="arXiv:1812.01187, Table 6", lr=cosine(120))
SMOOTH = rung(COSINE, 78.31, loss=SMOOTHED)
MIXED = rung(
    SMOOTH,
    79.15,
    doubts=("from memory", "teacher"),
    epochs=200,
    lr=cosine(200),
    sees=replace(SEES, mixing=Mixing(mixup_alpha=0.2, probability=1.0)),
)

TEACHER = Distillation(teacher=ResNet(depth=152, variant="d"), temperature=20.0, weight=1.0, label_weight=1.0)
DISTILLED = replace(
    SMOOTH, told="78.67 % top-1", top1=78.67, doubts=("from memory", "halves both losses"), distillation=TEACHER
)
BEST = replace(MIXED, told="79.29 % top-1", top1=79.29, doubts=("from memory",), distillation=TEACHER)

PAPERS = {
    "resnet50_he2019": BASELINE,
    "resnet50_he2019_1k": LARGE,
    "resnet50_he2019_1k_warmup": WARM,
    "resnet50_he2019_1k_zero_gamma": SILENT,
    "resnet50_he2019_1k_no_bias_decay": EXEMPT,
    "resnet50_he2019_1k_fp16": HALF,
    "resnet50d_he2019": TWEAKED,
    "resnet50d_he2019_cosine": COSINE,
    "resnet50d_he2019_smoothing": SMOOTH,
    "resnet50d_he2019_distilled": DISTILLED,
    "resnet50d_he2019_200ep": MIXED,
    "resnet50d_he2019_200ep_distilled": BEST,
}
