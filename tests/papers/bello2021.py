"""Bello et al. 2021, "Revisiting ResNets"; tensorflow/tpu, resnet_rs/configs/resnetrs50_i160.yaml and README."""

from tests.papers.he2019 import RESNET50D
from tests.papers.paper import SMOOTHED, Images, Net, Paper, centre, half_cosine, norms_exempt, szegedy
from trainer.recipe import RandAugment

# ResNet-D's, a 3x3 with a norm in place of the max-pool, and 1x1 to a quarter of the channels and back in each block
EXCITED = 3 * [256] + 4 * [512] + 6 * [1024] + 3 * [2048]
RESNETRS50 = Net(
    RESNET50D.parameters + 9 * 64 * 64 + 2 * 64 + sum(2 * c * (c // 4) + c // 4 + c for c in EXCITED),
    RESNET50D.weights + 1 + 2 * 16,
    RESNET50D.norms + 1,
    16,
    biases=1 + 2 * 16,
)
COSINE = {epoch * 312: half_cosine(1.6, (epoch - 5) / 345) for epoch in (5, 6, 100, 250, 349)}

BELLO = Paper(
    source="arXiv:2103.07579",
    told="78.8 % top-1",
    top1=78.8,
    protocol=("ratio 160/192", "averaged weights"),
    doubts=("Unverified", "are a guess", "timm's operations", "a variance of 1 / inputs"),
    sees=Images(
        train_crop=szegedy(160),
        eval_crop=centre(160, 192),
        augmentation=RandAugment(operations=2, magnitude=10, magnitude_std=0.0, probability=0.5),
    ),
    batch=4096,
    norm_batch=128,
    processes={1: 32, 8: 4, 64: "1, 2, 4, 8, 16, 32"},
    epochs=350,  # 109,475 steps of 4096 images
    steps=312,
    lr={0: 0.0, 312: 0.32, 4 * 312: 1.28} | COSINE,
    loss=SMOOTHED,
    settings={"momentum": 0.9, "nesterov": True},
    groups=norms_exempt(RESNETRS50, 4e-5),
    ema=(0.9999, 1, 0.0),
    net=RESNETRS50,
    variant="rs",
    gammas_zero=16,
    fc_std=0.01,
    fc_bias=0.0,
    dropout=0.25,
    same_precision=True,
)

PAPERS = {"resnetrs50_bello2021": BELLO}
