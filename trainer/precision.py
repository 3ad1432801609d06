"""Mixed precision: the dtype of the matrix products."""

from pathlib import Path
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Returns the context of a forward pass. Norms, losses and parameters stay fp32 inside it, as in torch.autocast."""
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision in ("bf16", "fp16"))


def set_tf32(precision: Precision) -> None:
    """Turns TF32 off for fp32, on for tf32, and on for convolutions alone otherwise, as torch has it."""
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def build_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Builds fp16's loss scaler (Micikevicius et al. 2017, arXiv:1710.03740, section 3.2), disabled for the others."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def emulation_note(precision: Precision, device: torch.device) -> str | None:
    """Returns a line for the log if this device has no instructions for the precision and emulates it; else None."""
    if precision == "fp32":
        return None
    if device.type == "cuda":
        if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name(device)
            return f"{name} emulates bf16, which is slow: --precision fp16 uses its tensor cores"
        if precision == "tf32" and torch.cuda.get_device_capability(device) < _AMPERE:
            return f"{torch.cuda.get_device_name(device)} has no TF32: this is fp32"
    elif precision == "tf32":
        return "a CPU has no TF32: this is fp32"
    elif precision == "fp16":
        return "fp16 on a CPU is many times slower than fp32: use --precision fp32"
    elif not _BF16_FLAGS & _cpu_flags():
        return "this CPU has no bf16 instructions and emulates them: --precision fp32 is 2 to 3 times as fast"
    return None


_AMPERE = (8, 0)  # compute capability of the first GPUs with TF32
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"}  # of Intel and AMD, and of ARM


def _cpu_flags() -> set[str]:
    """The instruction sets that Linux lists. Without a list it returns those with bf16, so that no note is given."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return _BF16_FLAGS
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()}
