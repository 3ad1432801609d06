"""Writes a network as .onnx."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.commands.onnx_network import INSTALL
from trainer.errors import UserError, first_line


def write_onnx(model: nn.Module, resolution: int, about: dict[str, str], file: Path) -> None:
    """Writes `model`, in eval mode on the CPU, for any number of normalised images of `resolution` px.

    Its input is named images, float32 [batch, 3, resolution, resolution], its output logits; `about` becomes the
    file's metadata. Raises UserError if torch cannot export the network.
    """
    try:
        import onnx  # noqa: F401  # torch needs both, and would say so only after minutes
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--to onnx needs onnx and onnxscript: {INSTALL} ({error})") from error
    example = torch.zeros(2, 3, resolution, resolution)  # two: a batch of one would become a constant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations, inside torch
        try:
            program: Any = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        except Exception as error:  # each layer of the exporter has its own exceptions
            raise UserError(f"torch.onnx cannot export this network: {first_line(error)}") from error
    program.model.metadata_props.update(about)
    program.save(str(file), external_data=False)
