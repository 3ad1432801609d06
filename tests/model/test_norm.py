"""Norms over groups of a micro-batch are accumulation's, and precise norms hold the moments of what they saw."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.processes import ROOT, TIMEOUT
from trainer import recipe
from trainer.distributed import process_group
from trainer.distributed.process_group import World
from trainer.distributed.run_ahead import RunAhead
from trainer.model import build_model
from trainer.model.norm import GhostBatchNorm2d, convert_ghost_batchnorm
from trainer.optim.optimizer import sort_parameters
from trainer.precise_bn import measure_norms

SPECS: dict[str, recipe.ResNet | recipe.CifarResNet | recipe.WideResNet | recipe.LibraryModel] = {
    "ours": recipe.ResNet(depth=18),
    "cifar": recipe.CifarResNet(depth=8),
    "relative": recipe.ResNet(depth=18, variant="d", se_ratio=1 / 16),
    "pre-activation": recipe.WideResNet(depth=10, width=1),
    "torchvision": recipe.LibraryModel(name="torchvision/shufflenet_v2_x0_5"),
    "timm": recipe.LibraryModel(name="timm/mobilenetv3_small_050"),  # norms with activations in them
}


def build(name: str = "cifar", norm_batch_size: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    return build_model(SPECS[name], 10, norm_batch_size)


def images(count: int, size: int = 16, seed: int = 1) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    # groups of images differ, so that a norm over all of them is another one
    return torch.randn(count, 3, size, size, generator=draws) * torch.linspace(0.5, 2, count)[:, None, None, None]


def norms_of(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def step(model: nn.Module, parts: list[Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Accumulates the gradients of a mean over all images, a part at a time."""
    total = sum(map(len, parts))
    labels = torch.arange(total) % 10
    for part, target in zip(parts, labels.split([len(part) for part in parts]), strict=True):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            logits = model(part)
        (functional.cross_entropy(logits.float(), target, reduction="sum") / total).backward()


# ------------------------------------------------------------------------------------------------------------ groups


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels_last"),
    [("ours", True), ("cifar", False), ("cifar", True), ("torchvision", True), ("timm", False)],
)
def test_groups_of_a_micro_batch_are_accumulated_micro_batches(name: str, channels_last: bool) -> None:
    batch = images(24, 32)
    split, plain, accumulated = build(name, 8), build(name), build(name)
    if channels_last:
        batch = batch.to(memory_format=torch.channels_last)
        for model in (split, plain, accumulated):
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for model in (split, plain, accumulated):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    step(split, [batch])
    step(accumulated, list(batch.split(8)))
    step(plain, [batch])
    assert len(gradients(split)) == len(list(split.parameters()))
    # the sums run in another order, and a small gradient is the difference of large numbers
    torch.testing.assert_close(gradients(split), gradients(accumulated), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(dict(split.named_buffers()), dict(accumulated.named_buffers()), rtol=1e-4, atol=1e-5)
    assert all(norm.num_batches_tracked == 3 for norm in norms_of(split))
    name_of_first = next(iter(gradients(plain)))
    difference = (gradients(split)[name_of_first] - gradients(plain)[name_of_first]).norm()
    assert difference > 0.01 * gradients(plain)[name_of_first].norm()
    assert not torch.allclose(norms_of(split)[-1].running_var, norms_of(plain)[-1].running_var, rtol=1e-2)  # type: ignore[arg-type]


def test_group_is_normalised_by_its_own_mean_and_variance() -> None:
    norm = nn.BatchNorm2d(3)
    convert_ghost_batchnorm(norm, 4)
    batch = images(12)
    for group, found in zip(batch.split(4), norm(batch).detach().split(4), strict=True):
        values = group.double().numpy()
        mean, var = values.mean(axis=(0, 2, 3), keepdims=True), values.var(axis=(0, 2, 3), keepdims=True)
        np.testing.assert_allclose(found.numpy(), (values - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)


def test_running_statistics_take_a_step_per_group_in_order() -> None:
    norm = nn.BatchNorm2d(3)
    convert_ghost_batchnorm(norm, 4)
    batch = images(12)
    norm(batch)
    mean, var = np.zeros(3), np.ones(3)
    for group in batch.split(4):
        values = group.double().numpy()
        mean = 0.9 * mean + 0.1 * values.mean(axis=(0, 2, 3))
        var = 0.9 * var + 0.1 * values.var(axis=(0, 2, 3)) * 1024 / 1023  # unbiased: of 4 images of 16 by 16
    assert norm.running_mean is not None and norm.running_var is not None
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), var, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_ghost_norms_keep_names_kinds_weights_and_evaluation(name: str) -> None:
    split, plain = build(name, 8), build(name)
    assert len(norms_of(split)) == len(norms_of(plain)) > 0
    assert all(isinstance(norm, GhostBatchNorm2d) for norm in norms_of(split))
    assert list(split.state_dict()) == list(plain.state_dict())
    assert all(map(torch.equal, split.state_dict().values(), plain.state_dict().values()))
    assert [len(group) for group in sort_parameters(split)] == [len(group) for group in sort_parameters(plain)]
    with torch.inference_mode():
        assert torch.equal(split.eval()(images(3, 32)), plain.eval()(images(3, 32)))


def test_batch_of_one_group_is_plain_batch_norm() -> None:
    split, plain = build("cifar", 8), build("cifar")
    assert torch.equal(split(images(8)), plain(images(8)))
    assert all(map(torch.equal, split.buffers(), plain.buffers()))


@pytest.mark.parametrize("count", [4, 12, 31])
def test_batch_that_groups_do_not_fill_is_refused_in_training_only(count: int) -> None:
    model = build("cifar", 8)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"micro-batch of {count} images is not a multiple of norm_batch_size=8"):
        model(images(count))
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert model.eval()(images(count)).shape == (count, 10)


