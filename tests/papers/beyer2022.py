"""Beyer et al. 2022, arXiv:2106.05237: google-research/big_vision, configs/proj/distill/bit_i1k.py and README.md."""

from tests.papers.paper import EIGHT_OF_EIGHT, Images, Net, Paper, centre, half_cosine
from trainer.recipe import Distillation, LibraryModel, Mixing, RandomResizedCrop

STEPS = 1_281_167 // 4096
R50X1 = Net(25_549_352, 1 + 48 + 4 + 1, 48 + 1, 16)  # a norm before each convolution of a block, and one at the end
PEAK_DECAY = 3e-4 / 0.03  # decay that is not multiplied by the rate

BEYER = Paper(
    source="Beyer et al. 2022",
    told="82.8 % top-1",
    top1=82.8,
    runs=None,
    protocol=("centre crop of short side 256",),
    doubts=("from memory", "--epochs 1200", "a couple", "was not checked", "306 steps"),
    sees=Images(
        train_crop=RandomResizedCrop(resolution=224, scale=(0.05, 1.0)),
        eval_crop=centre(224, 256),
        mixing=Mixing(mixup_alpha=1.0),  # Beta(1, 1) is uniform
        mean=(0.5, 0.5, 0.5),  # value_range(-1, 1)
        std=(0.5, 0.5, 0.5),
    ),
    batch=4096,
    norm_batch=512,
    processes=EIGHT_OF_EIGHT,
    epochs=9600,
    steps=STEPS,
    lr={
        0: 0.0,
        2500: 0.015,
        5000: 0.03,
        (9600 * STEPS + 5000) // 2: 0.015,
        9600 * STEPS - 1: half_cosine(0.03, 1 - 1 / (9600 * STEPS - 5000)),
    },
    optimizer="AdamW",
    settings={"betas": (0.9, 0.999), "eps": 1e-8},
    groups=[(R50X1.weights, PEAK_DECAY, 1.0), (2 * R50X1.norms + 1, 0.0, 1.0)],
    clip_grad_norm=1.0,
    distillation=Distillation(
        teacher=LibraryModel(name="timm/resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k", pretrained=True), weight=1.0
    ),
    library="timm/resnetv2_50x1_bit",
    net=R50X1,
    fc_std=0.01,
    fc_bias=0.0,
)

PAPERS = {"resnet50_beyer2022": BEYER}
