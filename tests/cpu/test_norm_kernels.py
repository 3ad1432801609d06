"""The norm, the sum and ReLU in one: PyTorch's values in float64, rounded once, on any number of threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.functional import batch_norm

from trainer import recipe
from trainer.cpu.accelerate import accelerate
from trainer.cpu.norm import norm_relu
from trainer.model import build_model
from trainer.model.norm import convert_ghost_batchnorm

HALF_ULP = 2**-8 * 1.001  # of bfloat16, relative: what one rounding may change, and float32's arithmetic before it
FUSED = "_NormReluBackward"

# channels, N, H, W: rows of several pixels and of one, pixels that no row divides, more channels than a row
SHAPES = [(16, 4, 8, 8), (16, 3, 7, 5), (1, 2, 3, 3), (3, 4, 9, 9), (64, 2, 16, 16), (300, 2, 3, 3), (512, 6, 1, 1)]


def bf16(*shape: int, seed: int, mean: float = 0.0) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + mean
    return values.to(torch.bfloat16).contiguous(memory_format=torch.channels_last).requires_grad_()


def norm_of(channels: int, **settings: object) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, **settings)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(5)
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(torch.rand(channels, generator=generator) * 2 - 0.5)
            norm.bias.copy_(torch.rand(channels, generator=generator) - 0.5)
    return norm


def is_fused(y: Tensor) -> bool:
    return y.grad_fn is not None and FUSED in y.grad_fn.name()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("mean", [0.0, 20.0])
@pytest.mark.parametrize(("channels", "count", "height", "width"), SHAPES)
def test_norm_values_and_gradients_are_those_in_float64_rounded_once(
    channels: int, count: int, height: int, width: int, mean: float, residual: bool
) -> None:
    x = bf16(count, channels, height, width, seed=1, mean=mean)
    shortcut = bf16(count, channels, height, width, seed=2) if residual else None
    norm = norm_of(channels)
    y = norm_relu(norm, nn.ReLU(inplace=True), x, shortcut)
    assert is_fused(y) and y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)

    inputs = [x, norm.weight, norm.bias] + ([shortcut] if shortcut is not None else [])
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    before = batch_norm(exact[0], None, None, exact[1], exact[2], training=True, eps=norm.eps) + sum(exact[3:])
    torch.testing.assert_close(y.double(), before.relu(), rtol=HALF_ULP, atol=1e-4)

    # no gradient where rounding decides about the sign, and with it about the gradient
    dy = bf16(count, channels, height, width, seed=3).detach() * (before.abs() > 1e-3)
    assert dy.count_nonzero() > 0.9 * dy.numel()
    y.backward(dy)
    before.relu().backward(dy.double())
    for found, expected in zip(inputs, exact, strict=True):
        assert found.grad is not None and expected.grad is not None and found.grad.dtype == found.dtype
        rtol = HALF_ULP if found.dtype == torch.bfloat16 else 1e-4
        atol = 1e-4 * float(expected.grad.abs().max())
        torch.testing.assert_close(found.grad.double(), expected.grad, rtol=rtol, atol=atol)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_follow_as_batch_norms(momentum: float | None) -> None:
    ours, theirs = norm_of(16, momentum=momentum), norm_of(16, momentum=momentum)
    for seed in range(3):
        x = bf16(4, 16, 5, 5, seed=seed, mean=3.0)
        assert is_fused(norm_relu(ours, nn.ReLU(), x))
        theirs(x.detach().float())
    assert ours.num_batches_tracked == theirs.num_batches_tracked == 3
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_norm_without_running_statistics_keeps_none() -> None:
    norm = norm_of(16, track_running_stats=False)
    assert is_fused(norm_relu(norm, nn.ReLU(), bf16(4, 16, 5, 5, seed=1)))
    assert norm.running_mean is None and norm.num_batches_tracked is None


@pytest.mark.parametrize("change", [{"track_running_stats": False}, {"num_batches_tracked": None}])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_that_are_switched_off_or_not_counted_do_as_batch_norms(
    change: dict[str, object], momentum: float | None
) -> None:
    ours, theirs = norm_of(16, momentum=momentum), norm_of(16, momentum=momentum)
    for norm in (ours, theirs):
        for name, value in change.items():
            setattr(norm, name, value)
    x = bf16(4, 16, 5, 5, seed=1, mean=3.0)
    assert is_fused(norm_relu(ours, nn.ReLU(), x))
    theirs(x.detach().float())
    assert ours.num_batches_tracked == theirs.num_batches_tracked
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("residual", [False, True])
def test_bits_do_not_depend_on_the_threads(threads: Callable[[int], None], residual: bool) -> None:
    found: list[list[Tensor]] = []
    for count in (1, 2, 5):
        threads(count)
        norm, x = norm_of(32), bf16(8, 32, 20, 20, seed=1)
        shortcut = bf16(8, 32, 20, 20, seed=2) if residual else None
        y = norm_relu(norm, nn.ReLU(), x, shortcut)
        wanted = [x, norm.weight, norm.bias] + ([shortcut] if shortcut is not None else [])
        found.append([y, norm.running_var, *torch.autograd.grad(y, wanted, bf16(8, 32, 20, 20, seed=3).detach())])
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_gradient_and_a_shortcut_in_a_different_memory_format_are_the_same_numbers() -> None:
    results = []
    for memory_format in (torch.channels_last, torch.contiguous_format):
        x, shortcut, dy = (bf16(4, 16, 6, 6, seed=seed) for seed in (1, 2, 3))
        y = norm_relu(norm_of(16), nn.ReLU(), x, shortcut.contiguous(memory_format=memory_format))
        assert is_fused(y)
        results.append([y, *torch.autograd.grad(y, [x, shortcut], dy.detach().contiguous(memory_format=memory_format))])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("residual", [False, True])
def test_norm_what_is_not_a_number_is_not_hidden_and_stays_in_its_channel(bad: float, residual: bool) -> None:
    x = bf16(4, 16, 6, 6, seed=1).detach()
    x[1, 3, 2, 2] = bad
    x.requires_grad_()
    shortcut = bf16(4, 16, 6, 6, seed=2) if residual else None
    norm = norm_of(16)
    y = norm_relu(norm, nn.ReLU(), x, shortcut)
    assert is_fused(y)
    y.sum().backward()
    assert x.grad is not None and norm.weight.grad is not None
    assert y[:, 3].isnan().all() and x.grad[:, 3].isnan().all() and norm.weight.grad[3].isnan()
    others = [channel for channel in range(16) if channel != 3]
    assert y[:, others].isfinite().all() and x.grad[:, others].isfinite().all()


def test_training_without_gradients_is_fused_too() -> None:
    x, norms = bf16(4, 16, 6, 6, seed=1), (norm_of(16), norm_of(16))
    with torch.no_grad():
        unrecorded = norm_relu(norms[0], nn.ReLU(), x)
    assert torch.equal(unrecorded, norm_relu(norms[1], nn.ReLU(), x))


def hooked(norm: nn.BatchNorm2d) -> None:
    norm.register_forward_pre_hook(lambda _module, _args: None)


def evaluated(norm: nn.BatchNorm2d) -> None:
    norm.eval()


def in_bf16(norm: nn.BatchNorm2d) -> None:
    norm.to(torch.bfloat16)


def split(norm: nn.BatchNorm2d) -> None:
    convert_ghost_batchnorm(nn.Sequential(norm), 2)


@pytest.mark.parametrize("change", [hooked, evaluated, in_bf16, split])
def test_norms_that_are_something_else_go_their_own_way(change: Callable[[nn.BatchNorm2d], None]) -> None:
    norms = norm_of(16), norm_of(16)
    for norm in norms:
        change(norm)
    x, shortcut = bf16(4, 16, 6, 6, seed=1), bf16(4, 16, 6, 6, seed=2)
    y = norm_relu(norms[0], nn.ReLU(inplace=True), x, shortcut)
    assert not is_fused(y)
    assert torch.equal(y, torch.relu(norms[1](x) + shortcut))


def test_backward_hooks_of_a_norm_run() -> None:
    norm, shapes = norm_of(16), []
    norm.register_full_backward_hook(lambda _module, _dx, dy: shapes.append(dy[0].shape))
    y = norm_relu(norm, nn.ReLU(), bf16(4, 16, 6, 6, seed=1))
    assert not is_fused(y)
    y.sum().backward()
    assert shapes == [(4, 16, 6, 6)]


def test_hooks_of_a_relu_run() -> None:
    relu, shapes = nn.ReLU(), []
    relu.register_forward_hook(lambda _module, _args, y: shapes.append(y.shape))
    assert not is_fused(norm_relu(norm_of(16), relu, bf16(4, 16, 6, 6, seed=1)))
    assert shapes == [(4, 16, 6, 6)]


@pytest.mark.parametrize("kind", ["float32", "contiguous", "not affine"])
def test_norm_images_of_other_kinds_are_normalised_by_batch_norm(kind: str) -> None:
    x, norm = bf16(4, 16, 6, 6, seed=1).detach(), norm_of(16, affine=kind != "not affine")
    x = x.float() if kind == "float32" else x.contiguous() if kind == "contiguous" else x
    assert torch.equal(norm_relu(norm, nn.ReLU(), x), torch.relu(norm_of(16, affine=norm.affine)(x)))
    assert not is_fused(norm_relu(norm, nn.ReLU(), x.requires_grad_()))


def test_tensors_without_memory_are_left_to_batch_norm() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(4, 16, 6, 6, dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
        assert not is_fused(norm_relu(nn.BatchNorm2d(16), nn.ReLU(), x))


def test_norm_one_value_has_no_variance() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm_relu(norm_of(16), nn.ReLU(), bf16(1, 16, 1, 1, seed=1))


def test_norm_images_of_other_channels_than_the_norms_are_refused_and_not_read() -> None:
    with pytest.raises(RuntimeError, match="running_mean should contain 8 elements not 16"):
        norm_relu(norm_of(16), nn.ReLU(), bf16(4, 8, 6, 6, seed=1))


def fused_norms(y: Tensor) -> int:
    """How many of them the gradient of y goes through."""
    seen, ahead = set(), [y.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [following for following, _ in node.next_functions]
    return sum(FUSED in node.name() for node in seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (recipe.CifarResNet(depth=20), 19),
        (recipe.CifarResNet(depth=20, residual=False), 19),
        (recipe.ResNet(depth=18, stem="cifar"), 17),  # of 20: the three in the shortcuts have no ReLU
        (recipe.ResNet(depth=50, stem="cifar"), 49),
        (recipe.ResNet(depth=18, stem="cifar", drop_path=0.5), 10),  # where branches are dropped, after their last norm
        (recipe.ResNet(depth=18, variant="d"), 19),  # the deep stem has three
        (recipe.ResNet(depth=18, variant="rs", se_ratio=1 / 4), 12),  # four in the stem; blocks end in the excitation
        (recipe.CifarResNet(depth=20, preactivation=True), 19),
        (recipe.WideResNet(depth=16, width=1), 13),
    ],
)
def test_networks_have_them_in_bf16_only(
    spec: recipe.CifarResNet | recipe.ResNet | recipe.WideResNet, count: int
) -> None:
    model, x = build_model(spec, 10).to(memory_format=torch.channels_last), bf16(2, 3, 32, 32, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused_norms(model(x)) == 0
    accelerate(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert fused_norms(model(x)) == count
    assert fused_norms(model(x.float())) == 0


def test_network_learns_with_them_what_it_learns_in_fp32() -> None:
    torch.manual_seed(0)
    model = build_model(recipe.CifarResNet(depth=20), 10).to(memory_format=torch.channels_last)
    accelerate(model)
    x, labels = bf16(8, 3, 32, 32, seed=1).detach().float(), torch.arange(8)
    gradients = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = nn.functional.cross_entropy(model(x), labels)
        found = torch.autograd.grad(loss, list(model.parameters()))
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.97
