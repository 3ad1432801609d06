"""He et al. 2015, ImageNet: section 3.4, authors' page.

CIFAR-10: section 4.2 and Table 6, 64k iterations on two GPUs.
"""

from tests.papers.paper import (
    EIGHT_OF_EIGHT,
    FEATURES,
    RESNETS,
    Images,
    Net,
    Paper,
    all_decayed,
    centre,
    cifar_net,
    drops,
    plain,
    uniform,
)
from trainer.recipe import PaddedCrop, PcaLighting, ScaleJitterCrop


def he_imagenet(depth: int, net: Net, top1: float, told: str, *, table: str | None = None) -> Paper:
    """Of a table of the paper, which has ten crops; or of the authors' page, which has one."""
    return Paper(
        source=table or "KaimingHe/deep-residual-networks",
        named="arXiv:1512.03385",
        told=told,
        top1=top1,
        runs=None if table else 1,
        comparable=table is None,
        protocol=("mean of 10 crops",) if table else ("centre crop of short side 256",),
        doubts=("unverified",)
        if depth != 50
        else ("Unverified", "usual reading", "30, 60 and 80", "had no weight decay"),
        sees=Images(
            train_crop=ScaleJitterCrop(resolution=224, short_side=(256, 480)),
            color=PcaLighting(std=0.1),
            eval_crop=centre(224, 256),
        ),
        batch=256,
        norm_batch=32,
        processes=EIGHT_OF_EIGHT,
        precise_norm_images=16_384,
        epochs=120,
        steps=5004,
        lr=drops(5004, 120, {0: 0.1, 30: 0.01, 60: 0.001, 90: 0.0001}),
        settings={"momentum": 0.9, "nesterov": False},
        groups=all_decayed(net, 1e-4),
        net=net,
        variant="a" if depth >= 50 else "b",
        fc_std=uniform(FEATURES[depth]),
    )


HE_IMAGENET = {
    "resnet18_he2015": he_imagenet(18, RESNETS[18], 100 - 27.88, "27.88 % top-1 error", table="Table 2"),
    "resnet34_he2015": he_imagenet(34, RESNETS[34], 100 - 24.52, "24.52 % top-1 error", table="Table 3"),
    "plain18_he2015": he_imagenet(18, plain(18), 100 - 27.94, "27.94 % top-1 error", table="Table 2"),
    "plain34_he2015": he_imagenet(34, plain(34), 100 - 28.54, "28.54 % top-1 error", table="Table 2"),
    "resnet50_he2015": he_imagenet(50, RESNETS[50], 100 - 24.7, "24.7 % top-1 error"),
    "resnet101_he2015": he_imagenet(101, RESNETS[101], 100 - 23.6, "23.6 % top-1 error"),
    "resnet152_he2015": he_imagenet(152, RESNETS[152], 100 - 23.0, "23.0 % top-1 error"),
}

# CIFAR-10

CIFAR_DROPS = {0: 0.1, 31_979: 0.1, 31_980: 0.01, 47_969: 0.01, 47_970: 0.001, 63_959: 0.001}
CIFAR_WARMUP = {0: 0.01, 399: 0.01, 400: 0.1} | {step: lr for step, lr in CIFAR_DROPS.items() if step}


def he_cifar(
    n: int, error: float | None, told: str, *, sd: float | None = None, residual: bool = True, warmup: bool = False
) -> Paper:
    net = cifar_net(n, residual=residual)
    return Paper(
        source="Table 6",
        named="arXiv:1512.03385",
        told=told,
        top1=None if error is None else 100 - error,
        sd=sd,
        runs=5 if sd else 1,
        statistic="final",
        protocol=("CIFAR-10 test",),
        dataset="CIFAR-10",
        images=50_000,
        classes=10,
        sees=Images(
            train_crop=PaddedCrop(resolution=32, padding=4, fill=(125, 123, 114)),
            eval_crop=centre(32, 32),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
        ),
        batch=128,
        norm_batch=64,
        processes={1: 2, 2: 1, 8: "1, 2", 64: "1, 2"},
        epochs=164,
        steps=390,
        lr=CIFAR_WARMUP if warmup else CIFAR_DROPS,
        settings={"momentum": 0.9, "nesterov": False},
        groups=all_decayed(net, 1e-4),
        net=net,
        fc_std=uniform(64),
    )


HE_CIFAR = {
    "resnet20_he2015": he_cifar(3, 8.75, "8.75 % test error"),
    "resnet32_he2015": he_cifar(5, 7.51, "7.51 % test error"),
    "resnet44_he2015": he_cifar(7, 7.17, "7.17 % test error"),
    "resnet56_he2015": he_cifar(9, 6.97, "6.97 % test error"),
    "resnet110_he2015": he_cifar(18, 6.61, "6.61 +- 0.16 % test error", sd=0.16, warmup=True),
    "resnet1202_he2015": he_cifar(200, 7.93, "7.93 % test error", warmup=True),
    "plain20_he2015": he_cifar(3, None, "only curves (Figure 6), no number", residual=False),
    "plain56_he2015": he_cifar(9, None, "only curves (Figure 6), no number", residual=False),
}

PAPERS = HE_IMAGENET | HE_CIFAR
