"""GPUs of a machine and its ranks, buffers that are shared, and errors of the processes' communication."""

import resource
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
import torch.distributed as dist
from torch import nn

from launch.checks import run_checks
from launch.comparison import Checks
from tests.support.processes import TIMEOUT, rank_variables, start_ranks
from trainer.__main__ import main
from trainer.commands.step_memory import choose_device
from trainer.distributed import faulty_node, process_group
from trainer.distributed.process_group import (
    World,
    gpu_index,
    if_all_end,
    refuse_shared_gpus,
    require_same,
    share_buffers,
)
from trainer.errors import LocalError, NodeError, SharedError, Stopped, UserError
from trainer.process.unforeseen import exit_code_of
from trainer.run.init_weights import InitWeights
from trainer.run.teacher import Teacher


@pytest.mark.parametrize(
    ("local_rank", "local_size", "count", "index"), [(0, 1, 1, 0), (7, 8, 8, 7), (3, 4, 8, 3), (5, 8, 1, 0)]
)
def test_gpu_index_is_the_local_rank_or_the_only_visible_gpu(
    local_rank: int, local_size: int, count: int, index: int
) -> None:
    assert gpu_index(local_rank, local_size, count, one_machine=True) == index


@pytest.mark.parametrize(
    ("count", "problem"), [(7, "8 processes on this machine, but 7 GPUs"), (0, "torch can use no GPU")]
)
def test_gpu_index_refuses_too_few_gpus_on_every_rank_of_the_machine(count: int, problem: str) -> None:
    for local_rank in range(8):
        with pytest.raises(UserError, match=problem) as refused:
            gpu_index(local_rank, 8, count, one_machine=True)
        assert refused.value.exit_code == 2
        with pytest.raises(NodeError, match=f"node {socket.gethostname()}: .*{problem}") as lost:
            gpu_index(local_rank, 8, count, one_machine=False)
        assert lost.value.exit_code == 75


def test_shared_gpus_are_refused_with_both_ranks() -> None:
    refuse_shared_gpus([("a", "GPU-1"), ("a", "GPU-2"), ("b", "GPU-1")])
    with pytest.raises(SharedError, match=r"ranks 1 and 2 share one GPU of a \(GPU-2\)"):
        refuse_shared_gpus([("a", "GPU-1"), ("a", "GPU-2"), ("a", "GPU-2")])


def test_require_same_goes_by_the_weights_and_not_by_the_names_of_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(rank=0, size=2, local_rank=0, local_size=2, device=torch.device("cpu"), gloo=MagicMock())
    start = InitWeights(kind="file", file="x.pth", sha256="0" * 64, key="state_dict")
    teacher = Teacher(network="ResNet-50", file="t.pth", sha256="0" * 64)
    others: list[tuple[object, object, str | None]] = [
        (start, replace(start, file="y.pth"), None),
        (start, replace(start, key="state_dict_ema"), r"state_dict_ema in x\.pth .* instead of state_dict in x\.pth"),
        (start, replace(start, sha256="0" * 63 + "1"), r"sha256='0+1'.* instead of .*sha256='0+'"),
        (teacher, replace(teacher, file="u.pth"), None),
        (teacher, replace(teacher, sha256="1" * 64), r"sha256:1+\) instead of .*sha256:0+\)"),
    ]
    for ours, theirs, answer in others:
        monkeypatch.setattr(process_group, "gather", lambda _, value, theirs=theirs: [value, theirs])
        with pytest.raises(SharedError, match=answer) if answer else nullcontext():
            require_same(world, "start", ours)


