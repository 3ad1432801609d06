"""The pre-activation networks for CIFAR are those of He et al. 2016 and of Zagoruyko and Komodakis 2016."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.model import build_model
from trainer.model.preactivation import PreActivationBlock, PreActivationResNet
from trainer.recipe import CifarResNet, WideResNet

Spec = CifarResNet | WideResNet
# Zagoruyko and Komodakis 2016, Table 4: depth and widening factor
WIDE_MILLIONS = {(40, 1): "0.6", (40, 2): "2.2", (40, 4): "8.9", (28, 10): "36.5", (22, 8): "17.2", (16, 8): "11.0"}
WIDE_MILLIONS |= {(40, 8): "35.7", (28, 12): "52.5", (22, 10): "26.8", (16, 10): "17.1"}
SMALL: dict[str, Spec] = {
    "basic": CifarResNet(depth=14, preactivation=True),
    "basic, twice as wide": CifarResNet(depth=14, width=2, preactivation=True),
    "bottleneck": CifarResNet(depth=20, preactivation=True, bottleneck=True),
    "wide": WideResNet(depth=16, width=2),
    "wide, not wider": WideResNet(depth=16, width=1),
}


def he(depth: int, **settings: Any) -> CifarResNet:
    return CifarResNet(depth=depth, preactivation=True, **settings)


def build(spec: Spec) -> nn.Module:
    torch.manual_seed(0)
    return build_model(spec, 10)


def images(size: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def convolutions(model: nn.Module, kernel_size: int) -> list[nn.Conv2d]:
    found = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return [conv for conv in found if conv.kernel_size == (kernel_size, kernel_size)]


@pytest.mark.parametrize(("depth", "width"), WIDE_MILLIONS)
def test_wide_networks_have_the_papers_parameter_counts(depth: int, width: int) -> None:
    assert len(WIDE_MILLIONS) == 10
    with torch.device("meta"):
        model = build(WideResNet(depth=depth, width=width))
    assert f"{parameters(model) / 1e6:.1f}" == WIDE_MILLIONS[depth, width]
    shortcuts = len(convolutions(model, 1))  # three; two where the first stage is not wider than the stem
    assert len(convolutions(model, 3)) + 3 == depth and shortcuts == (2 if width == 1 else 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "bottleneck", "millions"), [(110, False, "1.7"), (164, True, "1.7"), (1001, True, "10.2")]
)
def test_hes_networks_have_the_published_parameter_counts(depth: int, bottleneck: bool, millions: str) -> None:
    """As Zagoruyko and Komodakis 2016, Table 5, gives them: 10.2 million are 10.3 with the norms'."""
    with torch.device("meta"):
        model = build(he(depth, bottleneck=bottleneck))
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)
    assert f"{weights / 1e6:.1f}" == millions
    blocks = sum(isinstance(module, PreActivationBlock) for module in model.modules())
    assert 2 + blocks * (3 if bottleneck else 2) == depth


def written_out(weights: dict[str, Tensor], x: Tensor, spec: Spec, blocks: int) -> Tensor:
    """The network in evaluation, from nothing but functions and the state_dict, as papers and code tell it."""
    is_he, convs = isinstance(spec, CifarResNet), 3 if isinstance(spec, CifarResNet) and spec.bottleneck else 2

    def active(x: Tensor, norm: str) -> Tensor:
        mean, var, gamma, beta = (weights[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, mean, var, gamma, beta, eps=1e-5).relu()

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        return functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = conv(x, "conv1")
    for stage in (1, 2, 3):
        for block in range(blocks):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            first = active(x, f"{at}.bn1")
            if f"{at}.downsample.weight" in weights:  # a common norm and ReLU before both paths
                shortcut = conv(first, f"{at}.downsample", stride)
            elif is_he and stage == 1 and block == 0:  # "the first activation right after conv1 and before splitting"
                shortcut = first
            else:
                missing = weights[f"{at}.conv{convs}.weight"].shape[0] - x.shape[1]
                shortcut = functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, missing // 2, missing // 2))
            y = conv(first, f"{at}.conv1", stride)
            for number in range(2, convs + 1):
                y = conv(active(y, f"{at}.bn{number}"), f"{at}.conv{number}")
            x = y + shortcut
    x = active(x, "bn1")
    return functional.linear(x.mean(dim=(2, 3)), weights["fc.weight"], weights["fc.bias"])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [32, 25])
def test_preactivation_network_is_the_papers_written_out(name: str, size: int) -> None:
    model = build(SMALL[name])
    model(images(size, 8))  # moves the running statistics off their start
    model.eval()
    with torch.inference_mode():
        expected = written_out(model.state_dict(), images(size), SMALL[name], blocks=2)
        torch.testing.assert_close(model(images(size)), expected)


def test_signals_pass_every_block_of_one_shape_unchanged() -> None:
    """The paper's point (section 2): what a block adds is added to x itself, in both directions."""
    model = build(he(14))
    block = model.get_submodule("layer2.1")
    nn.init.zeros_(block.get_parameter("conv2.weight"))
    x = torch.randn(2, 32, 8, 8, requires_grad=True)
    assert torch.equal(block(x), x)
    block(x).backward(weights := torch.randn(2, 32, 8, 8))
    assert x.grad is not None and torch.equal(x.grad, weights)


@pytest.mark.parametrize("name", SMALL)
def test_preactivation_every_parameter_gets_a_gradient_and_channels_last_stays(name: str) -> None:
    model = build(SMALL[name]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    outputs: list[Tensor] = []
    for block in model.modules():
        if isinstance(block, PreActivationBlock):
            block.register_forward_hook(lambda _module, _args, out: outputs.append(out))
    found = model(images(32).to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, build(SMALL[name])(images(32)), rtol=1e-3, atol=1e-4)
    functional.cross_entropy(found, torch.tensor([0, 1])).backward()
    assert len(outputs) == 6 and all(out.is_contiguous(memory_format=torch.channels_last) for out in outputs)
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_dropout_of_wide_networks_is_between_the_convolutions_of_a_block() -> None:
    model = build(WideResNet(depth=10, width=1, dropout=0.5))
    seen: list[float] = []
    for name, conv in model.named_modules():
        if name.endswith("conv2"):
            conv.register_forward_pre_hook(lambda _module, args: seen.append((args[0] == 0).float().mean().item()))
    model(images(32, 8))
    assert len(seen) == 3 and all(share > 0.7 for share in seen)  # half by ReLU, half of the others by dropout
    seen.clear()
    model.eval()(images(32, 8))
    assert all(share < 0.65 for share in seen)
    assert list(model.state_dict()) == list(build(WideResNet(depth=10, width=1)).state_dict())


def test_preactivation_starts_as_the_papers_do() -> None:
    """He's normal by outputs for convolutions, every gamma 1, PyTorch's classifier or the one of fc_std."""
    model = build(he(20, fc_std=0.01))
    assert isinstance(model, PreActivationResNet)
    for conv in convolutions(model, 3):
        assert conv.weight.std().item() == pytest.approx((2 / (9 * conv.out_channels)) ** 0.5, rel=0.15)
    assert all((m.weight == 1).all() and not m.bias.any() for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert not model.fc.bias.any() and model.fc.weight.std().item() == pytest.approx(0.01, rel=0.1)
