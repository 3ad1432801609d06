"""Models of torchvision and timm by their name there; a library is imported only when its model is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import nn

from trainer.errors import UserError
from trainer.model.weights import classifiers
from trainer.recipe import LibraryModel, Model


def library_model(spec: LibraryModel, num_classes: int) -> nn.Module:
    """Builds the library's model with `num_classes` outputs, initialised by the library, or with its published weights.

    Published weights are the library's default for the name; timm's names can choose: timm/resnet50.a1_in1k. Where
    they are for another number of classes, the classifier is new. Raises UserError for a name the library does not
    have, weights that cannot be had, and a network that returns more than logits in training.
    """
    library, _, name = spec.name.partition("/")
    try:
        build = _torchvision_model if library == "torchvision" else _timm_model
        model = build(name, num_classes, spec.pretrained)
    except ImportError as error:
        raise UserError(f"model.name={spec.name!r} needs {library}: pip install {library} ({error})") from error
    if getattr(model, "aux_logits", False):
        raise UserError(
            f"model.name={spec.name!r} has auxiliary classifiers, and no loss here takes their outputs: "
            f"choose another model"
        )
    return model


def _torchvision_model(name: str, num_classes: int, pretrained: bool) -> nn.Module:
    from torchvision import models

    _check_name("torchvision", name, models.list_models(module=models))
    if not pretrained:
        model: nn.Module = models.get_model(name, num_classes=num_classes)
        return model
    try:
        model = models.get_model(name, weights="DEFAULT")
    except Exception as error:  # network, disk, a broken cache: each layer below has errors of its own
        raise _no_weights(f"torchvision/{name}", error) from error
    with torch.device("meta"):
        plain: nn.Module = models.get_model(name)
    if _shapes(plain) != _shapes(model):  # a run is continued by building the plain one and loading its checkpoint
        raise UserError(f"torchvision/{name} has another architecture if pretrained: choose a different model")
    paths = classifiers(model)
    if not paths:
        raise UserError(f"torchvision/{name} has no linear classifier that could be replaced: choose another model")
    head = cast(nn.Linear, model.get_submodule(paths[0]))
    if head.out_features != num_classes:
        model.set_submodule(paths[0], nn.Linear(head.in_features, num_classes))
    return model


def _timm_model(name: str, num_classes: int, pretrained: bool) -> nn.Module:
    import timm

    _check_name("timm", name, [*timm.list_models(), *timm.list_pretrained()])
    if not pretrained:
        return timm.create_model(name, num_classes=num_classes)
    try:
        return timm.create_model(name, num_classes=num_classes, pretrained=True)
    except Exception as error:  # network, disk, a broken cache: each layer below has errors of its own
        raise _no_weights(f"timm/{name}", error) from error


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _check_name(library: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "and none with a similar name"
        raise UserError(f"model.name: {library} has no model {name!r}; {hint}")


def _no_weights(name: str, error: Exception) -> UserError:
    reason = str(error).partition("\n")[0]
    where = _torchvision_file(name) if name.startswith("torchvision/") else _timm_file(name)
    remedy = "get them on a machine that can" if where else "choose a file of this network"
    return UserError(
        f"the published weights of {name} could not be loaded: {type(error).__name__}: {reason}. Without a network, "
        f"{remedy}{where}, and add --model.no-pretrained --initial-weights FILE"
    )


def _torchvision_file(name: str) -> str:
    """ ", from URL": where torchvision's default weights are."""
    from torchvision import models

    return f", from {models.get_model_weights(name.partition('/')[2])['DEFAULT'].url}"


def _timm_file(name: str) -> str:
    """The same for timm; empty if it has published none."""
    import timm

    cfg = timm.get_pretrained_cfg(name.partition("/")[2])
    if cfg and cfg.hf_hub_id:
        return f", the file model.safetensors of {cfg.hf_hub_id} on the Hugging Face Hub"
    return f", from {cfg.url}" if cfg and cfg.url else ""


class Published(NamedTuple):
    """What published weights are for."""

    classes: int
    mean: tuple[float, ...]
    """subtracted from RGB values in [0, 1]"""
    std: tuple[float, ...]
    """what the difference is divided by"""


def published_weights(spec: LibraryModel) -> Published:
    """Looks up what the library's published weights are for; nothing is downloaded.

    Raises UserError if there are none.
    """
    library, _, name = spec.name.partition("/")
    try:
        if library == "torchvision":
            from torchvision import models

            _check_name("torchvision", name, models.list_models(module=models))
            weights = models.get_model_weights(name)["DEFAULT"]
            transform = weights.transforms()
            return Published(len(weights.meta["categories"]), tuple(transform.mean), tuple(transform.std))
        import timm

        _check_name("timm", name, [*timm.list_models(), *timm.list_pretrained()])
        config = timm.get_pretrained_cfg(name)
    except ImportError as error:
        raise UserError(f"model.name={spec.name!r} needs {library}: pip install {library} ({error})") from error
    if config is None:
        raise UserError(f"timm publishes no weights of {name}: choose another model")
    return Published(int(config.num_classes), tuple(config.mean), tuple(config.std))


def pixel_mismatch(spec: Model, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """Says how the pixels that published weights expect differ from a recipe's; empty: not at all, or `spec` has none.

    Raises UserError as published_weights does.
    """
    if not isinstance(spec, LibraryModel) or not spec.pretrained:
        return ""
    published = published_weights(spec)
    if (published.mean, published.std) == (mean, std):
        return ""
    theirs = [" ".join(map(str, values)) for values in (published.mean, published.std)]
    return (
        f"{spec.name} expects mean={published.mean} and std={published.std}, but the recipe has {mean} and {std}: use "
        f"--mean {theirs[0]} --std {theirs[1]}"
    )
