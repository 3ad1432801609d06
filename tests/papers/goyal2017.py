"""Goyal et al. 2017, Tables 1 and 2, sections 2 and 5.1: eta = 0.1 * kn / 256, n = 32."""

from collections.abc import Mapping
from typing import Any

from tests.papers.paper import EIGHT_OF_EIGHT, RESNETS, Images, Paper, centre, drops, norms_exempt, szegedy

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


PAPERS = {
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
    ),
    "resnet50_goyal2017_8k_constant_warmup": goyal(
        25.88,
        0.56,
        "25.88 +- 0.56 % top-1 error",
        lr=CONSTANT | drops(156, 90, GOYAL_DROPS),
    ),
    "resnet50_goyal2017_8k_gamma1": goyal(
        24.11,
        0.07,
        "24.11 +- 0.07 % top-1 error",
        zeros=0,
        lr=GRADUAL | drops(156, 90, GOYAL_DROPS),
    ),
    "resnet101_goyal2017_8k": goyal(
        22.36,
        0.09,
        "22.36 +- 0.09 % top-1 error",
        depth=101,
        zeros=33,
        lr=GRADUAL | drops(156, 90, GOYAL_DROPS),
    ),
}
