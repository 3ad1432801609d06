"""Pycls' configuration of its R-50: lr 0.2, cosine per epoch, Nesterov, 5e-5 on everything."""

from tests.papers.paper import (
    EIGHT_OF_EIGHT,
    RESNETS,
    Images,
    Paper,
    all_decayed,
    centre,
    half_cosine,
    plateaus,
    szegedy,
)
from trainer.recipe import PcaLighting

PYCLS = Paper(
    source="arXiv:2003.13678",
    told="76.8 % top-1",
    top1=76.8,
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

PAPERS = {"resnet50_radosavovic2019": PYCLS}
