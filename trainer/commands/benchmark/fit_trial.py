"""One trial of benchmark --fit: two real steps at one micro-batch, in a process that may be killed without harm.

python -m trainer.commands.benchmark.fit_trial RECIPE_FILE DEVICE prints the peak in bytes, or exits with NO_MEMORY.
"""

import re
import sys

import torch

from trainer.commands.step_memory import choose_device, measured_bytes
from trainer.distributed.run_ahead import AHEAD
from trainer.errors import UserError, first_line
from trainer.process.memory import free_bytes, limit_data
from trainer.process.unforeseen import OUT_OF_MEMORY
from trainer.recipe import Recipe
from trainer.recipe_file import load_recipe

NO_MEMORY = 3
"""exit code: an allocation failed"""
_NO_MEMORY = re.compile(rf"{OUT_OF_MEMORY}|could not (create|execute) a|can't start new thread", re.IGNORECASE)
"""also what oneDNN and threads say where a limit was reached"""
_FLOAT = 4  # bytes


def main(argv: list[str]) -> int:
    """Runs the trial and returns the exit code."""
    recipe, device = load_recipe(argv[0]), choose_device(argv[1])
    try:
        if device.type == "cpu":
            limit_data(free_bytes())
        batches = torch.zeros(_batch_bytes(recipe, device) // _FLOAT, device=device)  # training holds them besides
        accumulation = recipe.global_batch_size // recipe.micro_batch_size
        print(measured_bytes(recipe, device, accumulation, expected=0) + batches.nbytes)
    except (MemoryError, torch.OutOfMemoryError):
        return NO_MEMORY
    except RuntimeError as error:  # of a CPU's allocator, of oneDNN, cuBLAS and cuDNN
        if not _NO_MEMORY.search(str(error)):
            raise
        return NO_MEMORY
    except UserError as error:
        print(first_line(error), file=sys.stderr)
        return error.exit_code
    return 0


def _batch_bytes(recipe: Recipe, device: torch.device) -> int:
    """The batches in memory besides the one that is trained on.

    On a CPU: a batch before its augmentation, the copies that this makes, and the next batch, which is ready. A GPU has
    also those of the steps that it has not done yet, because the host is up to AHEAD steps ahead: see device_batches.
    """
    count = AHEAD + 2 if device.type == "cuda" else 3
    return count * recipe.micro_batch_size * 3 * recipe.train_crop.resolution**2 * _FLOAT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
