"""accelerate(): the plain model is the oracle of the accelerated one, and only bf16 training differs."""

from __future__ import annotations

import copy
import io
from collections import Counter
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import trainer.cpu.accelerate as accelerate_module
from tests.support.matrix_units import pretend_matrix_units
from trainer import recipe
from trainer.cpu.accelerate import accelerate, replaced
from trainer.ema import WeightAverage
from trainer.model import build_model
from trainer.model.block import Block
from trainer.setup.networks import move_to_device

FUSED = "_NormReluBackward"


def resnet(depth: int, **settings: Any) -> recipe.ResNet:
    return recipe.ResNet(depth=cast(Any, depth), **{"stem": "cifar", **settings})


MODELS: dict[str, recipe.Model] = {
    **{f"ResNet-{depth}": resnet(depth) for depth in (18, 34, 50)},
    **{f"CIFAR ResNet-{depth}": recipe.CifarResNet(depth=depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "ResNet-18, ImageNet's stem": resnet(18, stem="imagenet"),
    "ResNet-18 without shortcuts": resnet(18, residual=False),
    "ResNet-18 with blur pooling": resnet(18, blur_pool="convs_and_pool"),
    "ResNet-50 with drop path": resnet(50, drop_path=0.3),
    "CIFAR ResNet-8 without shortcuts": recipe.CifarResNet(depth=8, residual=False),
    "CIFAR ResNet-14, twice as wide": recipe.CifarResNet(depth=14, width=2),
    "ResNeXt-50": resnet(50, groups=32, width_per_group=4),
    "ResNet-18-D": resnet(18, stem="imagenet", variant="d"),
    "SE-ResNet-18 with drop path": resnet(18, se_ratio=1 / 16, drop_path=0.3),
    "ResNet-RS-50": resnet(50, stem="imagenet", variant="rs", se_ratio=1 / 4),
    "pre-activation ResNet-14": recipe.CifarResNet(depth=14, preactivation=True),
    "pre-activation ResNet-20, bottlenecks": recipe.CifarResNet(depth=20, preactivation=True, bottleneck=True),
    "WRN-16-2 with dropout": recipe.WideResNet(depth=16, width=2, dropout=0.3),
    "torchvision's ResNet-18": recipe.LibraryModel(name="torchvision/resnet18"),
    "torchvision's ResNet-50": recipe.LibraryModel(name="torchvision/resnet50"),
}


def build(spec: recipe.Model, norm_batch_size: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    return build_model(spec, 10, norm_batch_size).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def images(count: int = 8, size: int = 32) -> Tensor:
    found = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return found.contiguous(memory_format=torch.channels_last)


def forward(model: nn.Module, x: Tensor, *, bf16: bool = True) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits: Tensor = model(x)
    return logits


def input_size(spec: recipe.Model) -> int:
    """The side in pixels at which the last feature maps have 2 x 2 pixels, or 8 x 8 in CIFAR's networks.

    With 1 x 1, batch norm sees 8 values per channel, and chance decides about errors. Larger ones: slow if emulated.
    """
    if isinstance(spec, recipe.ResNet):
        return 16 if spec.stem == "cifar" else 64
    return 64 if isinstance(spec, recipe.LibraryModel) else 32


def quieten(model: nn.Module) -> None:
    """A last gamma of 0.1 in each block with a shortcut: then bf16's rounding errors grow less with depth."""
    for block in model.modules():
        is_plain = isinstance(block, Block) and block.downsample is None
        if hasattr(block, "conv2") and hasattr(block, "downsample") and not is_plain:
            last = block.get_submodule("bn3" if hasattr(block, "bn3") else "bn2")
            nn.init.constant_(cast(nn.BatchNorm2d, last).weight, 0.1)


def step(model: nn.Module, *, bf16: bool, size: int = 32) -> dict[str, Tensor]:
    """What a forward and backward pass computes, by kind, each as one float64 vector."""
    torch.manual_seed(2)  # for drop path
    logits = forward(model, images(size=size), bf16=bf16)
    cross_entropy(logits.float(), torch.arange(8)).backward()
    kinds: dict[str, list[Tensor]] = {"logits": [logits]}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            assert parameter.grad is not None
            kind = next(kind.__name__ for kind in (nn.Conv2d, nn.BatchNorm2d, nn.Linear) if isinstance(module, kind))
            kinds.setdefault("Linear" if kind == "Linear" else f"{kind}.{name}", []).append(parameter.grad)
        for name, buffer in module.named_buffers(recurse=False):
            if name.startswith("running"):
                kinds.setdefault(name, []).append(buffer)
    return {kind: torch.cat([one.detach().double().flatten() for one in found]) for kind, found in kinds.items()}


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_accelerated_model_computes_what_the_plain_one_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 both round, at different places, so that both are compared with the plain model in fp32.

    Our kernels round less often, so their error may exceed the plain model's by chance only: by a half for the 80
    logits, by a fifth for everything else. A plain model whose own error is large would prove nothing.
    """
    assert len(MODELS) == 25
    pretend_matrix_units(monkeypatch)
    exact, plain, accelerated = (build(MODELS[name]) for _ in range(3))
    for model in (exact, plain, accelerated):
        quieten(model)
    accelerate(accelerated)
    assert replaced(accelerated) and not replaced(plain)
    size = input_size(MODELS[name])
    wanted = step(exact, bf16=False, size=size)
    reference, found = step(plain, bf16=True, size=size), step(accelerated, bf16=True, size=size)
    kinds = {
        "logits",
        "Linear",
        "Conv2d.weight",
        "BatchNorm2d.weight",
        "BatchNorm2d.bias",
        "running_mean",
        "running_var",
    }
    assert set(found) - {"Conv2d.bias"} == kinds  # a convolution has one in squeeze-and-excitation alone
    for kind, values in found.items():
        plain_error, our_error = error(reference[kind], wanted[kind]), error(values, wanted[kind])
        assert plain_error < 0.65
        assert our_error < (1.5 if kind == "logits" else 1.2) * plain_error, kind


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (recipe.CifarResNet(depth=20), {"BasicBlock": 9, "CifarResNet": 1, "Conv2d": 18}),
        (resnet(50, stem="imagenet"), {"Bottleneck": 16, "Conv2d": 16, "ResNet": 1}),
        (resnet(18, blur_pool="convs"), {"BasicBlock": 8, "BlurConv2d": 3, "Conv2d": 13, "ResNet": 1}),
        (
            resnet(50, groups=32, width_per_group=4),
            {"Bottleneck": 16, "ResNet": 1},
        ),  # no 3x3 without groups but the stem
        (
            resnet(
                50, stem="imagenet", variant="rs", se_ratio=1 / 4
            ),  # the stem's 3x3 convolutions but the first are ours
            {"Bottleneck": 16, "Conv2d": 19, "ResNet": 1, "Stem": 2},
        ),
        (
            recipe.CifarResNet(depth=20, preactivation=True, bottleneck=True),
            {"Conv2d": 6, "PreActivationBottleneck": 6, "PreActivationResNet": 1},
        ),
        (
            recipe.WideResNet(depth=16, width=2),
            {"Conv2d": 12, "PreActivationBasicBlock": 6, "PreActivationResNet": 1},
        ),
        (
            recipe.LibraryModel(name="torchvision/resnet18"),
            {"Conv2d": 16, "torchvision BasicBlock": 8, "torchvision ResNet": 1},
        ),
        (
            recipe.LibraryModel(name="torchvision/resnext50_32x4d"),  # its 3x3 convolutions have groups
            {"torchvision Bottleneck": 16, "torchvision ResNet": 1},
        ),
        (recipe.LibraryModel(name="timm/resnet18"), {"Conv2d": 16}),
    ],
)
def test_accelerate_what_is_replaced_is_counted_and_in_the_line_for_the_log(
    spec: recipe.Model, expected: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_matrix_units(monkeypatch)
    model = build(spec)
    line = accelerate(model)
    assert replaced(model) == expected
    assert line == "CPU kernels for bf16: " + ", ".join(f"{count} {name}" for name, count in expected.items())
    assert accelerate(model) == line  # a second time changes nothing


def nodes(y: Tensor) -> Counter[str]:
    """How often each backward function is in the graph of y."""
    seen, ahead = set(), [y.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [following for following, _ in node.next_functions]
    return Counter(node.name() for node in seen)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("torchvision/resnet18", 17), ("torchvision/resnet50", 49)])
def test_library_model_has_the_fused_norms(name: str, count: int) -> None:
    model = build(recipe.LibraryModel(name=name))
    accelerate(model)
    assert sum(found for node, found in nodes(forward(model, images(2))).items() if FUSED in node) == count


@pytest.mark.parametrize("spec", [recipe.CifarResNet(depth=8), recipe.LibraryModel(name="torchvision/resnet18")])
def test_parameters_names_hooks_and_attributes_stay(spec: recipe.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_matrix_units(monkeypatch)
    model, calls = build(spec), Counter[str]()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    before = [dict(model.named_modules()), dict(model.named_parameters()), dict(model.named_buffers())]
    state, kinds = list(model.state_dict()), {name: type(module) for name, module in model.named_modules()}
    accelerate(model)
    assert [dict(model.named_modules()), dict(model.named_parameters()), dict(model.named_buffers())] == before
    assert list(model.state_dict()) == state
    assert all(isinstance(module, kinds[name]) for name, module in model.named_modules())
    forward(model, images(2))
    assert set(calls) == set(kinds)


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])
def test_evaluation_is_the_plain_models_bit_for_bit(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_matrix_units(monkeypatch)
    for spec in (recipe.CifarResNet(depth=8), resnet(50), recipe.LibraryModel(name="torchvision/resnet18")):
        plain, accelerated = build(spec).eval(), build(spec).eval()
        accelerate(accelerated)
        with torch.inference_mode():
            assert torch.equal(forward(plain, images(), bf16=bf16), forward(accelerated, images(), bf16=bf16))


def test_training_in_fp32_is_the_plain_models_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_matrix_units(monkeypatch)
    plain, accelerated = build(MODELS["CIFAR ResNet-14"]), build(MODELS["CIFAR ResNet-14"])
    accelerate(accelerated)
    wanted, found = step(plain, bf16=False), step(accelerated, bf16=False)
    assert all(torch.equal(found[kind], wanted[kind]) for kind in wanted)


@pytest.mark.parametrize("name", ["CIFAR ResNet-8", "torchvision's ResNet-18"])
def test_copies_averages_and_saved_modules_are_accelerated_too(name: str) -> None:
    model = build(MODELS[name])
    accelerate(model)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    saved = torch.load(stream, weights_only=False)
    average = WeightAverage(recipe.EMA(decay=0.9), model)
    for copied in (copy.deepcopy(model), saved, average.module):
        assert replaced(copied) == replaced(model) != {}
    average.update(model, step=1, epochs=1.0)
    with torch.inference_mode():
        assert torch.equal(forward(average.module, images()), forward(model.eval(), images()))


@pytest.mark.slow
def test_torch_compile_of_an_accelerated_model_sees_pytorchs_operations() -> None:
    model = build(recipe.CifarResNet(depth=8))
    accelerate(model)
    assert any(FUSED in node for node in nodes(forward(model, images(2))))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert not any(FUSED in node for node in nodes(forward(cast(nn.Module, compiled), images(2))))


def test_ghost_norms_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_matrix_units(monkeypatch)
    plain, accelerated = (build(recipe.CifarResNet(depth=8), norm_batch_size=4) for _ in range(2))
    accelerate(accelerated)
    assert torch.equal(forward(plain, images()), forward(accelerated, images()))


def test_accelerate_nothing_is_replaced_and_the_line_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    assert accelerate(model) == "note: no CPU kernels for bf16: none fits a layer of this model"
    model = build(recipe.CifarResNet(depth=8))
    monkeypatch.setattr(accelerate_module, "_has_gnu_openmp", lambda: False)
    assert "bf16 trains more slowly" in accelerate(model) and "GNU OpenMP" in accelerate(model)
    assert not replaced(model)


@pytest.mark.parametrize(
    ("precision", "wanted", "expected"), [("bf16", True, True), ("bf16", False, False), ("fp32", True, False)]
)
def test_model_on_a_cpu_gets_kernels_for_bf16_where_they_are_wanted(
    precision: Any, wanted: bool, expected: bool
) -> None:
    model = build(recipe.CifarResNet(depth=8))
    lines = move_to_device(model, torch.device("cpu"), precision, cpu_kernels=wanted)
    assert bool(replaced(model)) == expected and len(lines) == int(expected)
