"""The environment of a run: versions, commit, hardware, processes. No environment variables, names or paths."""

import hashlib
import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from trainer.distributed.cpus import usable_cpus
from trainer.distributed.process_group import World
from trainer.run.commit import commit
from trainer.settings import TrainSettings

_PACKAGES = (
    "torch", "torchvision", "timm", "ffcv", "numba", "numpy", "pillow", "simplejpeg", "opencv-python",
    "opencv-python-headless", "tensorboard",
)  # fmt: skip


def environment(world: World, settings: TrainSettings, cpu_kernels: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Returns the environment of one start of a run, for its JSON files.

    `cpu_kernels`: the modules of the network that run kernels of trainer/cpu, by class; None if nothing is trained.
    """
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cpus": usable_cpus(),
        "processes": world.size,
        "torch_threads": torch.get_num_threads(),
        **_gpu(world.device),
        "compile": settings.compile_mode if settings.compile else False,
        "cuda_graph": settings.cuda_graph,
        "cpu_kernels": dict(cpu_kernels or {}),
        "deterministic": settings.deterministic,
    }


def _gpu(device: torch.device) -> dict[str, str | int | None]:
    """The GPU and the versions of what runs on it; None for each on a CPU."""
    if device.type != "cuda":
        return dict.fromkeys(("gpu", "cuda", "cudnn", "nccl", "driver"))
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        "driver": driver_version(),
    }


def driver_version(file: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Returns the version of NVIDIA's driver, such as 550.54.15; None if it is not known."""
    try:
        found = re.search(r"NVRM version: .*?\b(\d+\.\d+(?:\.\d+)?)\b", file.read_text(encoding="utf-8"))
    except OSError:
        return None
    return found[1] if found else None


def changed_rounding(starts: list[dict[str, Any]], here: dict[str, Any]) -> list[str]:
    """Returns a note where a run continues in an environment whose rounding may differ; else nothing.

    What an older version of the trainer did not record counts as unchanged.
    """
    hardware = ("cpu", "gpu", "processes", "torch_threads")
    counted = (
        "python",
        "packages",
        "cuda",
        "cudnn",
        "nccl",
        "driver",
        *hardware,
        "compile",
        "cuda_graph",
        "cpu_kernels",
        "deterministic",
    )
    changes = [
        f"{name} {earlier} -> {here[name]}"
        for name in counted
        if starts and (earlier := starts[-1].get(name, here[name])) != here[name]
    ]
    return (
        [f"same data order; numerics may differ from the earlier part of this run: {', '.join(changes)}"]
        if changes
        else []
    )


def code() -> str:
    """Identifies this code and its torch version, with or without a commit."""
    digest = hashlib.sha256()
    package = Path(__file__).parent.parent
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode() + path.read_bytes())
    return f"sha256:{digest.hexdigest()[:12]} with torch {torch.__version__}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
