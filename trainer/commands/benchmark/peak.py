"""The device's peak, the denominator of model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).

A multiply-add counts as two operations.
"""

from time import perf_counter
from typing import NamedTuple

import torch

from trainer.precision import Precision

# Dense TFLOP/s from NVIDIA's data sheets and white papers, by the name that torch.cuda.get_device_name() returns: on
# 16-bit tensor cores accumulating in fp32, and in fp32 without TF32; TF32 has half of the former. Names must match
# exactly: a MIG slice or a mobile version of a GPU has a different peak.
_TENSOR_16, _PLAIN_32 = 0, 1
_DATA_SHEET = {
    "NVIDIA H200": (989.4, 66.9),
    "NVIDIA H100 80GB HBM3": (989.4, 66.9),
    "NVIDIA H100 PCIe": (756.0, 51.2),
    "NVIDIA A100-SXM4-40GB": (312.0, 19.5),
    "NVIDIA A100-SXM4-80GB": (312.0, 19.5),
    "NVIDIA A100-PCIE-40GB": (312.0, 19.5),
    "NVIDIA A100 80GB PCIe": (312.0, 19.5),
    "NVIDIA L4": (121.0, 30.3),
    "NVIDIA L40S": (362.0, 91.6),
    "NVIDIA GeForce RTX 4090": (165.2, 82.6),
    "NVIDIA GeForce RTX 3090": (71.0, 35.6),
}
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SIDES = {"cuda": 8192, "cpu": 1024}  # rows of the square matrices whose product is timed
_SECONDS = 0.5  # how long products are timed: the machine may be shared, and the fastest one counts


class Peak(NamedTuple):
    flops_per_second: float
    source: str  # where the number comes from
    measured: bool  # False: from a data sheet


def peak(device: torch.device, precision: Precision) -> Peak:
    """The peak of one device in this precision: NVIDIA's figure, or the fastest of many matrix products."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if name in _DATA_SHEET:
            column = _PLAIN_32 if precision == "fp32" else _TENSOR_16
            tflops = _DATA_SHEET[name][column] / (2 if precision == "tf32" else 1)
            return Peak(tflops * 1e12, f"{name} in {precision}, data sheet, dense", False)
        return _measured(device, precision)
    # a CPU without 16-bit instructions is faster in fp32, which libraries then use internally
    return max(_measured(device, kind) for kind in dict.fromkeys((precision, "fp32")))  # type: ignore[arg-type]


def _measured(device: torch.device, precision: Precision) -> Peak:
    side = _SIDES[device.type]
    # a GPU has higher clocks on zeros and ones than on the numbers that networks have
    matrix = torch.randn(side, side, device=device).to(_DTYPES[precision])
    matrix @ matrix  # the first one is slower
    fastest, end = float("inf"), perf_counter() + _SECONDS
    while fastest == float("inf") or perf_counter() < end:
        wait_for(device)
        start = perf_counter()
        matrix @ matrix
        wait_for(device)
        fastest = min(fastest, perf_counter() - start)
    source = f"a product of two {side} x {side} matrices in {precision}, measured here"
    return Peak(2 * side**3 / fastest, source, True)


def wait_for(device: torch.device) -> None:
    """Waits until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
