"""TensorBoard's HParams table: a row per run with its settings and its final accuracy.

The protobuf messages are TensorBoard's (tensorboard/plugins/hparams/*.proto). Its functions that build them need
TensorFlow, so they are built here.
"""

import time
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import (
    DATA_TYPE_FLOAT64,
    DATA_TYPE_STRING,
    STATUS_SUCCESS,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

from trainer.recipe import Recipe
from trainer.recipe_file import overrides_of

_SHOWN = ("recipe", "changed", "seed", "optimizer.lr", "global_batch_size")  # TensorBoard shows five columns at first
_METRICS = {
    "eval/top1": "top-1 (%)",
    "eval/ema_top1": "top-1 (%), averaged weights",
    "eval/swa_top1": "top-1 (%), mean weights",
    "eval/loss": "loss",
}
_LEFT_OUT = ("name", "published")  # of a recipe: identity, not settings


def columns(first: tuple[str, ...] = ()) -> Summary:
    """The columns of the table: every setting that any recipe can have, and the final metrics.

    TensorBoard uses the columns of one run for all runs, so every run has the same ones. `first`: the settings of a
    sweep, shown instead of the usual ones.
    """
    shown = ("recipe", "seed", *first) if first else _SHOWN
    names = {"recipe": False, "changed": False}
    for name, hint in get_type_hints(Recipe).items():
        if name not in _LEFT_OUT:
            names |= _names(hint, name)
    settings = [
        HParamInfo(
            name=name,
            type=DATA_TYPE_FLOAT64 if is_number else DATA_TYPE_STRING,
            differs=name in shown,  # these come first, the others follow by name
        )
        for name, is_number in names.items()
    ]
    metrics = [MetricInfo(name=MetricName(tag=tag), display_name=name) for tag, name in _METRICS.items()]
    content = HParamsPluginData(experiment=Experiment(hparam_infos=settings, metric_infos=metrics))
    return _summary(metadata.EXPERIMENT_TAG, content)


def run_started(recipe: Recipe) -> Summary:
    """The settings of a run."""
    info = SessionStartInfo(start_time_secs=time.time())
    for name, value in settings_of(recipe).items():
        if isinstance(value, str):
            info.hparams[name].string_value = value
        else:
            info.hparams[name].number_value = value
    return _summary(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))


def run_ended() -> Summary:
    info = SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=time.time())
    return _summary(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))


def settings_of(recipe: Recipe) -> dict[str, str | float]:
    """Settings by their names on the command line, as "optimizer.lr": 0.1; a part by its class: "optimizer": "SGD".

    A part that is None is "off"; a number that is None is left out. "changed" holds the changes against the recipe of
    this name, except the seed.
    """
    flat: dict[str, str | float] = {"recipe": recipe.name, "changed": "; ".join(overrides_of(recipe))}
    hints = get_type_hints(Recipe)
    for field in fields(recipe):
        if field.name not in _LEFT_OUT:
            flat |= _values(getattr(recipe, field.name), field.name, hints[field.name])
    return flat


def _values(value: Any, name: str, hint: Any) -> dict[str, str | float]:
    if is_dataclass(value):
        flat: dict[str, str | float] = {name: type(value).__name__}
        hints = get_type_hints(type(value))
        for field in fields(value):
            flat |= _values(getattr(value, field.name), f"{name}.{field.name}", hints[field.name])
        return flat
    if _is_number(hint):
        return {} if value is None else {name: value}
    return {name: "off" if value is None else str(value)}


def _names(hint: Any, name: str) -> dict[str, bool]:
    """The settings under a name, and whether each is a number."""
    choices = [choice for choice in _kinds(hint) if is_dataclass(choice)]
    found = {name: not choices and _is_number(hint)}
    for choice in choices:
        for inner, inner_hint in get_type_hints(choice).items():
            found |= _names(inner_hint, f"{name}.{inner}")
    return found


def _kinds(hint: Any) -> list[Any]:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [kind for kind in kinds if kind is not NoneType]


def _is_number(hint: Any) -> bool:
    """Whether a setting is always an int or a float if it is not None; a Literal of ints counts as a number."""

    def is_one(kind: Any) -> bool:
        return kind in (int, float) or (get_origin(kind) is Literal and all(type(it) is int for it in get_args(kind)))

    return all(is_one(kind) for kind in _kinds(hint))


def _summary(tag: str, content: HParamsPluginData) -> Summary:
    content.version = metadata.PLUGIN_DATA_VERSION
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString())
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))
    return Summary(value=[value])
