"""The step as a CUDA graph, by a recorder that does on a CPU what CUDA does on a GPU, beside the plain step."""

import inspect
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.processes import TIMEOUT, start_ranks
from tests.support.recorded_run import NEVER, RECIPE, REPLAYS, Run, different
from trainer import cuda_graph
from trainer.__main__ import main
from trainer.cuda_graph import WARM_UP, check_recordable
from trainer.data.device import DeviceBatch
from trainer.distributed import process_group
from trainer.distributed.process_group import World
from trainer.errors import LocalError, UserError
from trainer.recipe import LAMB, SGD, AdamW
from trainer.settings import BenchmarkSettings, TrainSettings


@pytest.fixture
def world() -> Iterator[World]:
    with process_group.world("cpu", timeout_minutes=1) as world:
        yield world


@pytest.mark.parametrize("optimizer", [RECIPE.optimizer, AdamW(lr=0.01, weight_decay=0.1)])
def test_cuda_graph_of_a_step_is_the_plain_step_bit_for_bit(optimizer: SGD | AdamW, world: World) -> None:
    """With two sizes, rising rates, dropout, mixing, clipping and EMA: weights, statistics, losses and norms."""
    recipe = replace(RECIPE, optimizer=optimizer)
    recorded = Run(world, recipe).train()
    assert recorded.replays == REPLAYS
    found = recorded.state.save()
    assert not different(found, Run(world, recipe, warm_up=NEVER).train().state.save())
    plain = Run(world, recipe, graph=False).train().state.save()  # whose rates are float64
    torch.testing.assert_close(found["model"], plain["model"], rtol=1e-3, atol=1e-4)
    groups, plain_groups = found["optimizer"]["param_groups"], plain["optimizer"]["param_groups"]
    assert [list(group) for group in groups] == [list(group) for group in plain_groups]
    assert groups == [group | {"lr": pytest.approx(group["lr"])} for group in plain_groups]


@pytest.mark.slow
def test_cuda_graph_with_ddp_is_the_plain_step_bit_for_bit() -> None:
    ranks = start_ranks(["-m", "tests.support.recorded_run"], 2)
    said, _ = ranks[0].communicate(timeout=TIMEOUT)
    assert said.strip() == f"[{REPLAYS}, {REPLAYS}] replays, different: [], same on all ranks: True"


@pytest.mark.parametrize(
    "fault", ["aten.bernoulli_", "aten.native_batch_norm.", "aten._fused_sgd_", "the learning rate as a number"]
)
def test_cuda_graph_check_finds_what_a_recording_lacks(
    fault: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault.startswith("the"):
        monkeypatch.setattr(cuda_graph, "_rates_on_device", lambda _optimizer, _rates: nullcontext())
        fault = ""
    run = Run(world, without=fault)
    with pytest.raises(LocalError, match=r"differs from the plain step b.+ in its .+: leave out --cuda-graph"):
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
    with pytest.raises(LocalError, match=r"cannot be a CUDA graph: operation not permitted .* leave out --cuda-graph"):
        run.train()


def test_cuda_graph_is_not_blamed_for_a_loss_that_is_not_finite(world: World) -> None:
    run = Run(world)
    images = torch.full((8, 3, 16, 16), torch.inf).to(memory_format=torch.channels_last)
    for _ in range(WARM_UP + 1):
        run.step(DeviceBatch(images, torch.zeros(8, dtype=torch.int64), torch.arange(8)), 0)
    assert run.state.position.step == WARM_UP + 1


def test_cuda_graph_recorder_calls_torch_as_this_torch_has_it() -> None:
    inspect.signature(torch.cuda.graph).bind(None, None, None, capture_error_mode="thread_local")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precision": "fp16"}, "cuda_graph: fp16 decides after each step"),
        ({"optimizer": LAMB(lr=0.01)}, "cuda_graph: LAMB computes with its learning rate on the host"),
        ({"global_batch_size": 32}, "cuda_graph: a step of 4 micro-batches .* use a micro_batch_size of 32"),
    ],
)
def test_cuda_graph_refuses_recipes_that_it_cannot_record(change: dict[str, object], said: str, world: World) -> None:
    on_gpu = replace(world, device=torch.device("cuda", 0))
    check_recordable(RECIPE, on_gpu)
    with pytest.raises(UserError, match=said):
        check_recordable(replace(RECIPE, **change), on_gpu)  # type: ignore[arg-type]


def test_cuda_graph_without_a_gpu_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "synthetic:2000", "--run-dir", str(tmp_path / "run"), "--device", "cpu", "--cuda-graph"]
    assert main(["train", "resnet20_digits", *words]) == 2
    said = capsys.readouterr().err
    assert said == "error: cuda_graph needs a GPU, and this trains on cpu: leave out --cuda-graph\n"
    assert not (tmp_path / "run").exists()


def test_cuda_graph_is_not_recorded_twice() -> None:
    with pytest.raises(ValueError, match="records CUDA graphs of its own: choose it or --cuda-graph"):
        BenchmarkSettings(data="d", compile=True, compile_mode="reduce-overhead", cuda_graph=True)
    assert TrainSettings(data="d", run_dir="r", compile=True, cuda_graph=True).cuda_graph  # type: ignore[arg-type]
