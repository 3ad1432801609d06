"""What is recorded of the machine, and what is said where a run continues on a different one."""

from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from trainer.distributed.process_group import World
from trainer.run.environment import changed_rounding, driver_version, environment
from trainer.settings import TrainSettings

SETTINGS = TrainSettings(data="d", run_dir=Path("r"), compile=True, compile_mode="max-autotune")


def world(device: torch.device) -> World:
    return World(rank=0, size=1, local_rank=0, local_size=1, device=device, gloo=MagicMock())


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 2024\nGCC 12.2",
            "550.54.15",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n", "580.65.06"),
        ("something else", None),
    ],
)
def test_environment_driver_version_is_that_of_the_kernel_module(
    text: str, version: str | None, tmp_path: Path
) -> None:
    (tmp_path / "version").write_text(text)
    assert driver_version(tmp_path / "version") == version
    assert driver_version(tmp_path / "nowhere") is None


def test_environment_has_the_libraries_of_a_gpu_and_names_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 27, 5))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    before = environment(world(torch.device("cuda", 0)), SETTINGS)
    assert (before["gpu"], before["nccl"], before["cudnn"]) == ("NVIDIA H100", "2.27.5", 91002)
    assert before["compile"] == "max-autotune"
    assert changed_rounding([before], before) == []
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 28, 1))
    (note,) = changed_rounding([before], environment(world(torch.device("cuda", 0)), SETTINGS))
    assert note.endswith("nccl 2.27.5 -> 2.28.1")


def test_environment_of_a_cpu_has_no_gpu() -> None:
    here = environment(world(torch.device("cpu")), SETTINGS)
    assert [here[name] for name in ("gpu", "cuda", "cudnn", "nccl", "driver")] == [None] * 5


def test_environment_says_nothing_of_what_an_older_version_did_not_record() -> None:
    here = environment(world(torch.device("cpu")), SETTINGS)
    older = {name: value for name, value in here.items() if name != "cuda_graph"}
    assert changed_rounding([older], here) == []
    assert changed_rounding([here | {"cuda_graph": True}], here)[0].endswith("cuda_graph True -> False")
