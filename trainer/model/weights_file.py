"""Reads weights files: recognises the format by the content, not by the name, and runs no code in them."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from trainer.errors import NOT_JSON, UserError, first_few, one_line

_BARE = ""  # the key of a state_dict that is the whole content
_WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name
_NO_WEIGHTS = re.compile("optim|scheduler|scaler|rng|metric|callback|hyper|algorithms|loops|history")
_AVERAGED = re.compile("ema|average")  # of torchvision, timm, pycls and ourselves: model_ema, state_dict_ema, ema_state
_COUNTS = ("n_averaged",)  # beside the weights, in torch's AveragedModel
_DEEPEST = 3  # keys; Composer's weights are at state.model
# What a file is that holds no weights, by its first bytes, and what to do about it.
_STRANGERS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the weights: run git lfs pull where it lies",
    b"<": "an HTML or XML page, as a failed download leaves it: download the file itself",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"\x89HDF": "an HDF5 file, as Keras writes it: convert it to a state_dict of PyTorch",
    b"\x08\x07": "an ONNX file: evaluate reads it where its name ends in .onnx",
}


@dataclass(frozen=True, kw_only=True)
class StateDict:
    """The weights that were found in a file."""

    tensors: dict[str, Tensor]
    key: str
    """where they are in it, such as state_dict_ema or state.model; empty: they are all of it"""
    others: tuple[str, ...] = ()
    """keys of other weights, which were not taken"""
    prefix: str = ""
    """taken from every name, besides what DistributedDataParallel and torch.compile put there"""
    classes: list[str] | None = None
    """that the file states, in the order of the outputs; None: it states none"""

    @property
    def notes(self) -> list[str]:
        """What was chosen, one line each; nothing if there was no choice."""
        chosen = f"the file also holds {', '.join(self.others)}: its averaged weights, {self.key}, are used"
        others = [f"{chosen}; --weights-key chooses"] if self.others else []
        return others + ([f"{self.prefix!r} was taken from the start of every name"] if self.prefix else [])

    def fitted(self, names: Collection[str]) -> StateDict:
        """Removes a prefix that all names share, where that makes every name one of the network's."""
        wanted = {name for name in names if not name.endswith("num_batches_tracked")}
        tensors, prefix = self.tensors, ""
        while not wanted <= tensors.keys():
            first = next(iter(tensors), "").partition(".")[0] + "."
            if not all(name.startswith(first) and len(name) > len(first) for name in tensors) or not tensors:
                return self
            tensors, prefix = {name.removeprefix(first): value for name, value in tensors.items()}, prefix + first
        if not tensors.keys() <= set(names):
            return self
        return replace(self, tensors=tensors, prefix=prefix)


def read_weights_file(file: Path) -> object:
    """Reads what a file of torch.save or of safetensors holds, whatever its name. Raises UserError if it is neither.

    It is read with weights_only: besides tensors and plain values only argparse.Namespace is built, which torchvision's
    and timm's checkpoints keep their options in.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    try:
        with file.open("rb") as opened:
            start = opened.read(4096)
        if not start:
            raise UserError(f"{file} is empty")
        if _is_safetensors(start, file):
            from safetensors.torch import load_file

            return load_file(file)
        for mark, what in _STRANGERS.items():
            if start.lstrip().startswith(mark):
                raise UserError(f"{file} is {what}")
        with torch.serialization.safe_globals([argparse.Namespace]), file.open("rb") as opened:
            return torch.load(opened, map_location="cpu", weights_only=True)  # of a path it would judge by the suffix
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{file} needs safetensors: pip install safetensors ({error})") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # bytes that are something else fail anywhere in the reader
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it wants {blocked[1]}, which may run code" if blocked else type(error).__name__
        raise UserError(
            f"{file} is damaged or holds more than tensors ({what}): "
            f"save the state_dict alone, torch.save(model.state_dict(), FILE)"
        ) from error


def safetensors_metadata(file: Path) -> dict[str, str]:
    """Reads the texts that a file of safetensors holds beside its tensors; none for any other file."""
    with file.open("rb") as opened:
        start = opened.read(9)
    if not _is_safetensors(start, file):
        return {}
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        return tensors.metadata() or {}


def stated_classes(about: Mapping[str, object]) -> list[str] | None:
    """Returns the class names in a checkpoint's content, or as JSON in the metadata that export writes; None: none."""
    found = about.get("classes")
    try:
        found = json.loads(found) if isinstance(found, str) else found
    except NOT_JSON:
        return None
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        return None
    return found


def _is_safetensors(start: bytes, file: Path) -> bool:
    """By the first bytes: the length of a JSON object, and its brace."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= file.stat().st_size


def state_dict_in(content: object, file: Path, key: str | None = None) -> StateDict:
    """Finds the state_dict within what was read, without what wrappers put before its names.

    `key` chooses among several; None: the only one, or the averaged one where there is one. Raises UserError if
    there is none, or no obvious choice.
    """
    found = dict(_state_dicts(content))
    classes = stated_classes({**safetensors_metadata(file), **content}) if isinstance(content, Mapping) else None
    if key is not None:
        if key not in found:
            raise UserError(f"--weights-key {key}: {file} has weights at {_listed(found) or 'no key'}")
        return StateDict(tensors=_unwrapped(found[key]), key=key, classes=classes)
    if not found:
        raise UserError(f"{file} {_what_else(content)}")
    averaged = [name for name in found if _AVERAGED.search(name.lower())]
    chosen = next(iter(found)) if len(found) == 1 else averaged[0] if len(averaged) == 1 else None
    if chosen is None:
        raise UserError(f"{file} holds several weights, {_listed(found)}: choose one with --weights-key")
    others = tuple(name or "plain ones" for name in found if name != chosen)
    return StateDict(tensors=_unwrapped(found[chosen]), key=chosen, others=others, classes=classes)


def _state_dicts(content: object, at: str = _BARE, depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dict of tensors by name within the content, with the keys that lead to it."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(name, str) for name in content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield at, dict(content)
    elif depth < _DEEPEST:
        for name, value in content.items():
            if not _NO_WEIGHTS.search(name.lower()):
                yield from _state_dicts(value, f"{at}.{name}" if at else name, depth + 1)


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {name: value for name, value in tensors.items() if name not in _COUNTS}
    for prefix in _WRAPPERS * 2:  # either may be around the other
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _what_else(content: object) -> str:
    if not isinstance(content, Mapping) or not content:
        return f"holds a {type(content).__name__}, not a state_dict"
    strangers = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    return f"is not a state_dict and holds none: {len(strangers)} entries are not tensors ({first_few(strangers)})"


def _listed(found: Mapping[str, object]) -> str:
    return one_line(", ".join(name or "its top" for name in found))
