"""The step as a CUDA graph, by a recorder that does on a CPU what CUDA does on a GPU, beside the plain step."""

import itertools
import math
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock, call, create_autospec

import pytest
import torch
from torch import Tensor

from tests.support.forked import Forked
from tests.support.processes import TIMEOUT, different, start_ranks
from tests.support.recorded_run import NEVER, RECIPE, REPLAYS, Run, full
from trainer import cuda_graph
from trainer.__main__ import main
from trainer.cuda_graph import (
    WARM_UP,
    Computed,
    _difference,
    check_compile_mode,
    check_recordable,
    cuda_recorder,
    leave_default_stream,
)
from trainer.distributed import process_group
from trainer.distributed.process_group import World
from trainer.errors import LocalError, SharedError, UserError
from trainer.recipe import LAMB, SGD, AdamW, DecoupledSGD
from trainer.settings import BenchmarkSettings, TrainSettings


@pytest.fixture
def world() -> Iterator[World]:
    with process_group.initialize("cpu", timeout_minutes=1) as world:
        yield world


@pytest.mark.parametrize("optimizer", [RECIPE.optimizer, AdamW(lr=0.01, weight_decay=0.1)])
def test_cuda_graph_of_a_step_is_the_plain_step_bit_for_bit(optimizer: SGD | AdamW, world: World) -> None:
    """With two sizes, rising rates, dropout, mixing, clipping and EMA: weights, statistics, losses and norms."""
    recipe = replace(RECIPE, optimizer=optimizer)
    recorded = Run(world, recipe).train()
    assert recorded.replays == REPLAYS
    assert not different(recorded.saved(), Run(world, recipe, warm_up=NEVER).train().saved())
    found = recorded.state.save()
    plain = Run(world, recipe, graph=False).train().state.save()  # whose rates are float64
    torch.testing.assert_close(found["model"], plain["model"], rtol=1e-3, atol=1e-4)
    groups, plain_groups = found["optimizer"]["param_groups"], plain["optimizer"]["param_groups"]
    assert [list(group) for group in groups] == [list(group) for group in plain_groups]
    assert groups == [group | {"lr": pytest.approx(group["lr"])} for group in plain_groups]


@pytest.mark.slow
def test_cuda_graph_with_ddp_is_the_plain_step_bit_for_bit() -> None:
    (said, _), _ = ended(start_ranks(["-m", "tests.support.recorded_run"], 2))
    assert said.strip() == f"[{REPLAYS}, {REPLAYS}] replays, different: [], same on all ranks: True"


@pytest.mark.slow
def test_cuda_graph_that_is_wrong_on_one_rank_ends_all_ranks_together() -> None:
    """The recording of rank 0 is right, and it says the same."""
    (said, _), (other, _) = ended(start_ranks(["-m", "tests.support.recorded_run", "aten.native_batch_norm."], 2))
    assert said == other
    assert "the CUDA graph of the step differs from the plain step in " in said


