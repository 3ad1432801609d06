"""Mosaicml/examples, mild: decay 5e-4 relative to the peak rate, so 5e-4 / 2.048 as it is multiplied by the rate."""

import math

from tests.papers.paper import EIGHT_OF_EIGHT, RESNETS, Images, Paper, all_decayed, centre, half_cosine, szegedy
from trainer.recipe import BinaryCrossEntropy, ProgressiveResizing

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

PAPERS = {"resnet50_mosaic2022_mild": MOSAIC}
