"""He et al. 2016, "Identity Mappings", Table 3: trained as He et al. 2015; and KaimingHe/resnet-1k-layers."""

from dataclasses import replace

from tests.papers.he2015 import PAPERS as HE2015
from tests.papers.paper import Net, Paper, all_decayed, cifar_net, uniform


def bottlenecks(n: int) -> Net:
    """9n + 2 layers: 1x1, 3x3, 1x1 of c, c and 4c channels with a norm before each, c = 16, 32 and 64; 10 classes."""
    parameters, inputs = 9 * 3 * 16, 16
    for c in (16, 32, 64):
        parameters += inputs * 4 * c  # the shortcut
        for _ in range(n):
            parameters += inputs * c + 9 * c * c + c * 4 * c + 2 * (inputs + c + c)
            inputs = 4 * c
    parameters += 2 * inputs + (inputs + 1) * 10
    return Net(parameters, 9 * n + 3 + 2, 9 * n + 1, 3 * n)


def he2016(error: float, net: Net, features: int, doubts: tuple[str, ...]) -> Paper:
    return replace(
        HE2015["resnet110_he2015"],
        source="arXiv:1603.05027, Table 3",
        named="arXiv:1603.05027",
        told=f"{error:.2f} % test error",
        top1=100 - error,
        sd=None,
        runs=5,
        statistic=None,
        protocol=("CIFAR-10 test", "median of the runs"),
        doubts=doubts,
        net=net,
        groups=all_decayed(net, 1e-4),
        fc_std=uniform(features),
    )


PAPERS = {
    "preresnet110_he2016": he2016(6.37, cifar_net(18), 64, ("names none for them",)),  # as many norms as He et al. 2015
    "preresnet164_he2016": he2016(5.46, bottlenecks(18), 256, ()),
}
