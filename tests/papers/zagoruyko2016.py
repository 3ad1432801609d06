"""Zagoruyko and Komodakis 2016, "Wide Residual Networks"; szagoruyko/wide-residual-networks, train_cifar.sh, README."""

from dataclasses import replace

from tests.papers.he2015 import PAPERS as HE2015
from tests.papers.paper import Net, Paper, all_decayed, drops, uniform
from trainer.recipe import PaddedCrop


def wide(n: int, k: int) -> Net:
    """Table 1, 6n + 4 layers: 3x3 of 16k, 32k and 64k channels with a norm before each, three shortcuts; 10 classes."""
    parameters, inputs = 9 * 3 * 16, 16
    for c in (16 * k, 32 * k, 64 * k):
        parameters += inputs * c  # the shortcut
        for _ in range(n):
            parameters += 9 * inputs * c + 9 * c * c + 2 * (inputs + c)
            inputs = c
    parameters += 2 * inputs + (inputs + 1) * 10
    return Net(parameters, 6 * n + 3 + 2, 6 * n + 1, 3 * n)


BASE = HE2015["resnet110_he2015"]


def zagoruyko(error: float, dropout: float) -> Paper:
    net = wide(4, 10)
    return replace(
        BASE,
        source="arXiv:1605.07146",
        named="arXiv:1605.07146",
        told=f"{error:.2f} % test error",
        top1=100 - error,
        sd=None,
        runs=5,
        statistic=None,
        protocol=("CIFAR-10 test", "median of the runs"),
        doubts=("Unverified",),
        sees=replace(BASE.sees, train_crop=PaddedCrop(resolution=32, padding=4, padding_mode="reflect")),
        norm_batch=128,
        processes={1: 1, 2: "1", 8: "1", 64: "1"},
        epochs=200,
        lr=drops(390, 200, {0: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008}),
        settings={"momentum": 0.9, "nesterov": True},
        net=net,
        groups=all_decayed(net, 5e-4),
        fc_std=uniform(640),
        dropout=dropout,
    )


PAPERS = {
    "wrn28x10_zagoruyko2016": zagoruyko(4.00, 0.0),
    "wrn28x10_zagoruyko2016_dropout": zagoruyko(3.89, 0.3),
}