def test_share_buffers_sends_one_message_for_each_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))
    sent: list[torch.Tensor] = []

    def broadcast(tensor: torch.Tensor, src: int) -> None:
        sent.append(tensor.clone())
        tensor += torch.arange(len(tensor))  # what rank 0 has

    monkeypatch.setattr(dist, "broadcast", broadcast)
    world = World(rank=1, size=2, local_rank=1, local_size=2, device=torch.device("cpu"), gloo=MagicMock())
    before = [buffer.clone() for buffer in model.buffers()]
    share_buffers(world, model)
    assert [(tensor.dtype, len(tensor)) for tensor in sent] == [(torch.float32, 16), (torch.int64, 2)]
    added = [buffer - old for buffer, old in zip(model.buffers(), before, strict=True)]
    assert [found.tolist() for found in added] == [
        [0, 1, 2], [3, 4, 5], 0, [6, 7, 8, 9, 10], [11, 12, 13, 14, 15], 1
    ]  # fmt: skip


def test_nccl_errors_are_one_line_with_the_reason_that_nccl_gives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    text = (
        "NCCL error in: NCCLUtils.cpp:94, invalid usage (run with NCCL_DEBUG=WARN for details)\n"
        "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\n"
        "Last error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 50\n"
    )
    assert exit_code_of(dist.DistBackendError(text)) == 75
    place = f"node {socket.gethostname()}, rank 1"
    reason = "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 50"
    assert capsys.readouterr().err == f"error: NCCL failed on {place}: {reason}\n"
    assert exit_code_of(dist.DistBackendError("Connection closed by peer [10.0.0.2]:1234")) == 75
    assert "another process of this run has exited or cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    "reason",
    [
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    ],
)
def test_broken_gpu_is_one_line_and_its_node_is_reported(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "9")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(faulty_node.VARIABLE, str(tmp_path / "faulty"))
    more = "\nCUDA kernel errors might be asynchronously reported at some other API call"
    assert exit_code_of(torch.AcceleratorError(reason + more)) == 75
    told = f"node {socket.gethostname()}, rank 9, GPU 1: {reason}"
    assert capsys.readouterr().err == f"error: {told}: leave this node out, or restart it\n"
    assert (tmp_path / "faulty").read_text() == told
    with pytest.raises(torch.AcceleratorError):  # a mistake of the program
        exit_code_of(torch.AcceleratorError("CUDA error: an illegal memory access was encountered" + more))


@pytest.mark.parametrize(
    "entry", [lambda: main(["recipes", "digits"]), lambda: run_checks(Checks(data=None, run_dir=None, device="cpu"))]
)
def test_limit_of_open_files_is_raised_by_training_and_by_its_checks(
    entry: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in rank_variables(1)[0].items():
        monkeypatch.setenv(name, value)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        entry()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA with one device, as far as process_group.initialize looks at it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: MagicMock(uuid="GPU-1"))


