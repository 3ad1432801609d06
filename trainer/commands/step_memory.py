"""The memory that training really needs on this machine, measured in two steps on noise."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.data.device import DeviceBatch
from trainer.distillation import untrained_teacher
from trainer.distributed import process_group
from trainer.errors import UserError
from trainer.precision import set_tf32
from trainer.process.linux import proc_bytes
from trainer.process.memory import free_bytes, process_limits
from trainer.process.units import format_bytes
from trainer.recipe import Recipe
from trainer.settings import TrainSettings
from trainer.setup.networks import build_module, build_state
from trainer.setup.prepare import choose_kernels
from trainer.step import TrainingStep

_CLEAR = Path("/proc/self/clear_refs")


def choose_device(wanted: str) -> torch.device:
    """auto, cuda or cpu as a device. Raises UserError for a GPU that cannot be used."""
    kind = process_group.device_type(wanted)
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(process_group.NO_GPU)
    return torch.device(kind)


def measured_bytes(recipe: Recipe, device: torch.device, accumulation: int, expected: int) -> int:
    """The peak memory of two steps of one process on noise, beyond what was in use before the model was built.

    On cuda it is what torch's allocator gave out; on a CPU it is the growth of the resident set, including libraries
    that are loaded on the way. It takes two steps because the optimizer's state exists only after the first one. Of
    `accumulation` micro-steps the first and the last are run: the last one adds to the gradients of the first. Raises
    UserError where this process may take less than `expected` bytes, or there is no /proc.
    """
    _check_room(device, expected)
    set_tf32(recipe.precision)
    choose_kernels(deterministic=False)
    like_training = TrainSettings(data="", run_dir=Path())
    with process_group.initialize(device.type, timeout_minutes=30) as world:
        before = _start(world.device)
        module, _ = build_module(recipe, like_training, world, fresh=False)
        state = build_state(recipe, module, world, steps_per_epoch=2)
        teacher = untrained_teacher(recipe, world.device)
        step = TrainingStep(recipe, state, world, accumulation=accumulation, teacher=teacher)
        for _ in range(2):
            for micro_step in sorted({0, accumulation - 1}):
                step(_noise(recipe, world.device), micro_step)
        return _peak(world.device) - before


def _noise(recipe: Recipe, device: torch.device) -> DeviceBatch:
    """A micro-batch of random images."""
    size, resolution = recipe.micro_batch_size, recipe.train_crop.resolution
    images = torch.randn(size, 3, resolution, resolution, device=device)
    indices = torch.arange(size, device=device)
    return DeviceBatch(images.to(memory_format=torch.channels_last), indices % recipe.num_classes, indices)


def _check_room(device: torch.device, expected: int) -> None:
    if device.type == "cuda":
        return  # running out of memory there raises its own error, and harms no other process
    if not _CLEAR.exists():
        raise UserError("--measure on a CPU needs Linux's /proc: use --device cuda, or plan without --measure")
    available = min([free_bytes(), *process_limits()])
    if expected > available:
        raise UserError(
            f"--measure would take about {format_bytes(expected)}, and {format_bytes(available)} are free: "
            f"use a smaller --micro-batch-size, or plan without --measure"
        )


def _start(device: torch.device) -> int:
    """Resets the peak; returns the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    _CLEAR.write_text("5", encoding="utf-8")  # resets VmHWM, proc(5)
    return proc_bytes("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else proc_bytes("VmHWM")
