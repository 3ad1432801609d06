"""Each fault of a machine is one line that names the node."""

import errno
import os
import pickle
import shlex
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from launch import checks
from launch.comparison import UNREAD, Checks, MachineFault, NodeFault, compare, may_start_again
from launch.links import rounds, slow_links, wrong_sums
from launch.settings import PreflightSettings
from launch.slurm import foreground
from tests.support.odd_images import class_folders
from tests.support.processes import TIMEOUT, start_ranks
from trainer.data import formats
from trainer.errors import UnreachableError

CHECKS = Checks(data="DATA", run_dir="RUNS")


def nodes(**of_the_second: Any) -> list[dict[str, Any]]:
    """Two nodes of two processes each; the second one with these differences."""
    versions = {"python": "3.11.7", "torch": "2.15.0"}
    well = {
        "versions": versions,
        "devices": 2,
        "device": "NVIDIA H200",
        "data": {"train": "sha256:aa", "val": "sha256:bb"},
        "free": 2**40,
        "clock": 1000.0,
    }
    places = [("n1", 0), ("n1", 1), ("n2", 0), ("n2", 1)]
    return [
        {**well, "rank": rank, "host": host, "local_rank": local, **(of_the_second if host == "n2" else {})}
        for rank, (host, local) in enumerate(places)
    ]


def test_nodes_that_are_alike_have_no_fault() -> None:
    assert compare(nodes(), CHECKS) == []


@pytest.mark.parametrize(
    ("difference", "fault"),
    [
        ({"versions": {"python": "3.11.7", "torch": "2.14.0"}}, "n2: torch 2.14.0, but n1 has 2.15.0"),
        ({"data": {"train": "sha256:aa", "val": "sha256:cc"}}, "n2: val of DATA is sha256:cc, but sha256:bb on n1"),
        ({"data": {"train": "sha256:aa", "val": "error: DATA is not there"}}, "n2: DATA is not there"),
        ({"free": 2**30}, "n2: 1.0 GiB are free for RUNS, less than 2"),
        ({"free": "RUNS cannot be written"}, "n2: RUNS cannot be written"),
        ({"clock": 1003.5}, "n2: its clock is +3.5 s from that of n1"),
        ({"device": "NVIDIA L4"}, "n2: rank {rank} sees NVIDIA L4, but rank 0 has NVIDIA H200"),
    ],
)
def test_preflight_what_differs_is_one_line_for_the_node(difference: dict[str, Any], fault: str) -> None:
    per_rank = [fault.format(rank=rank) for rank in (2, 3)] if "{rank}" in fault else [fault]
    assert compare(nodes(**difference), CHECKS) == per_rank


