"""Mixed precision: which numbers the matrix products use."""

from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context of a forward pass. Norms, losses and parameters stay fp32 inside it, as torch's autocast has it."""
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "fp32")


def allow_tensor_float(precision: Precision) -> None:
    """fp32 is fp32: torch would let convolutions on a GPU round their inputs to TF32's 10 bits."""
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


def build_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """fp16's loss scaling (Micikevicius et al. 2017, arXiv:1710.03740, section 3.2); does nothing for the others."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