def test_group_of_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match="norm_batch_size=0 is not a positive number"):
        build("cifar", 0)


def test_norm_splitting_again_changes_the_size_only() -> None:
    model = build("timm", 8)
    kinds = [type(module) for module in model.modules()]
    convert_ghost_batchnorm(model, 4)
    assert [type(module) for module in model.modules()] == kinds
    assert {norm.norm_batch_size for norm in model.modules() if isinstance(norm, GhostBatchNorm2d)} == {4}


@pytest.mark.parametrize("name", ["cifar", "timm"])
def test_copy_of_a_split_model_has_statistics_of_its_own(name: str) -> None:
    model = build(name, 8)
    twin = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    twin(images(16, 32))
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert all(norm.num_batches_tracked == 2 for norm in norms_of(twin))


def test_groups_work_in_bf16_and_stay_channels_last() -> None:
    model = build("cifar", 8).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    outputs: list[Tensor] = []
    for norm in norms_of(model):
        norm.register_forward_hook(lambda _module, _args, out: outputs.append(out))
    step(model, [images(16).to(memory_format=torch.channels_last)], torch.bfloat16)
    assert len(outputs) == len(norms_of(model)) == 7
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in outputs)
    assert all(out.dtype == torch.bfloat16 for out in outputs)
    assert all(grad.isfinite().all() and grad.dtype == torch.float32 for grad in gradients(model).values())
    assert all(norm.running_var is not None and norm.running_var.dtype == torch.float32 for norm in norms_of(model))


def joined_groups(norm: GhostBatchNorm2d, batch: Tensor) -> Tensor:
    """The oracle: BatchNorm2d on each group, with autograd's own copies and sums."""
    return torch.cat([nn.BatchNorm2d.forward(norm, group) for group in batch.split(norm.norm_batch_size)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("weight", "bias")])
def test_groups_have_the_values_and_gradients_of_batch_norms_that_are_joined(
    dtype: torch.dtype, channels_last: bool, frozen: tuple[str, ...]
) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    batch = images(12).to(dtype).contiguous(memory_format=layout)
    results = []
    for forward in (GhostBatchNorm2d.forward, joined_groups):
        norm = nn.BatchNorm2d(3)
        convert_ghost_batchnorm(norm, 4)
        assert isinstance(norm, GhostBatchNorm2d)
        for name in frozen:
            norm.get_parameter(name).requires_grad_(False)
        given = batch.clone().requires_grad_()
        output = forward(norm, given)
        (output.float() * images(12, seed=2)).sum().backward()
        results.append([output, *norm.buffers(), given.grad, norm.weight.grad, norm.bias.grad])
    for ours, expected in zip(*results, strict=True):
        assert (ours is None) == (expected is None)
        assert ours is None or (torch.equal(ours, expected) and ours.stride() == expected.stride())


