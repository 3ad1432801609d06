"""The teacher of a distillation: its network, its weights, and the loss against its predictions."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from trainer.data.resolution import resolutions
from trainer.errors import UserError, first_line
from trainer.loss import build_loss
from trainer.model import build_model, without_pretrained
from trainer.model.library import pixel_mismatch, published_weights
from trainer.model.weights import mismatch
from trainer.model.weights_file import read_weights_file, state_dict_in
from trainer.precision import autocast
from trainer.recipe import Distillation, LibraryModel, Recipe
from trainer.run.init_weights import InitWeights
from trainer.run.teacher import Teacher

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""(student's logits, targets, teacher's logits or None) -> the mean over the batch, a float32 scalar"""


def build_teacher(recipe: Recipe, weights: Path | None, classes: list[str]) -> tuple[nn.Module, Teacher]:
    """Builds the recipe's teacher on the CPU, frozen and in evaluation mode, and says what it is.

    `classes`: the data's, in order. `weights`: its file, None for those that its library publishes. Raises UserError if
    there are no weights, or if they are of another network or of other classes.
    """
    assert recipe.distillation is not None
    spec = recipe.distillation.teacher
    is_published = isinstance(spec, LibraryModel) and spec.pretrained
    if weights is None and not is_published:
        raise UserError("distillation needs the teacher's weights: add --teacher-weights FILE")
    if weights is None:
        assert isinstance(spec, LibraryModel)
        published = published_weights(spec)
        if published.classes != len(classes):
            raise UserError(
                f"the teacher {spec.name} was published for {published.classes} classes, and the data has "
                f"{len(classes)}: use a teacher that was trained on this data, with --teacher-weights FILE"
            )
        if problem := pixel_mismatch(spec, recipe.mean, recipe.std):  # it sees the student's images
            raise UserError(f"the teacher {problem}")
        module = build_model(spec, len(classes))
        found = Teacher(network=spec.name, file=None, sha256=_digest(module))
    else:
        module = build_model(without_pretrained(spec), len(classes))
        _load(module, weights, classes)
        network = spec.name if isinstance(spec, LibraryModel) else f"{type(spec).__name__}-{spec.depth}"
        found = Teacher(network=network, file=weights.name, sha256=str(InitWeights.of_file(weights).sha256))
    return frozen(module), found


def require_resolutions(module: nn.Module, teacher: Teacher, recipe: Recipe, device: torch.device) -> None:
    """Raises UserError if the teacher cannot run an image of each resolution that the recipe trains at."""
    for resolution in sorted(resolutions(recipe)):
        image = torch.zeros(1, 3, resolution, resolution, device=device)
        try:
            with torch.inference_mode(), autocast(recipe.precision, device):
                module(image)
        except (AssertionError, RuntimeError, ValueError) as error:  # whatever the network raises
            raise UserError(
                f"the teacher {teacher.network} does not take images of {resolution} px: {first_line(error)}"
            ) from error


def untrained_teacher(recipe: Recipe, device: torch.device) -> nn.Module | None:
    """Builds a network like the recipe's teacher for measurements on noise; None: the recipe has no teacher."""
    if recipe.distillation is None:
        return None
    module = build_model(without_pretrained(recipe.distillation.teacher), recipe.num_classes)
    return frozen(module).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def frozen(module: nn.Module) -> nn.Module:
    """Puts `module` into evaluation mode, without gradients, and returns it."""
    return module.eval().requires_grad_(False)


def build_distilled_loss(recipe: Recipe) -> Loss:
    """Builds the recipe's loss; with a teacher, also the part against its logits. All of it is computed in float32."""
    of_labels, spec = build_loss(recipe.loss), recipe.distillation

    def loss(logits: torch.Tensor, targets: torch.Tensor, teachers: torch.Tensor | None) -> torch.Tensor:
        if spec is None or teachers is None:
            return of_labels(logits, targets)
        of_teacher = spec.weight * teacher_loss(spec, logits.float(), teachers.float())
        if not spec.weight_of_labels:
            return of_teacher
        return spec.weight_of_labels * of_labels(logits, targets) + of_teacher

    return loss


def teacher_loss(spec: Distillation, logits: torch.Tensor, teachers: torch.Tensor) -> torch.Tensor:
    """Computes the divergence from the teacher, without its weight: logits are float32 of shape (n, classes)."""
    if spec.hard:
        return functional.cross_entropy(logits, teachers.argmax(dim=1))
    ours, theirs = ((each / spec.temperature).log_softmax(dim=1) for each in (logits, teachers))
    return spec.temperature**2 * functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def _load(module: nn.Module, file: Path, classes: list[str]) -> None:
    try:
        weights = state_dict_in(read_weights_file(file), file).fitted(module.state_dict())
    except UserError as error:
        raise UserError(f"the teacher's weights: {error}") from error
    found = mismatch(module, weights.tensors)
    if found.fatal:
        raise UserError(f"the teacher's weights: {file} is of another network: {found}")
    if found.other_classes:
        raise UserError(
            f"the teacher's weights: {file} is for {found.classes_there} classes, and the data has {len(classes)}"
        )
    if weights.classes and weights.classes != classes:
        raise UserError(f"the teacher's weights: {file} was trained on other classes than the data has")
    module.load_state_dict(weights.tensors, strict=False)


def _digest(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of all tensors, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
