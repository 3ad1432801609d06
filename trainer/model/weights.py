"""Weights to start from, out of a file: for fine-tuning, or to continue somebody else's training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.errors import UserError, one_line

WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name


def load_initial_weights(model: nn.Module, file: Path) -> str:
    """Copy the weights of `file` into `model`, all of them or none, and return a sentence for the log.

    The file is .safetensors, or .pt / .pth with a state_dict, bare or under 'model', 'state_dict' or, of our own runs
    with an EMA, 'average'; no code in it is run. Where only its number of classes differs, the model keeps the
    classifier it has, and the sentence says so. Raises UserError for a file that cannot be read and for any other name
    or shape that does not fit.
    """
    try:
        theirs, part = state_dict_in(read_weights_file(file), file)
    except UserError as error:
        raise UserError(f"initial weights: {error}") from error
    found = mismatch(model, theirs)
    if found.fatal:
        raise UserError(f"initial weights: {file} is of another model: {found}")
    fresh = found.other_classes
    model.load_state_dict({name: tensor for name, tensor in theirs.items() if name not in fresh}, strict=False)
    sentence = f"initial weights: {len(theirs) - len(fresh)} tensors of {file}{part}"
    if fresh:
        sentence += (
            f"; {' and '.join(fresh)} stay as initialised, "
            f"because the file has {found.classes_there} classes and the model {found.classes_here}"
        )
    return sentence


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
        return "; ".join(f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names)


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
    """Where the logits come from: the names of the modules that timm's interface gives, else of the last nn.Linear."""
    get_classifier = getattr(model, "get_classifier", None)
    if get_classifier is None:
        heads = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    else:
        found = get_classifier()
        heads = list(found) if isinstance(found, tuple) else [found]  # distilled transformers have two
    return [name for name, module in model.named_modules() if any(module is head for head in heads)]


def _other_classes(model: nn.Module, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """The classifier's tensors that differ in their first dimension, the number of classes, and in nothing else."""
    prefixes = tuple(f"{name}." for name in classifiers(model))
    return [
        name
        for name, tensor in ours.items()
        if name.startswith(prefixes) and name in theirs
        if theirs[name].ndim == tensor.ndim and theirs[name].shape[1:] == tensor.shape[1:]
        if theirs[name].shape != tensor.shape
    ]


def read_weights_file(file: Path) -> object:
    """What a .pt, .pth or .safetensors file holds; no code in it is run. Raises UserError where it cannot be read."""
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    try:
        match file.suffix:
            case ".pt" | ".pth":
                return torch.load(file, map_location="cpu", weights_only=True)
            case ".safetensors":
                from safetensors.torch import load_file

                return load_file(file)
    except ImportError as error:
        raise UserError(f"{file} needs safetensors: pip install safetensors ({error})") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    except Exception as error:  # bytes that are something else fail anywhere in the reader
        raise UserError(
            f"{file} is damaged or holds more than tensors ({type(error).__name__}): "
            f"save the state_dict alone, torch.save(model.state_dict(), FILE)"
        ) from error
    raise UserError(f"{file} is neither .pt, .pth nor .safetensors")


def state_dict_in(content: object, file: Path) -> tuple[dict[str, Tensor], str]:
    """The state_dict within what was read, without the names of wrappers around the model; and which part it is."""
    part = ""
    for key in ("average", "model", "state_dict"):  # of our checkpoints the average, where there is one: its result
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content, part = content[key], ", the average of its run" if key == "average" else part
    if not isinstance(content, dict) or not content:
        raise UserError(f"{file} holds a {type(content).__name__}, not a state_dict")
    strangers = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise UserError(
            f"{file} is not a state_dict, bare or under 'model' or 'state_dict': "
            f"{len(strangers)} entries are not tensors ({_first(strangers)})"
        )
    for prefix in WRAPPERS * 2:  # either may be around the other
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items()}
    return content, part


def _first(names: list[str]) -> str:
    return one_line(", ".join(names[:3])) + (", ..." if len(names) > 3 else "")
