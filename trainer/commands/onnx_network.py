"""Runs an .onnx file as a network, through onnxruntime, which is used in this file only."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import UserError, first_line

INSTALL = "pip install onnx onnxscript onnxruntime"


class OnnxNetwork(nn.Module):
    """An .onnx file as a network: normalised images [N, 3, H, W], float32, to logits [N, num_classes]. Runs on the CPU.

    Raises UserError for a file that cannot be read, or is not such a network.
    """

    def __init__(self, file: Path, num_classes: int) -> None:
        super().__init__()
        self._session, self.runtime = _open(file)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._input = inputs[0].name
        found = [f"{value.type} {value.shape}" for value in (*inputs, *outputs)]
        if len(found) != 2 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise UserError(f"{file} does not map images, float [N, 3, H, W], to logits: it has {', '.join(found)}")
        classes = outputs[0].shape[-1]
        if isinstance(classes, int) and classes != num_classes:
            raise UserError(f"{file} is for {classes} classes, not {num_classes}: use the --recipe it was made by")

    def forward(self, images: Tensor) -> Tensor:
        try:
            (logits,) = self._session.run(None, {self._input: images.float().cpu().contiguous().numpy()})
        except Exception as error:
            raise RuntimeError(first_line(error)) from error
        return torch.from_numpy(logits).to(images.device)


def onnx_metadata(file: Path) -> dict[str, str]:
    """Returns what the file says of itself. Raises UserError for a file that cannot be read."""
    found: dict[str, str] = _open(file)[0].get_modelmeta().custom_metadata_map
    return found


def _open(file: Path) -> tuple[Any, str]:
    """The file's session, on the CPU, and the name and version of what runs it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{file} needs onnxruntime: {INSTALL} ({error})") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # see process/library_defaults.py
    options.log_severity_level = 3  # errors only: onnxruntime raises them too
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no class of their own
        raise UserError(f"{file} is not an ONNX network that can be run: {first_line(error)}") from error
    return session, f"onnxruntime {onnxruntime.__version__}"
