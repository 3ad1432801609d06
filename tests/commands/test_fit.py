"""benchmark --fit: the search against every answer, memory limits from files, and real steps."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.processes import ROOT, SUPPORT, TIMEOUT
from trainer.__main__ import main
from trainer.commands.benchmark import fit, fit_trial
from trainer.commands.benchmark.fit import accumulations, largest_fitting, micro_batches, run_trial
from trainer.commands.benchmark.fit_trial import NO_MEMORY
from trainer.commands.step_memory import measured_bytes
from trainer.distributed import process_group
from trainer.errors import UserError
from trainer.process.memory import cgroup_room, limit_data
from trainer.process.unforeseen import exit_code_of
from trainer.recipe import Mixing
from trainer.recipe_file import load_recipe, recipe_source

SMALL = replace(load_recipe(SUPPORT / "small_recipe.py"), precision="fp32")
MB = 10**6


def test_fit_search_finds_the_largest_whatever_fits_and_wherever_it_begins() -> None:
    tried = 0
    for sizes in ([1], [1, 7], [2, 4, 6, 8, 12, 24], [1 << power for power in range(13)]):
        for limit in range(len(sizes) + 1):
            for first in sizes:
                asked: list[int] = []

                def fits(size: int, sizes: list[int] = sizes, limit: int = limit, asked: list[int] = asked) -> bool:
                    asked.append(size)
                    return size in sizes[:limit]

                assert largest_fitting(sizes, first, fits) == (sizes[limit - 1] if limit else None)
                assert asked[0] == first
                assert len(set(asked)) == len(asked)
                tried += 1
    assert tried == 232


def test_fit_search_doubles_so_that_no_step_is_far_too_large() -> None:
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= 700

    sizes = micro_batches(replace(SMALL, global_batch_size=65_536, micro_batch_size=64))
    assert largest_fitting(sizes, 64, fits) == 512
    assert asked == [64, 128, 256, 512, 1024]


def test_fit_tries_only_what_the_recipe_allows() -> None:
    assert micro_batches(SMALL) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96]
    assert micro_batches(replace(SMALL, mixing=Mixing(mixup_alpha=0.2))) == micro_batches(SMALL)[1:]
    assert micro_batches(replace(SMALL, norm_batch_size=16)) == [16, 32, 48, 96]


@pytest.mark.parametrize("largest", [1, 12, 32, 96])
def test_fit_accumulation_fills_the_global_batch_for_every_number_of_processes(largest: int) -> None:
    found = accumulations(SMALL, largest)
    assert found[0] == (1, largest, 96 // largest)
    for processes, images, passes in found:
        assert processes * images * passes == 96
        assert images <= largest
        assert replace(SMALL, micro_batch_size=images).accumulation(processes) == passes


def test_fit_accumulation_shares_the_images_that_norms_are_measured_over() -> None:
    recipe = replace(SMALL, precise_norm_images=48)
    assert accumulations(recipe, 96) == [(1, 48, 2), (2, 24, 2), (4, 12, 2), (8, 6, 2), (16, 3, 2)]


def group(root: Path, name: str, **files: object) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (root / name / file.replace("__", ".")).write_text(f"{content}\n")


def test_memory_room_is_that_of_the_group_and_its_parents(tmp_path: Path) -> None:
    (tmp_path / "self").write_text("0::/job/step\n")
    group(tmp_path, "job", memory__max=1000, memory__current=900, memory__stat="anon 500\ninactive_file 300")
    group(tmp_path, "job/step", memory__max="max", memory__current=900, memory__stat="inactive_file 300")
    assert cgroup_room(tmp_path / "self", tmp_path) == [400]
    group(tmp_path, "job/step", memory__max=950)
    assert cgroup_room(tmp_path / "self", tmp_path) == [350, 400]


def test_memory_room_of_version_1_and_without_groups(tmp_path: Path) -> None:
    (tmp_path / "self").write_text("5:cpu,cpuacct:/a\n4:memory:/slurm/job_7\n")
    stat = "cache 1\ntotal_inactive_file 20"
    group(tmp_path / "memory", "slurm/job_7", memory__limit_in_bytes=500, memory__usage_in_bytes=480, memory__stat=stat)
    assert cgroup_room(tmp_path / "self", tmp_path) == [40]
    assert cgroup_room(tmp_path / "nowhere", tmp_path) == []


def test_fit_trial_that_is_killed_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit.subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, -9, "", ""))
    trial = run_trial(SMALL, "cpu")
    assert (trial.peak, trial.reason) == (None, "killed by SIGKILL")


def test_fit_smallest_that_does_not_fit_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit.subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 3, "", ""))
    assert main(["benchmark", str(SUPPORT / "small_recipe.py"), "--fit"]) == 2
    assert re.fullmatch(r"error: not even --micro-batch-size 1 fits on CPU, [^\n]+\n", capsys.readouterr().err)


def test_fit_step_that_fails_otherwise_is_one_line_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = subprocess.CompletedProcess([], 1, "", "Traceback\nValueError: of the network")
    monkeypatch.setattr(fit.subprocess, "run", lambda *_, **__: ended)
    assert main(["benchmark", str(SUPPORT / "small_recipe.py"), "--fit"]) == 2
    assert "a step of small at micro-batch 16 fails: ValueError: of the network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], "on which images? add --data DIR; or --fit"),
        (["--fit", "--data", "D"], "--fit takes plain steps on noise"),
        (["--fit", "--compile"], "leave out --data, --original, --compile, --compile-mode and --cuda-graph"),
        (
            ["--fit", "--compile-mode", "max-autotune"],
            "leave out --data, --original, --compile, --compile-mode and --cuda-graph",
        ),
        (["--fit", "--json", "nowhere/b.json"], "--json nowhere/b.json cannot be written: name a file in a folder"),
        (["--data", "D", "--compile-mode", "max-autotune"], "compile_mode='max-autotune' needs --compile"),
    ],
)
def test_fit_mistake_is_one_line(words: list[str], answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "resnet20_digits", *words]) == 2
    assert answer in capsys.readouterr().err


NO_MEMORY_HERE = (
    "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        *map(RuntimeError, NO_MEMORY_HERE),
    ],
)
def test_out_of_memory_names_fit_as_the_next_thing_to_try(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(error) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: out of (GPU )?memory: use a smaller --micro-batch-size, [^\n]+\n", said)
    assert "python -m trainer benchmark RECIPE --fit" in said


@pytest.mark.parametrize("text", [*NO_MEMORY_HERE, "could not create a primitive", "can't start new thread"])
def test_fit_trial_knows_each_way_to_run_out_of_memory(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured_bytes(*_: object, **__: object) -> int:
        raise RuntimeError(text)

    monkeypatch.setattr(fit_trial, "limit_data", lambda _: None)
    monkeypatch.setattr(fit_trial, "measured_bytes", measured_bytes)
    (tmp_path / "recipe.py").write_text(recipe_source(SMALL))
    assert fit_trial.main([str(tmp_path / "recipe.py"), "cpu"]) == NO_MEMORY
    text = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match=text):
        fit_trial.main([str(tmp_path / "recipe.py"), "cpu"])


def test_fit_and_plan_measure_the_kernels_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[bool] = []

    def initialize(*_: object, **__: object) -> None:
        chosen.append(torch.backends.cudnn.benchmark)
        raise UserError("enough")

    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(process_group, "initialize", initialize)
    with pytest.raises(UserError, match="enough"):
        measured_bytes(SMALL, torch.device("cpu"), 1, expected=0)
    assert chosen == [True]


def in_a_fork(function: Callable[[], int]) -> int:
    """The exit code of a process that returns what the function does: a limit that it sets ends with it."""
    pid, code = os.fork(), 99
    if not pid:
        try:
            code = function()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(("bytes_more", "code"), [(20 * MB, 0), (8000 * MB, NO_MEMORY)])
def test_fit_limit_lets_allocations_beyond_the_room_fail(bytes_more: int, code: int) -> None:
    """8 GB: what earlier tests have freed and the heap still holds is less, and needs no new memory."""

    def allocate() -> int:
        limit_data(100 * MB)
        try:
            return len(bytearray(bytes_more)) - bytes_more
        except MemoryError:
            return NO_MEMORY

    assert in_a_fork(allocate) == code


@pytest.mark.parametrize(("micro_batch_size", "code"), [(1, 0), (2**20, NO_MEMORY)])
def test_fit_trial_fails_before_it_takes_what_is_not_free(
    micro_batch_size: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches of 1,048,576 images are 9.7 GB, where 200 MB are free; the heap may hold as much from before."""
    monkeypatch.setattr(fit_trial, "free_bytes", lambda: 200 * MB)
    monkeypatch.setattr(fit_trial, "measured_bytes", lambda *_, **__: 0)
    recipe = replace(SMALL, global_batch_size=2**20, micro_batch_size=micro_batch_size)
    (tmp_path / "recipe.py").write_text(recipe_source(recipe))
    assert in_a_fork(lambda: fit_trial.main([str(tmp_path / "recipe.py"), "cpu"])) == code


