"""Leclerc et al. 2023, FFCV: configurations and result file of its trainer."""

from tests.papers.paper import (
    EIGHT_OF_EIGHT,
    FEATURES,
    RESNETS,
    SMOOTHED,
    Images,
    Paper,
    centre,
    norms_exempt,
    szegedy,
    uniform,
)
from trainer.recipe import CenterCrop, ProgressiveResizing

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


PAPERS = {
    f"resnet{depth}_leclerc2023_{epochs}ep": leclerc(depth, epochs) for depth in (18, 50) for epochs in LECLERC_TABLE
}
