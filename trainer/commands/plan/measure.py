"""What training really takes of this machine's memory: two steps on noise."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from trainer.data.mixing import mix
from trainer.ema import Average
from trainer.errors import UserError
from trainer.fine_tuning import apply_fine_tuning, train_mode
from trainer.loss import build_loss
from trainer.model import build_model, without_pretrained
from trainer.optimizer import build_optimizer
from trainer.precision import allow_tensor_float, autocast, build_scaler
from trainer.recipe import Recipe

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def choose_device(wanted: str) -> torch.device:
    """auto, cuda or cpu as a device. Raises UserError for cuda where there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but torch sees no GPU: check nvidia-smi, or use --device cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def measured_bytes(recipe: Recipe, device: torch.device, accumulation: int, expected: int) -> int:
    """The most memory that two steps of one process take at once, over what there was before the model.

    On cuda what torch's allocator gave out; on a CPU the growth of the resident set, with whatever libraries load.
    Two steps, because the optimizer's state exists from the first one's end; of `accumulation` micro-steps two are
    done, because the second one has gradients from the first. `expected`, in bytes: where this machine has less,
    UserError is raised instead of running into it; also on a system without /proc.
    """
    _check_room(device, expected)
    allow_tensor_float(recipe.precision)
    before = _start(device)
    module = build_model(without_pretrained(recipe.model), recipe.num_classes, recipe.norm_batch_size)
    if recipe.fine_tuning:
        apply_fine_tuning(module, recipe.fine_tuning)
    module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(recipe.optimizer, module, recipe.fine_tuning)
    average = Average(recipe.ema, module) if recipe.ema else None
    scaler, loss_of = build_scaler(recipe.precision, device), build_loss(recipe.loss)
    train_mode(module, recipe.fine_tuning)
    size, resolution = recipe.micro_batch_size, recipe.train_crop.resolution
    for step in range(2):
        for micro_batch in range(min(2, accumulation)):
            images = torch.randn(size, 3, resolution, resolution, device=device)
            images = images.to(memory_format=torch.channels_last)
            targets = torch.arange(size, device=device) % recipe.num_classes
            if recipe.mixing:
                images, targets = mix(
                    recipe.mixing,
                    images,
                    targets,
                    num_classes=recipe.num_classes,
                    seed=recipe.seed,
                    step=step,
                    micro_batch=micro_batch,
                )
            with autocast(recipe.precision, device):
                loss = loss_of(module(images), targets) / accumulation
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if average:
            average.update(module, step + 1, step + 1.0)
    return _peak(device) - before


def _check_room(device: torch.device, expected: int) -> None:
    if device.type == "cuda":
        return  # what is too much there is an error of its own, and no other process suffers
    if not _CLEAR.exists():
        raise UserError("--measure on a CPU needs Linux's /proc: use --device cuda, or plan without --measure")
    available = int(re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[0]) * 1024
    if expected > 0.9 * available:
        raise UserError(
            f"--measure would take about {expected / 1e9:.1f} GB, and {available / 1e9:.1f} GB are free: "
            f"use a smaller --micro-batch-size, or plan without --measure"
        )


def _start(device: torch.device) -> int:
    """Bytes in use now; peaks are counted from here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    _CLEAR.write_text("5")  # resets VmHWM, proc(5)
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    return int(re.findall(rf"{name}:\s+(\d+) kB", _STATUS.read_text())[0]) * 1024
