"""A look into a step on a GPU: what in it waits for the device, which kernels take how long, what was compiled."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from trainer.commands.benchmark.peak import wait_for
from trainer.data.device import DeviceBatch

STEPS = 4  # that are looked at
_KERNELS = 15  # that are listed
_WAITING = (
    "cudaDeviceSynchronize",
    "cudaStreamSynchronize",
    "cudaEventSynchronize",
    "cudaMalloc",
    "cudaFree",
    "cudaHost",
)

Step = Callable[[DeviceBatch], None]


def waits(step: Step, batches: Iterator[DeviceBatch]) -> list[str] | None:
    """Where the host waits for the device in STEPS steps and in what feeds them, as torch tells it: file and line.

    None without a GPU. `step` and `batches` have been used before: what begins may wait. Not among them is
    torch.cuda.synchronize, of which torch does not tell; the profile has that.
    """
    if not torch.cuda.is_initialized():
        return None
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(STEPS):
                step(next(batches))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = Counter(
        f"{Path(one.filename).name}:{one.lineno}" for one in found if "synchronizing CUDA operation" in str(one.message)
    )
    return [f"{place} ({times} times in {STEPS} steps)" for place, times in places.items()]


def profiled(step: Step, batches: Iterator[DeviceBatch], device: torch.device) -> dict[str, Any]:
    """Milliseconds of a step by kernel, the longest first, and the CUDA calls that wait, with how often in a step.

    Calls that wait are also those for memory, and copies from memory that is not pinned. The profiler makes steps
    slower: only the kernels' own times mean something. On a CPU operations stand for kernels.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    wait_for(device)
    with profile(activities=activities) as recorded:
        for _ in range(STEPS):
            step(next(batches))
        wait_for(device)
    rows = recorded.key_averages()
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    times = [
        (row.self_device_time_total if on_gpu else row.self_cpu_time_total, row.key, row.count)
        for row in rows
        if row.device_type == kind and not row.is_user_annotation
    ]
    calls = [row for row in rows if row.key.startswith(_WAITING) or "Pageable" in row.key]
    return {
        "steps": STEPS,
        "ms_of_a_step": sum(time for time, *_ in times) / 1000 / STEPS,
        "kernels": [
            {"ms": time / 1000 / STEPS, "times": number / STEPS, "name": name[:120]}
            for time, name, number in sorted(times, reverse=True)[:_KERNELS]
        ],
        # less than once in a step are the profiler's own and those around the steps
        "waiting_calls": {row.key: row.count // STEPS for row in calls if row.count >= STEPS},
    }


def compiled_so_far() -> dict[str, int]:
    """Counts of torch.compile in this process; the difference of two says what a step's compilation did."""
    from torch._dynamo.utils import counters

    return {
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
        "cuda_graphs_skipped": counters["inductor"]["cudagraph_skips"],
        "cuda_graphs_recorded": int(counters["inductor"]["cudagraph_recorded_non_static_inputs"] > 0),
    }