class CountedOps(TorchDispatchMode):
    """Counts the operations that reach the dispatcher, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_groups_are_copied_in_the_backward_pass_only() -> None:
    model = build("cifar", 4)
    norms = len(norms_of(model))
    with CountedOps() as forward:
        loss = model(images(12)).sum()
    with CountedOps() as backward:
        loss.backward()
    assert forward.counts["native_batch_norm"] == backward.counts["native_batch_norm_backward"] == 3 * norms
    assert (forward.counts["cat"], backward.counts["cat"]) == (0, norms)


@pytest.mark.parametrize(
    ("dtype", "is_torchs_own"), [(torch.bfloat16, True), (torch.float16, False), (torch.float32, False)]
)
def test_groups_on_a_gpu_leave_the_kernels_of_cudnn_as_they_are(dtype: torch.dtype, is_torchs_own: bool) -> None:
    """On fake tensors: torch computes bf16 norms by its own kernels, and others by cuDNN's."""
    with FakeTensorMode(), CountedOps() as ops:
        norm = nn.BatchNorm2d(3, device="cuda")
        convert_ghost_batchnorm(norm, 4)
        output = norm(torch.empty(12, 3, 8, 8, dtype=dtype, device="cuda"))
    assert (output.device.type, output.dtype, output.shape) == ("cuda", dtype, (12, 3, 8, 8))
    assert ops.counts["cat"] == (not is_torchs_own)


@pytest.mark.slow
def test_groups_are_compiled_in_one_graph_that_joins_them() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _example: object) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled, eager = build("cifar", 4), build("cifar", 4)
    compiled.compile(backend=keep)
    assert torch.equal(compiled(images(12)), eager(images(12)))
    (graph,) = graphs
    assert sum(node.target is torch.cat for node in graph.graph.nodes) == len(norms_of(eager))


# ----------------------------------------------------------------------------------------------------------- precise


@pytest.fixture(scope="module")
def alone() -> Iterator[World]:
    with process_group.initialize("cpu", timeout_minutes=1) as world:
        yield world


