"""DeepLearningExamples, resnet50v1.5: lr 0.256 per 256, decay 1/32768, which is 3.0517578125e-5."""

from tests.papers.paper import (
    EIGHT_OF_EIGHT,
    RESNETS,
    SMOOTHED,
    Images,
    Paper,
    centre,
    half_cosine,
    norms_exempt,
    plateaus,
    szegedy,
    uniform,
)

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

PAPERS = {"resnet50_nvidia_90ep": NVIDIA}