@pytest.mark.slow
def test_cuda_graph_that_does_not_fit_on_one_rank_ends_all_and_that_rank_says_why() -> None:
    """Rank 0 waits for the gradients of rank 1, and not for what it says of its comparison. It adds no line."""
    ranks = start_ranks(["-m", "tests.support.recorded_run", "memory"], 2)
    (_, lost), (said, _) = [rank.communicate(timeout=TIMEOUT) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [75, 2]
    assert re.match(r"out of GPU memory, .*: leave out --cuda-graph, or .*: CUDA out of memory", said)
    assert not lost


def ended(ranks: list[Forked]) -> list[tuple[str, str]]:
    said = [rank.communicate(timeout=TIMEOUT) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), said
    return said


FAULTS = [
    (SGD, "aten.bernoulli_"),
    (SGD, "aten.native_batch_norm."),
    (SGD, "aten._fused_sgd_"),
    (AdamW, "aten._fused_adamw_"),
    (SGD, "learning rate"),
    (AdamW, "learning rate"),
    (SGD, "images"),
]


@pytest.mark.parametrize(("optimizer", "fault"), FAULTS)
def test_cuda_graph_check_finds_what_a_recording_lacks(
    optimizer: type[SGD | AdamW], fault: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = fault if fault.startswith("aten") else ""
    if fault == "learning rate":  # is a number in the recording
        monkeypatch.setattr(cuda_graph, "_rates_on_device", lambda _optimizer, _rates: nullcontext())
    run = Run(world, replace(RECIPE, optimizer=optimizer(lr=0.01)), without=without)
    if fault == "images":  # are always the same in the recording, which is one call more than the plain steps
        recorded = run.step._recorded
        assert recorded
        plain, calls, same = recorded._plain, itertools.count(), torch.ones(8, 3, 16, 16)
        recorded._plain = lambda images, targets: plain(same if next(calls) == WARM_UP else images, targets)
    with pytest.raises(SharedError, match=r"differs from the plain step in .+: leave out --cuda-graph"):
        run.train()
    assert run.state.position.step == WARM_UP


def test_cuda_graph_of_a_step_that_reads_a_value_is_refused(world: World) -> None:
    run = Run(world)
    clip = run.step._clip

    def reading_clip() -> Tensor:
        norm = clip()
        norm.item()
        return norm

    run.step._clip = reading_clip
    with pytest.raises(SharedError, match=r"cannot be a CUDA graph: operation not permitted .* leave out --cuda-graph"):
        run.train()


def test_cuda_graph_is_not_blamed_for_a_loss_that_is_not_finite_and_compared_at_the_next_step(world: World) -> None:
    run = Run(world)
    recorded = run.step._recorded
    assert recorded
    batches = [torch.randn(8, 3, 16, 16).to(memory_format=torch.channels_last) for _ in range(WARM_UP)]
    targets = torch.full((8, 10), 0.1)
    for images in batches:
        recorded(images, targets, seed=0)
    (recording,) = recorded._recordings.values()
    before = run.saved()
    assert not recorded._check(recording, torch.full_like(batches[0], torch.inf), targets, seed=0)
    assert not different(run.saved(), before)
    assert recorded._check(recording, batches[0], targets, seed=0)


def test_cuda_graph_whose_replay_is_not_finite_is_not_the_plain_step() -> None:
    one, nothing, wrong = [torch.ones(3)], [torch.zeros(3)], [torch.tensor([1.0, torch.nan, 1.0])]
    assert _difference(nothing, one, wrong) == math.inf
    assert math.isnan(_difference(nothing, wrong, one))
    assert _difference(nothing, nothing, one) == math.inf
    assert _difference(nothing, nothing, nothing) == 0.0
    assert _difference(None, one, [torch.full((3,), 1.5)]) == 0.5


def test_cuda_graph_is_recorded_on_the_current_stream_into_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is here to record anything; the arguments are those of the installed torch."""
    recording = create_autospec(torch.cuda.graph)
    for name in ("CUDAGraph", "Stream", "current_stream", "graph_pool_handle", "set_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.cuda, "graph", recording)
    leave_default_stream.cache_clear()
    leave_default_stream(torch.device("cuda", 0))
    torch.cuda.set_stream.assert_called_once_with(torch.cuda.Stream.return_value)  # type: ignore[attr-defined]
    leave_default_stream.cache_clear()
    record, computed = cuda_recorder(), Computed(*torch.ones(3))
    assert [record(lambda: computed) for _ in range(2)] == [(torch.cuda.CUDAGraph.return_value, computed)] * 2  # type: ignore[attr-defined]
    pool, stream = torch.cuda.graph_pool_handle.return_value, torch.cuda.current_stream.return_value  # type: ignore[attr-defined]
    once = call(torch.cuda.CUDAGraph.return_value, pool, stream, capture_error_mode="thread_local")  # type: ignore[attr-defined]
    assert recording.call_args_list == [once] * 2


def test_cuda_graph_is_freed_at_the_end(world: World) -> None:
    run = Run(world).train()
    run.step.close()
    assert all(not recording.operations for recording in run.recordings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precision": "fp16"}, "cuda_graph: fp16 decides after each step"),
        ({"optimizer": LAMB(lr=0.01)}, "cuda_graph: LAMB computes with its learning rate on the host"),
        ({"optimizer": DecoupledSGD(lr=0.1)}, "cuda_graph: DecoupledSGD computes with its learning rate on the host"),
        ({"global_batch_size": 32}, "cuda_graph: a step of 4 micro-batches .* use a micro_batch_size of 32"),
    ],
)
def test_cuda_graph_refuses_recipes_that_it_cannot_record(change: dict[str, object], said: str, world: World) -> None:
    on_gpu = replace(world, device=torch.device("cuda", 0))
    check_recordable(RECIPE, on_gpu)
    with pytest.raises(UserError, match=said):
        check_recordable(replace(RECIPE, **change), on_gpu)  # type: ignore[arg-type]


def test_graphs_of_torch_compile_are_refused_where_they_would_lose_gradients(world: World) -> None:
    on_gpu = replace(world, device=torch.device("cuda", 0))
    of_four = replace(RECIPE, global_batch_size=32)
    with pytest.raises(UserError, match=r"'max-autotune' cannot add up the gradients of 4 micro-batches: use .* of 32"):
        check_compile_mode(of_four, on_gpu, "max-autotune")
    check_compile_mode(RECIPE, on_gpu, "max-autotune")
    check_compile_mode(of_four, on_gpu, "default")
    check_compile_mode(of_four, world, "max-autotune")


def test_cuda_graph_that_does_not_fit_into_memory_says_so_and_what_to_leave_out(world: World) -> None:
    run = Run(world)
    recorded = run.step._recorded
    assert recorded
    recorded._record = full  # type: ignore[assignment]
    with pytest.raises(SharedError, match=r"out of GPU memory, .*: leave out --cuda-graph, or .*: CUDA out of memory"):
        run.train()
    run = Run(world)
    recorded = run.step._recorded
    assert recorded
    recorded._replay = full  # type: ignore[method-assign]
    with pytest.raises(LocalError, match=r"out of GPU memory, .*: leave out --cuda-graph, or .*: CUDA out of memory"):
        run.train()


def test_cuda_graph_without_a_gpu_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "synthetic:2000", "--run-dir", str(tmp_path / "run"), "--device", "cpu", "--cuda-graph"]
    assert main(["train", "resnet20_digits", *words]) == 2
    said = capsys.readouterr().err
    assert said == "error: cuda_graph needs a GPU, and this trains on cpu: leave out --cuda-graph\n"
    assert not (tmp_path / "run").exists()


def test_cuda_graph_is_not_recorded_twice() -> None:
    for mode in ("reduce-overhead", "max-autotune"):
        with pytest.raises(ValueError, match="has CUDA graphs of its own: choose it or --cuda-graph"):
            BenchmarkSettings(data="d", compile=True, compile_mode=mode, cuda_graph=True)  # type: ignore[arg-type]
    assert TrainSettings(data="d", run_dir="r", compile=True, cuda_graph=True).cuda_graph  # type: ignore[arg-type]