@pytest.mark.parametrize(("machines", "error", "code"), [(1, UserError, 2), (2, NodeError, 75)])
def test_gpu_that_cuda_cannot_use_is_not_replaced_by_the_cpu(
    machines: int, error: type[UserError], code: int, one_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML counts it where CUDA cannot start. On the CPU this rank would wait for ranks that wait in NCCL."""
    for name, value in (("WORLD_SIZE", str(machines)), ("MASTER_ADDR", "n0"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with (
        pytest.raises(error, match=r"torch can use no GPU: .* or use --device cpu") as refused,
        process_group.initialize("auto", 1),
    ):
        pass
    assert refused.value.exit_code == code
    with pytest.raises(UserError, match="torch can use no GPU"):
        choose_device("auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == torch.device("cpu")


def test_rank_with_another_kind_of_device_than_rank_0_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a driver among others: its gloo and their NCCL would wait for each other."""
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "n0"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    store = dist.HashStore()  # type: ignore[attr-defined]
    process_group.refuse_other_device("cuda", 0, store)
    monkeypatch.setattr(process_group, "_store", lambda *_: store)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with (
        pytest.raises(NodeError, match="rank 1 would train on cpu, but rank 0 on cuda"),
        process_group.initialize("auto", 1),
    ):
        pass
    process_group.refuse_other_device("cuda", 1, store)


def test_one_process_on_a_gpu_needs_no_nccl(one_gpu: None) -> None:
    with process_group.initialize("cuda", 1) as world:
        assert dist.get_backend() == "gloo"
        assert world.device == torch.device("cuda", 0)
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("error", "destroyed"),
    [(Stopped("", signal.SIGTERM), 1), (SharedError(""), 1), (RuntimeError(), 0), (KeyboardInterrupt(), 0)],
    ids=repr,
)
def test_nccl_group_is_destroyed_where_all_ranks_end_together(
    error: BaseException, destroyed: int, one_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else torch warns on each node; but the destruction waits for peers, which may be waiting for this rank."""
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("MASTER_ADDR", "n0"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    calls = MagicMock(new_group=lambda **_: MagicMock(spec=dist.ProcessGroup), ProcessGroup=dist.ProcessGroup)
    monkeypatch.setattr(process_group, "dist", calls)
    monkeypatch.setattr(process_group, "lost_peer", MagicMock())
    places = iter([[process_group.place_of(torch.device("cpu"))] * 2, [("n0", "GPU-1"), ("n1", "GPU-1")]])
    monkeypatch.setattr(process_group, "_gather", lambda *_: next(places))
    with pytest.raises(type(error)), process_group.initialize("cuda", 1):
        raise error
    assert calls.init_process_group.call_args.args == ("nccl",)
    assert calls.destroy_process_group.call_count == destroyed


@pytest.mark.parametrize(
    ("size", "error", "called"),
    [
        (2, None, 1),
        (2, Stopped("", signal.SIGTERM), 1),
        (2, SharedError(""), 1),
        (2, LocalError(""), 0),
        (1, LocalError(""), 1),
    ],
    ids=repr,
)
def test_device_is_waited_for_at_the_end_unless_a_rank_ends_alone(
    size: int, error: BaseException | None, called: int
) -> None:
    """Its device may wait for the other ranks, and those for the end of this process."""
    world = World(rank=0, size=size, local_rank=0, local_size=size, device=torch.device("cpu"), gloo=MagicMock())
    close = MagicMock()
    with pytest.raises(type(error)) if error else nullcontext(), ExitStack() as stack:
        stack.push(if_all_end(world, close))
        if error:
            raise error
    assert close.call_count == called


# Two ranks with different gradients: with bf16 they are rounded before they are summed, and the weights stay fp32. A
# bucket ends with the parameter that fills it, here with the weight of a layer.
EXCHANGED = """
import torch
from torch import nn
from trainer.distributed import ddp, process_group

def exchanged(layers, compression=None, bucket_mb=25.0):
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Linear(*size) for size in layers))
    model = ddp.wrap(network, world, compression, bucket_mb)
    ddp.warm_up_buckets(model, torch.zeros(1, 40), "fp32")
    torch.manual_seed(world.rank)
    model(torch.randn(4, 40)).square().sum().backward()
    return [each.grad.clone() for each in model.parameters()], len(model.reducer._get_zeros_like_grad_buckets())

with process_group.initialize("cpu", 15) as world:
    (plain, _), (rounded, _) = exchanged([(40, 30)]), exchanged([(40, 30)], "bf16")
    assert all(each.dtype == torch.float32 for each in rounded)
    assert not any(torch.equal(ours, theirs) for ours, theirs in zip(rounded, plain, strict=True))
    for ours, theirs in zip(rounded, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2**-6, atol=0.1)
    layers = [(40, 30), (30, 30)]
    (together, few), (apart, more) = exchanged(layers), exchanged(layers, bucket_mb=0.001)
    assert (few, more) == (1, 2), (few, more)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(together, apart, strict=True))
print("exchanged", flush=True)
"""


@pytest.mark.slow
def test_gradients_are_exchanged_in_bf16_on_request_and_in_buckets_of_any_size() -> None:
    ranks = start_ranks(["-c", EXCHANGED], 2)
    said = [rank.communicate(timeout=TIMEOUT) for rank in ranks]
    assert [out.strip() for out, _ in said] == ["exchanged"] * 2, said