def test_preflight_every_process_has_to_see_its_device() -> None:
    one_less = compare(nodes(devices=1), CHECKS)
    assert one_less == [f"n2: rank {rank} sees 1 x NVIDIA H200, rank 0 2 x NVIDIA H200" for rank in (2, 3)]
    of_one = nodes()
    of_one[3] |= {"devices": 0, "device": "CPU"}
    assert compare(of_one, Checks(data=None, run_dir=None, device="cuda")) == ["n2: rank 3 sees no GPU"]


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_preflight_leaves_out_a_node_whose_cuda_cannot_start(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Fabric Manager or with an old driver, NVML counts the GPUs nevertheless."""

    def get_device_name() -> str:
        raise RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", get_device_name)
    asked = Checks(data=None, run_dir=None, device=device)
    found = checks._facts(asked)
    faults = compare(nodes(devices=found["devices"], device=found["device"]), asked)
    assert len(faults) == 2 and all(isinstance(fault, NodeFault) and fault.node == "n2" for fault in faults)


def test_preflight_leaves_out_a_node_where_others_are_sound() -> None:
    """In either order; what all nodes lack is for the user to change."""
    on_gpus = Checks(data="DATA", run_dir="RUNS", device="cuda")
    absent = {"train": "error: DATA is not there", "val": "error: DATA is not there"}
    for difference in (
        {"devices": 1},
        {"devices": 0, "device": "CPU"},
        {"data": absent},
    ):
        faults = compare(nodes(**difference), on_gpus)
        assert may_start_again(faults) and {fault.node for fault in faults} == {"n2"}
        reversed_faults = compare(nodes(**difference)[::-1], on_gpus)
        assert may_start_again(reversed_faults) and {fault.node for fault in reversed_faults} == {"n2"}
        alike = [{**node, **difference} for node in nodes()]
        assert not may_start_again(compare(alike, on_gpus))
    assert not may_start_again([])


def test_preflight_run_directory_that_cannot_be_written_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start has just written there, and the next one waits until it can be written again."""
    away = {"free": "RUNS is not there"}
    (of_one,) = compare(nodes(**away), CHECKS)
    assert isinstance(of_one, NodeFault) and of_one.node == "n2"
    of_all = compare([{**node, **away} for node in nodes()], CHECKS)
    assert of_all == ["n1: RUNS is not there", "n2: RUNS is not there"] and may_start_again(of_all)
    assert not any(isinstance(fault, NodeFault) for fault in of_all)
    monkeypatch.setattr(dist, "broadcast_object_list", lambda *_: None)
    monkeypatch.setattr(dist, "all_gather_object", lambda seen, own: seen.__setitem__(slice(None), [own] * 2))
    (tmp_path / "file").touch()
    unwritten = checks._shared(str(tmp_path / "file"), [{"host": "n1"}, {"host": "n2"}], rank=0)
    assert unwritten == [f"n1: {tmp_path / 'file'} cannot be written: File exists"] and may_start_again(unwritten)


def test_preflight_data_that_is_away_from_all_nodes_ends_no_run() -> None:
    """What this user may not read ends it, and a node that alone cannot read is left out."""
    away = MachineFault("error: DATA/train.beton: cannot be read: Stale file handle")
    denied = "error: DATA/train.beton: cannot be read: Permission denied"
    of_all = compare(nodes(data={"train": away, "val": "sha256:bb"}), CHECKS)
    assert of_all == ["n2: DATA/train.beton: cannot be read: Stale file handle"]
    assert isinstance(of_all[0], NodeFault)
    for error, again in ((away, True), (denied, False)):
        alike = [{**node, "data": {"train": error, "val": "sha256:bb"}} for node in nodes()]
        faults = compare(alike, CHECKS)
        assert faults == [f"{host}: {error.removeprefix('error: ')}" for host in ("n1", "n2")]
        assert may_start_again(faults) == again and not any(isinstance(fault, NodeFault) for fault in faults)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (OSError(errno.ENAMETOOLONG, "File name too long"), False),
    ],
)
@pytest.mark.parametrize("in_opening", [True, False])
def test_preflight_says_of_data_what_training_would(
    error: OSError, again: bool, in_opening: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readers of the data turn most errors of the disk into a UserError of their own."""
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()

    def fails(*_: object, **__: object) -> None:
        raise error

    if in_opening:
        monkeypatch.setattr(formats, "open_dataset", fails)
    else:
        monkeypatch.setattr(os, "scandir", fails)
    found = checks._checksums(str(tmp_path), content=False)
    assert {type(text) for text in pickle.loads(pickle.dumps(found)).values()} == {MachineFault if again else str}
    assert all(str(error.strerror) in text for text in found.values())


def test_preflight_at_a_start_reads_no_class_folders_for_their_checksum(tmp_path: Path) -> None:
    """It has two minutes. Training compares the checksums itself."""
    data = str(class_folders(tmp_path))
    assert checks._checksums(data, content=False) == {"train": UNREAD, "val": UNREAD}
    read = checks._checksums(data, content=True)
    assert all(checksum.startswith("files-sha256:") for checksum in read.values())
    assert checks._checksums(data, content=False) == read
    assert compare(nodes(data={"train": UNREAD, "val": "sha256:bb"}), CHECKS) == []
    absent = {"data": {"train": "error: DATA is not there", "val": "error: DATA is not there"}}
    unread = {"data": {"train": UNREAD, "val": UNREAD}}
    faults = compare([{**node, **(absent if node["host"] == "n2" else unread)} for node in nodes()], CHECKS)
    assert faults and all(isinstance(fault, NodeFault) for fault in faults)


@pytest.mark.parametrize("what", ["stat", "disk_usage"])
def test_preflight_run_directory_that_cannot_be_looked_at_is_a_line(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(*((os, "stat") if what == "stat" else (shutil, "disk_usage")), fails)
    assert checks._free(tmp_path) == f"{tmp_path} cannot be used: Stale file handle"


def test_preflight_at_a_start_asks_for_no_more_room_than_the_start_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Checks] = []
    monkeypatch.setattr(checks, "run_checks", lambda asked: found.append(asked) or [])
    monkeypatch.setenv("MASTER_PORT", "1")
    assert checks.quick(["train", "recipe.py", "--data", "DATA", "--run-dir", "RUNS"]) == 0
    assert compare(nodes(free=2**30), found[0]) == []
    assert len(compare(nodes(free=2**30), CHECKS)) == 1


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([], 0, ""),
        (["n1: DATA is not there"], 2, "error: preflight: n1: DATA is not there\n"),
        ([MachineFault("n1: RUNS is not there")], 75, "error: preflight: n1: RUNS is not there\n"),
        ([NodeFault("n2", "no GPU"), "n1: DATA is not there"], 2, "error: preflight: n2: no GPU, and 1 more\n"),
        (UnreachableError("n1 does not answer"), 75, "error: preflight: n1 does not answer\n"),
    ],
)
def test_preflight_at_a_start_ends_the_run_only_for_what_the_user_has_to_change(
    found: list[str] | UnreachableError,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It uses the port after that of the training, which follows in this process."""

    def run_checks(_: Checks) -> list[str]:
        assert os.environ["MASTER_PORT"] == "12001"
        if isinstance(found, UnreachableError):
            raise found
        return found

    monkeypatch.setattr(checks, "run_checks", run_checks)
    monkeypatch.setenv("MASTER_PORT", "12000")
    monkeypatch.setenv("RANK", "0")
    assert checks.quick(["train", "recipe.py"]) == code
    assert capsys.readouterr().out == said
    assert os.environ["MASTER_PORT"] == "12000"


@pytest.mark.parametrize(
    ("difference", "fault"),
    [
        ({"versions": {"python": "3.11.7", "torch": "2.14.0"}}, "torch 2.14.0, but most nodes have 2.15.0"),
        ({"versions": {"python": "3.11.7", "torch": None}}, "torch None, but most nodes have 2.15.0"),
        ({"data": {"train": "sha256:aa", "val": "sha256:cc"}}, "val of DATA is sha256:cc, but sha256:bb on most nodes"),
        ({"clock": 1003.5}, "its clock is +3.5 s from that of most nodes"),
        ({"clock": 996.5}, "its clock is -3.5 s from that of most nodes"),
        ({"device": "NVIDIA L4"}, "rank {place} sees NVIDIA L4, but most nodes have NVIDIA H200"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_preflight_names_the_node_that_differs_from_most_and_leaves_it_out(
    difference: dict[str, Any], fault: str, place: int
) -> None:
    """Also where it is the first one, which the others are compared with if there is no majority."""
    of_three = [{**nodes()[0], "rank": rank, "host": f"n{rank}"} for rank in range(3)]
    of_three[place] |= difference
    faults = compare(of_three, CHECKS)
    assert faults == [f"n{place}: {fault.format(place=place)}"] and may_start_again(faults)
    assert not may_start_again(compare(nodes(**difference), CHECKS))  # of two nodes nobody knows which


@pytest.mark.parametrize(("blind", "is_left_out"), [([], False), ([1], True), ([1, 2], False)])
def test_preflight_leaves_out_the_node_that_does_not_share_the_run_directory(
    blind: list[int], is_left_out: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On rank 0 of three nodes. Where most do not see its file, the first node may be the one with a folder apart."""
    monkeypatch.setattr(dist, "broadcast_object_list", lambda *_: None)
    monkeypatch.setattr(
        dist,
        "all_gather_object",
        lambda seen, own: seen.__setitem__(slice(None), [own, 1 not in blind, 2 not in blind]),
    )
    faults = checks._shared(str(tmp_path), [{"host": f"n{rank}"} for rank in range(3)], rank=0)
    assert faults == [f"n{rank}: does not share {tmp_path}" for rank in blind]
    assert may_start_again(faults) == is_left_out
    assert [*tmp_path.iterdir()] == []


def test_preflight_leaves_out_the_node_that_got_a_wrong_sum() -> None:
    """Where most nodes have got one, nobody knows whose fault it is; but it is no input that the user could change."""
    hosts = ["n1", "n1", "n2", "n2", "n3", "n3"]
    assert wrong_sums(hosts, [False] * 6) == []
    (of_n2,) = wrong_sums(hosts, [False, False, False, True, False, False])
    assert of_n2 == "n2: rank 3 got a wrong sum of all ranks" and isinstance(of_n2, NodeFault) and of_n2.node == "n2"
    of_most = wrong_sums(hosts, [True, True, True, False, False, False])
    assert of_most == [f"{host}: rank {rank} got a wrong sum of all ranks" for rank, host in enumerate(hosts[:3])]
    assert may_start_again(of_most) and not any(isinstance(fault, NodeFault) for fault in of_most)


def test_link_that_is_slower_than_the_others_is_named() -> None:
    speeds = {("n1", "n2"): 10e9, ("n1", "n3"): 2e9, ("n2", "n3"): 11e9}
    assert slow_links(speeds) == ["n1 - n3: 2.00 GB/s, less than half of the usual 11.00"]
    assert slow_links({("n1", "n2"): 1.0}) == []


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_node_that_is_slow_with_all_others_is_blamed_alone(count: int) -> None:
    names = [f"n{number}" for number in range(count)]
    speeds = {pair: 1e9 if "n1" in pair else 10e9 for pair in combinations(names, 2)}
    (fault,) = slow_links(speeds)
    assert isinstance(fault, NodeFault) and fault.node == "n1"
    assert fault == "n1: at most 1.00 GB/s with any other, less than half of the usual 10.00"


def test_gpu_that_is_slow_with_its_neighbours_is_blamed_on_its_node() -> None:
    speeds = {
        (f"n{node}: rank {a}", f"n{node}: rank {b}"): 50e9 for node in (1, 2) for a, b in combinations(range(4), 2)
    }
    speeds |= {pair: 5e9 for pair in speeds if "n2: rank 3" in pair}
    (fault,) = slow_links(speeds)
    assert isinstance(fault, NodeFault) and fault.node == "n2"
    assert fault == "n2: rank 3: at most 5.00 GB/s with any other, less than half of the usual 50.00"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 9, 128])
def test_preflight_rounds_have_each_pair_once_and_nobody_twice_in_a_round(count: int) -> None:
    members = [3 * number for number in range(count)]
    found = rounds(members)
    assert sorted(pair for pairs in found for pair in pairs) == [*combinations(members, 2)]
    assert len(found) == max(0, count - 1 + count % 2)
    for pairs in found:
        meeting = [member for pair in pairs for member in pair]
        assert len(meeting) == len(set(meeting))


@pytest.mark.slow
def test_preflight_sums_over_all_ranks_and_measures_pairs_of_nodes_and_pairs_inside_them() -> None:
    """Four real processes, of which two each claim to be one node. In the second sum rank 1 gets 1 too much."""
    script = (
        "import torch, torch.distributed as dist\n"
        "from launch.links import all_reduce, bandwidths\n"
        "dist.init_process_group('gloo')\n"
        "nodes = [{'rank': rank, 'host': f'n{rank // 2}', 'local_rank': rank % 2} for rank in range(4)]\n"
        "found = bandwidths(torch.device('cpu'), nodes, None, inside=True)\n"
        "print([[*speeds] for speeds in found], all(speed > 0 for speeds in found for speed in speeds.values()))\n"
        "print(all_reduce(torch.device('cpu'), nodes, None))\n"
        "sum_really = dist.all_reduce\n"
        "def sum_wrongly(values, group):\n"
        "    sum_really(values, group=group)\n"
        "    values[-1] += dist.get_rank() == 1\n"
        "dist.all_reduce = sum_wrongly\n"
        "print(all_reduce(torch.device('cpu'), nodes, None))\n"
        "dist.destroy_process_group()\n"
    )
    ranks = start_ranks(["-c", script], 4)
    said = [rank.communicate(timeout=TIMEOUT) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * 4, said
    inside = [("n0: rank 0", "n0: rank 1"), ("n1: rank 2", "n1: rank 3")]
    wrong = ["n0: rank 1 got a wrong sum of all ranks"]
    assert {out for out, _ in said} == {f"{[[('n0', 'n1')], inside]} True\n[]\n{wrong}\n"}


def test_preflight_runs_the_setup_lines_once_before_the_processes() -> None:
    """As a job does: on every process, an srun among them would wait for the CPUs of the others."""
    options = PreflightSettings(nodes=2, gpus_per_node=2, partition="gpu", srun=("--mpi=none",))
    plain = foreground._command(options, "launch.preflight", ["slurm"])
    assert plain[0] == "srun" and {"--nodes=2", "--ntasks=4", "--partition=gpu", "--mpi=none"} <= {*plain}
    allocation = foreground._command(replace(options, setup=("module load cuda",)), "launch.preflight", ["slurm"])
    first, processes = allocation[-1].split("\n", 1)
    assert allocation[0] == "salloc" and "--partition=gpu" in allocation and first == "module load cuda"
    of_the_job = ("--time=", "--job-name=", "--partition=")
    assert shlex.split(processes) == [word for word in plain if not word.startswith(of_the_job)]


def test_preflight_names_one_rank_or_the_range_of_a_node() -> None:
    of_node = {"devices": 0, "device": "CPU", "versions": {"torch": "2.9", "ffcv": None}}
    nodes = [{"host": host, "rank": rank, **of_node} for rank, host in enumerate("aab")]
    assert checks._describe(nodes) == ["a: ranks 0-1, CPU, torch 2.9", "b: rank 2, CPU, torch 2.9"]
