"""The predict command: names the class of single photographs with a run's weights."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from trainer.commands.weights import load_network, run_weights
from trainer.data.crop import eval_view
from trainer.data.device import device_batches
from trainer.data.image_folder import ImageFolderSource
from trainer.data.loader import Loader
from trainer.distributed import process_group
from trainer.errors import LocalError, UserError
from trainer.evaluation.result import printable
from trainer.precision import allow_tensor_float, autocast
from trainer.recipe import Recipe
from trainer.run.directory import Run
from trainer.settings import PredictSettings


def predict_photos(settings: PredictSettings) -> None:
    """Prints one line per photograph: its most probable classes. Raises UserError for what cannot be read."""
    weights = run_weights(Run(settings.run_dir), settings.checkpoint)
    if weights.classes is None:
        raise UserError(f"{weights.file} does not say which classes it was trained on: use a run of this version")
    with process_group.world(settings.device, timeout_minutes=30) as world:
        allow_tensor_float(weights.recipe.precision)
        _, network = weights.networks[0]  # the one that gives the result
        model = load_network(weights, network, len(weights.classes), world.device).eval()
        for photo in settings.photos:
            images = _read(photo, weights.recipe, world.device)
            with torch.inference_mode(), autocast(weights.recipe.precision, world.device):
                logits = model(images)
                if weights.recipe.eval_crop.flip_tta:
                    logits = (logits + model(images.flip(3))) / 2
            print(f"{photo}: {_ranked(logits.float().softmax(1)[0], weights.classes, settings.top)}", flush=True)


def _read(photo: Path, recipe: Recipe, device: torch.device) -> torch.Tensor:
    """The photograph as the evaluation sees the images of a folder: float32, shape (1, 3, resolution, resolution)."""
    if not photo.is_file():
        raise UserError(f"there is no photograph {photo}")
    crop = recipe.eval_crop
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photo").mkdir()
        (Path(folder) / "photo" / photo.name).symlink_to(photo.absolute())
        try:
            source = ImageFolderSource(Path(folder))
        except UserError as error:
            raise UserError(f"{photo} does not have an image's extension, such as .jpg or .png") from error
        with Loader(source, workers=1) as loader:
            batches = loader.batches([np.arange(1)], eval_view(crop), crop.resolution)
            try:
                (batch,) = device_batches(batches, device, recipe.mean, recipe.std)
            except LocalError as error:  # names the link
                raise UserError(f"{photo} cannot be decoded: it is damaged, or not an image") from error
            return batch.images


def _ranked(probabilities: torch.Tensor, classes: list[str], count: int) -> str:
    """The most probable classes: "tabby 93 %, tiger 5 %"."""
    best, which = probabilities.topk(min(count, len(classes)))
    return ", ".join(
        f"{printable(classes[index])} {100 * share:.0f} %"
        for share, index in zip(best.tolist(), which.tolist(), strict=True)
    )