def moments(batches: list[Tensor], model: nn.Module, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance of what reaches the norm `name` while norms normalise by batch, in float64."""
    seen: list[np.ndarray] = []
    twin = copy.deepcopy(model).train()
    twin.get_submodule(name).register_forward_pre_hook(lambda _m, args: seen.append(args[0].double().numpy()))
    with torch.no_grad():
        for batch in batches:
            twin(batch)
    values = np.concatenate(seen)
    return values.mean(axis=(0, 2, 3)), values.var(axis=(0, 2, 3), ddof=1)


@pytest.mark.parametrize("norm_batch_size", [None, 4])
@pytest.mark.parametrize("name", ["bn1", "layer1.0.bn1", "layer3.0.bn2"])
def test_measured_statistics_are_the_moments_of_all_values(
    name: str, norm_batch_size: int | None, alone: World
) -> None:
    model = build("cifar", norm_batch_size)
    batches = [scale * images(8, seed=seed) + scale for seed, scale in ((1, 1.0), (2, 3.0), (3, 0.5))]
    mean, var = moments(batches, model, name)
    measure_norms(model, batches, alone, "fp32")
    norm = model.get_submodule(name)
    assert isinstance(norm.running_mean, Tensor) and isinstance(norm.running_var, Tensor)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(norm.running_var.numpy(), var, rtol=1e-5)


def test_norm_one_batch_gives_what_a_norm_without_memory_keeps(alone: World) -> None:
    model, reference = build(), build()
    for norm in norms_of(reference):
        norm.momentum = 1.0
    reference(images(8))
    measure_norms(model, [images(8)], alone, "fp32")
    for found, expected in zip(norms_of(model), norms_of(reference), strict=True):
        torch.testing.assert_close(found.running_mean, expected.running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.running_var, expected.running_var, rtol=1e-4, atol=1e-5)


def test_measuring_changes_running_means_and_variances_and_nothing_else(alone: World) -> None:
    model = build("timm", 4)
    norms_of(model)[0].momentum = None
    step(model, [images(8, 32)])
    model.get_submodule("conv_stem").eval()
    norms_of(model)[1].eval()
    modes = [module.training for module in model.modules()]
    momenta = [(norm.momentum, norm.track_running_stats) for norm in norms_of(model)]
    grads, before = copy.deepcopy(gradients(model)), copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    measure_norms(model, [images(8, 32, seed=5)], alone, "fp32")
    assert torch.equal(torch.get_rng_state(), generator)  # so drop path and dropout were off
    assert [module.training for module in model.modules()] == modes
    assert True in modes and False in modes
    assert [(norm.momentum, norm.track_running_stats) for norm in norms_of(model)] == momenta
    assert all(torch.equal(grad, grads[name]) for name, grad in gradients(model).items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {name for name in after if name.endswith(("running_mean", "running_var"))}


@pytest.mark.slow
def test_drop_path_is_off_while_measuring(alone: World) -> None:
    torch.manual_seed(0)
    dropping = build_model(recipe.ResNet(depth=18, stem="cifar", drop_path=0.9), 10)
    torch.manual_seed(0)
    whole = build_model(recipe.ResNet(depth=18, stem="cifar"), 10)
    for model in (dropping, whole):
        measure_norms(model, [images(4)], alone, "fp32")
    assert all(map(torch.equal, dropping.buffers(), whole.buffers()))


def test_model_in_evaluation_is_measured_and_stays_there(alone: World) -> None:
    first, second = build(), build().eval()
    measure_norms(first, [images(8)], alone, "fp32")
    measure_norms(second, [images(8)], alone, "fp32")
    assert all(map(torch.equal, first.buffers(), second.buffers()))
    assert not any(module.training for module in second.modules())


def test_measuring_in_bf16_is_close_to_fp32(alone: World) -> None:
    full, half = build(), build()
    measure_norms(full, [images(8)], alone, "fp32")
    measure_norms(half, [images(8)], alone, "bf16")
    for expected, found in zip(norms_of(full), norms_of(half), strict=True):
        torch.testing.assert_close(found.running_var, expected.running_var, rtol=0.05, atol=0.01)
    assert not torch.equal(norms_of(full)[-1].running_var, norms_of(half)[-1].running_var)  # type: ignore[arg-type]


def test_measuring_nothing_is_an_error_and_leaves_the_statistics(alone: World) -> None:
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="no training image"):
        measure_norms(model, [], alone, "fp32")
    assert all(map(torch.equal, model.state_dict().values(), before.values()))


def test_measuring_keeps_the_host_near_the_gpu_after_each_batch(alone: World, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[RunAhead] = []
    monkeypatch.setattr(RunAhead, "after_batch", lambda run_ahead: kept.append(run_ahead))
    measure_norms(build(), [images(8)] * 3, alone, "fp32")
    assert len(kept) == 3 and len(set(kept)) == 1


def test_modes_come_back_where_a_batch_fails(alone: World) -> None:
    model = build("cifar", 8)
    with pytest.raises(ValueError, match="not a multiple"):
        measure_norms(model, [images(8), images(3)], alone, "fp32")
    assert all(module.training for module in model.modules())
    assert all(norm.track_running_stats and not norm._forward_pre_hooks for norm in norms_of(model))


def test_compiled_model_is_measured_by_the_code_it_was_compiled_from(
    alone: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled code may run without the hooks that were registered after it."""
    plain, compiled = build(), build()
    monkeypatch.setattr(compiled, "_compiled_call_impl", lambda _images: pytest.fail("ran compiled code"))
    for model in (plain, compiled):
        measure_norms(model, [images(8)], alone, "fp32")
    assert all(map(torch.equal, plain.buffers(), compiled.buffers()))


def test_network_without_norms_has_nothing_to_measure(alone: World) -> None:
    measure_norms(nn.Conv2d(3, 8, 3), [images(2)], alone, "fp32")


def measured(world: World) -> list[list[float]]:
    """Statistics of the first and the last norm after this rank's share of four batches."""
    model = build("cifar", 4)
    batches = [(seed + 1) * images(8, seed=seed) for seed in range(4)]
    share = 4 // world.size
    measure_norms(model, batches[world.rank * share :][:share], world, "fp32")
    norms = norms_of(model)
    found: list[Any] = [norms[0].running_mean, norms[0].running_var, norms[-1].running_mean, norms[-1].running_var]
    return [tensor.tolist() for tensor in found]


@pytest.mark.slow
def test_norm_two_ranks_with_half_the_batches_measure_what_one_measures_with_all(alone: World) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [sys.executable, *launcher, str(Path(__file__))],
        timeout=TIMEOUT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    ranks = json.loads(ended.stdout)
    assert len(ranks) == 2
    assert ranks[0] == ranks[1]
    for found, expected in zip(ranks[0], measured(alone), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":  # one of the two ranks
    with process_group.initialize("cpu", timeout_minutes=15) as world:
        shares: list[Any] = [None] * world.size
        torch.distributed.all_gather_object(shares, measured(world))
        if world.is_main:
            print(json.dumps(shares))
