"""A .pt2 file of torch.export: the network as a program, which runs where this package is not installed."""

import json
import subprocess
import sys
import tempfile
import warnings
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.errors import UserError, first_line

ABOUT = "shortcut.json"
"""name of the metadata within the file: torch.export.load(FILE, extra_files={"shortcut.json": ""})"""

# Runs in a process of its own: words are the .pt2 and a file with a list of inputs, in whose place it writes outputs.
_ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("trainer", "recipes", "launch"):
            raise ImportError(f"the file needs {name}")

sys.meta_path.insert(0, Blocked())
import torch

torch.set_num_threads(int(sys.argv[3]))
network = torch.export.load(sys.argv[1]).module()
with torch.inference_mode():
    torch.save([network(images) for images in torch.load(sys.argv[2], weights_only=True)], sys.argv[2])
"""


def write_program(model: nn.Module, resolution: int, about: dict[str, str], file: Path) -> None:
    """Writes `model`, in eval mode on the CPU: normalised images float32 [batch, 3, resolution, resolution] -> logits.

    Raises UserError if torch cannot export the network.
    """
    example = torch.zeros(2, 3, resolution, resolution)  # two: a batch of one would become a constant
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own deprecations, inside torch
        try:
            program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            torch.export.save(program, content := BytesIO(), extra_files={ABOUT: json.dumps(about)})
        except Exception as error:  # each layer of the exporter has its own exceptions
            raise UserError(f"torch.export cannot export this network: {first_line(error)}") from error
    file.write_bytes(content.getbuffer())  # a full disk would end the process in torch's own writer


def saved(value: object) -> bytes:
    """What torch.save writes to a file. On a full disk it would not say why it failed."""
    torch.save(value, content := BytesIO())
    return content.getvalue()


def run_alone(file: Path, inputs: list[Tensor]) -> list[Tensor]:
    """The program's outputs, computed by a process that cannot import this package. Raises UserError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        exchange = Path(folder) / "images.pt"
        exchange.write_bytes(saved(inputs))
        words = [str(file.absolute()), str(exchange), str(torch.get_num_threads())]
        ended = subprocess.run([sys.executable, "-c", _ALONE, *words], cwd=folder, capture_output=True, text=True)
        if ended.returncode:
            reason = (ended.stderr.strip() or f"exit code {ended.returncode}").splitlines()[-1]
            raise UserError(f"the file does not run without this package: {reason}: nothing was written")
        outputs: list[Tensor] = torch.load(exchange, weights_only=True)
    return outputs
