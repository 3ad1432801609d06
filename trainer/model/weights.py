"""Loads initial weights from a file, to fine-tune or to continue someone else's training."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from torch import Tensor, nn

from trainer import recipe
from trainer.errors import UserError, first_few
from trainer.model.identify import advice
from trainer.model.weights_file import StateDict, read_weights_file, state_dict_in


def load_initial_weights(
    model: nn.Module,
    file: Path,
    key: str | None = None,
    spec: recipe.Model | None = None,
    *,
    classes: Sequence[str] = (),
    read: StateDict | None = None,
) -> str:
    """Copies the weights of `file` into `model`, all of them or none, and returns a sentence for the log.

    The file is a state_dict or a checkpoint with one, of torch.save or safetensors; no code in it is run. `key` says
    which one where there are several, None: the averaged one. Where only its number of classes differs, or where it
    states others than `classes`, the model keeps the classifier it has, and the sentence says so. Raises UserError for
    a file that cannot be read and for any other name or shape that does not fit; where `spec` is what `model` was built
    by, it names the option that fits the file. `read`: what read_initial_weights has returned for this file and key.
    """
    weights = (read or read_initial_weights(file, key)).fitted(model.state_dict())
    theirs = weights.tensors
    found = mismatch(model, theirs)
    if found.fatal:
        raise UserError(f"initial weights: {file} is of another model: {found}{advice(theirs, spec)}")
    fresh, reason = (
        found.other_classes,
        f"the file has {found.classes_there} classes and the model {found.classes_here}",
    )
    if not fresh and (difference := _first_difference(weights.classes, classes)):
        fresh, reason = _classifier_tensors(model, theirs), difference
    model.load_state_dict({name: tensor for name, tensor in theirs.items() if name not in fresh}, strict=False)
    sentence = (
        f"initial weights: {len(theirs) - len(fresh)} tensors of {file}{f', {weights.key}' if weights.key else ''}"
    )
    sentence += "".join(f"; {note}" for note in weights.notes)
    if fresh:
        sentence += f"; {' and '.join(fresh)} stay as initialised, because {reason}"
    return sentence


def _first_difference(there: Sequence[str] | None, here: Sequence[str]) -> str:
    """How the classes of a file differ from the data's; empty if they do not, or if either is not known."""
    if not there or not here:
        return ""
    pairs = enumerate(zip_longest(there, here))
    return next((f"class {n} is {a!r} in the file and {b!r} in the data" for n, (a, b) in pairs if a != b), "")


def read_initial_weights(file: Path, key: str | None) -> StateDict:
    """Reads the weights of `file`, for any network; `key` as in load_initial_weights. Raises UserError as that does."""
    try:
        return state_dict_in(read_weights_file(file), file, key)
    except UserError as error:
        raise UserError(f"initial weights: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """How a state_dict differs from a model's, in names and shapes."""

    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]
    """each with both shapes"""
    other_classes: list[str]
    """the classifier's tensors that differ in their number of classes only"""
    classes_there: int | None
    """of the state_dict; None: as many as the model's"""
    classes_here: int | None

    @property
    def fatal(self) -> bool:
        """Whether more than the number of classes differs."""
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.reshaped}
        return "; ".join(f"{len(names)} {kind} ({first_few(names)})" for kind, names in kinds.items() if names)


def mismatch(model: nn.Module, theirs: dict[str, Tensor]) -> Mismatch:
    """Compares a state_dict with the model's own."""
    ours: dict[str, Tensor] = model.state_dict()
    classes = _other_classes(model, ours, theirs)
    return Mismatch(
        # norms count batches since PyTorch 0.4.1: older files have no counts, and only momentum=None reads them
        missing=[name for name in ours if name not in theirs and not name.endswith("num_batches_tracked")],
        unexpected=[name for name in theirs if name not in ours],
        reshaped=[
            f"{name} {list(theirs[name].shape)} for {list(ours[name].shape)}"
            for name in ours
            if name in theirs and name not in classes and theirs[name].shape != ours[name].shape
        ],
        other_classes=classes,
        classes_there=theirs[classes[0]].shape[0] if classes else None,
        classes_here=ours[classes[0]].shape[0] if classes else None,
    )


def classifiers(model: nn.Module) -> list[str]:
    """Finds where the logits come from.

    Returns the names of the modules that timm's interface gives, else of the last nn.Linear.
    """
    get_classifier = getattr(model, "get_classifier", None)
    if get_classifier is None:
        heads = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    else:
        found = get_classifier()
        heads = list(found) if isinstance(found, tuple) else [found]  # distilled transformers have two
    return [name for name, module in model.named_modules() if any(module is head for head in heads)]


def _classifier_tensors(model: nn.Module, theirs: Container[str]) -> list[str]:
    """The names of the classifier's tensors that a state_dict has too."""
    prefixes = tuple(f"{name}." for name in classifiers(model))
    return [name for name in model.state_dict() if name.startswith(prefixes) and name in theirs]


def _other_classes(model: nn.Module, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """The classifier's tensors that differ in their first dimension, the number of classes, and in nothing else."""
    named = ((name, ours[name]) for name in _classifier_tensors(model, theirs))
    return [
        name
        for name, tensor in named
        if theirs[name].ndim == tensor.ndim and theirs[name].shape[1:] == tensor.shape[1:]
        if theirs[name].shape != tensor.shape
    ]
