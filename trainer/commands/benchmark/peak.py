"""What the device could do at most: the denominator of the model FLOPs utilisation (Chowdhery et al. 2022,
arXiv:2204.02311, appendix B). A multiplication and an addition are two operations."""

from time import perf_counter
from typing import NamedTuple

import torch

from trainer.precision import Precision

# Dense TFLOP/s of NVIDIA's data sheets and white papers, by the name that torch.cuda.get_device_name() gives: of 16 bit
# on tensor cores, accumulating in fp32, and of fp32 without TF32. Only exact names: a slice of a GPU or its mobile
# version has another peak.
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
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SIDES = {"cuda": 8192, "cpu": 1024}  # of the square matrices whose product is timed
_SECONDS = 0.5  # of trying: the machine may be shared, and the fastest product counts


class Peak(NamedTuple):
    flops_per_second: float
    source: str  # in words


def peak(device: torch.device, precision: Precision) -> Peak:
    """The peak of one device in this precision: NVIDIA's own figure, or the fastest of many matrix products."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if name in _DATA_SHEET:
            column = _PLAIN_32 if precision == "fp32" else _TENSOR_16
            return Peak(_DATA_SHEET[name][column] * 1e12, f"{name} in {precision}, data sheet, dense")
        return _measured(device, precision)
    # a CPU without instructions for 16 bits is faster in fp32, and the libraries then use that inside
    return max(_measured(device, kind) for kind in dict.fromkeys((precision, "fp32")))  # type: ignore[arg-type]


def _measured(device: torch.device, precision: Precision) -> Peak:
    side = _SIDES[device.type]
    matrix = torch.ones(side, side, dtype=_DTYPES[precision], device=device)
    matrix @ matrix  # the first one is slower
    fastest, end = float("inf"), perf_counter() + _SECONDS
    while fastest == float("inf") or perf_counter() < end:
        wait_for(device)
        start = perf_counter()
        matrix @ matrix
        wait_for(device)
        fastest = min(fastest, perf_counter() - start)
    return Peak(2 * side**3 / fastest, f"a product of two {side} x {side} matrices in {precision}, measured here")


def wait_for(device: torch.device) -> None:
    """Returns when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