@pytest.mark.slow
def test_fit_takes_real_steps_within_a_limit_of_the_process(tmp_path: Path) -> None:
    """8,191 is a prime: a micro-batch of 1 or of all. A `ulimit -d` of 3 GB leaves room for the first alone."""
    (tmp_path / "prime.py").write_text(recipe_source(replace(SMALL, global_batch_size=8191, micro_batch_size=1)))
    words = ["benchmark", str(tmp_path / "prime.py"), "--fit", "--device", "cpu", "--json", str(tmp_path / "fit.json")]
    limit = 3 * 10**9
    ended = subprocess.run(
        [sys.executable, "-m", "trainer", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(r"micro-batch +1: fits, [\d.]+ MB", ended.stdout)
    assert re.search(r"micro-batch +8,191: does not fit: (out of memory|killed by SIG\w+) ", ended.stdout)
    assert "--micro-batch-size 1: peak" in ended.stdout
    found = json.loads((tmp_path / "fit.json").read_text())
    assert found["micro_batch_size"] == 1
    assert found["accumulation"] == [{"processes": 1, "micro_batch_size": 1, "accumulation": 8191}]
    assert [trial["images"] for trial in found["trials"]] == [1, 8191]
    assert 0 < found["peak_bytes"] < limit


@pytest.mark.slow
def test_fit_trial_that_cannot_fit_anywhere_is_an_answer() -> None:
    huge = replace(SMALL, global_batch_size=2**40, micro_batch_size=2**40)
    trial = run_trial(huge, "cpu")
    assert (trial.peak, trial.reason) == (None, "out of memory")
