"""Mutated input of every kind: each is answered by one clear line or by a right result, never by anything else.

A few examples here, always the same; by hand, thousands of others:

    FUZZ_EXAMPLES=5000 python -m pytest tests/end_to_end/test_fuzz.py
"""

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from trainer.cli.parse import parse, parse_train
from trainer.data.beton.manifest import Manifest, manifest_path, read_manifest
from trainer.errors import UserError
from trainer.model import build_model, load_initial_weights
from trainer.recipe import CifarResNet, Recipe
from trainer.recipe_file import load_recipe, recipe_names, recipe_source
from trainer.run import checkpoint
from trainer.run.checksum import file_sha256
from trainer.run.directory import Run
from trainer.run.metrics_file import truncate_metrics
from trainer.settings import BenchmarkSettings, CompareSettings, PlanSettings, TrainSettings
from trainer.weights_settings import EvaluateSettings

pytestmark = pytest.mark.slow

WANTED = os.environ.get("FUZZ_EXAMPLES")


def examples(count: int) -> settings:
    """So many, or as many as are asked for; the same every time only here."""
    return settings(
        max_examples=int(WANTED or count),
        deadline=None,
        derandomize=WANTED is None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def is_clear(error: UserError) -> bool:
    """One line, and not the words of Python."""
    text = str(error)
    return bool(text.strip()) and "\n" not in text and "Traceback" not in text


# ---------------------------------------------------------------------------------------------- the command line

NAMES = [f"--{field.name.replace('_', '-')}" for field in (*fields(Recipe), *fields(TrainSettings))]
PARTS = [
    "--optimizer.lr",
    "--schedule.warmup.epochs",
    "--model.depth",
    "--train-crop.resolution",
    "--loss.label-smoothing",
]
JUNK = st.one_of(
    st.sampled_from(
        ["", "-", "--", "nan", "inf", "-1", "0", "1e999", "None", "True", "0x10", "١٢", "a b", "=", "--help=1"]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=12).filter(lambda text: "\0" not in text),
)
WORD = st.one_of(st.sampled_from([*NAMES, *PARTS]), st.sampled_from(PARTS).map(lambda name: name[:-1]), JUNK)
RECIPE_NAMES = st.sampled_from(
    ["resnet20_digits", "resnet50_goyal2017_8k", "resnet50_wightman2021_a1", "resnet50_finetune"]
)


@examples(25)
@given(name=RECIPE_NAMES, words=st.lists(st.one_of(WORD, st.tuples(WORD, JUNK)), max_size=4))
def test_fuzz_any_options_of_train_are_settings_or_one_line(name: str, words: list[Any]) -> None:
    given_words = [part for word in words for part in (word if isinstance(word, tuple) else (word,))]
    assume("--help" not in given_words and "-h" not in given_words)
    try:
        recipe, options = parse_train([name, "--data", "d", "--run-dir", "r", *given_words])
    except UserError as error:
        assert is_clear(error), repr(str(error))
        return
    assert isinstance(options, TrainSettings)
    found: dict[str, Any] = {}
    exec(recipe_source(recipe), found)  # what the run directory will hold
    assert found["recipe"] == recipe


@examples(40)
@given(kind=st.sampled_from([EvaluateSettings, CompareSettings, PlanSettings, BenchmarkSettings]), data=st.data())
def test_fuzz_any_options_of_other_commands_are_settings_or_one_line(kind: type, data: st.DataObject) -> None:
    names = [f"--{field.name.replace('_', '-')}" for field in fields(kind)]
    words = data.draw(st.lists(st.one_of(st.sampled_from(names), JUNK), max_size=6))
    assume("--help" not in words and "-h" not in words)
    try:
        assert isinstance(parse(kind, words, "verb"), kind)
    except UserError as error:
        assert is_clear(error), repr(str(error))


# -------------------------------------------------------------------------------------------------- recipe files

SOURCES = [recipe_source(load_recipe(name)) for name in recipe_names()[::7]]
VALUES = ["None", "-1", "0", "1e400", "float('nan')", "()", "'x'", "[]", "True", "1.5", "SGD(lr=1)", "recipe", "2**70"]


@examples(80)
@given(source=st.sampled_from(SOURCES), data=st.data())
def test_fuzz_any_recipe_file_is_a_recipe_or_one_line(source: str, data: st.DataObject, tmp_path_factory: Any) -> None:
    lines = source.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["value", "delete", "twice", "characters"])):
            case "value":
                start, _, _ = lines[number].partition("=")
                lines[number] = f"{start}={data.draw(st.sampled_from(VALUES))},"
            case "delete":
                del lines[number]
            case "twice":
                lines.insert(number, lines[number])
            case "characters":
                place = data.draw(st.integers(0, len(lines[number])))
                characters = data.draw(st.text("0123456789.,()[]='_ aeilnr\\#\t\x00é", min_size=1, max_size=4))
                lines[number] = (
                    lines[number][:place] + characters + lines[number][place + data.draw(st.integers(0, 3)) :]
                )
        lines = lines or [""]
    path = tmp_path_factory.getbasetemp() / "fuzzed_recipe.py"
    path.write_text("\n".join(lines))
    try:
        recipe = load_recipe(path)
    except UserError as error:
        assert is_clear(error), repr(str(error))
        return
    found: dict[str, Any] = {}
    exec(recipe_source(recipe), found)
    assert found["recipe"] == recipe


# ------------------------------------------------------------------------------------------- manifests and records

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every part of a JSON value."""
    inner: list[Any] = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [path, *[place for key, part in inner for place in places(part, (*path, key))]]


def mutated(value: Any, data: st.DataObject) -> Any:
    """The value with one of its parts replaced or removed."""
    copy = json.loads(json.dumps(value))
    *parents, key = data.draw(st.sampled_from(places(copy)[1:]))
    holder = copy
    for parent in parents:
        holder = holder[parent]
    if data.draw(st.booleans()):
        del holder[key]
    else:
        holder[key] = data.draw(ANYTHING)
    return copy


def bytes_of(text: bytes, data: st.DataObject) -> bytes:
    """The text with bytes flipped, cut or put in."""
    place = data.draw(st.integers(0, len(text)))
    inserted = data.draw(st.binary(max_size=6))
    return text[:place] + inserted + text[place + data.draw(st.integers(0, 8)) :]


@examples(150)
@given(data=st.data())
def test_fuzz_any_manifest_is_read_or_one_line(data: st.DataObject, digits: Path, tmp_path_factory: Any) -> None:
    original = manifest_path(digits / "train.beton").read_bytes()
    text = (
        json.dumps(mutated(json.loads(original), data)).encode()
        if data.draw(st.booleans())
        else bytes_of(original, data)
    )
    beton = tmp_path_factory.getbasetemp() / "fuzzed.beton"
    manifest_path(beton).write_bytes(text)
    try:
        manifest = read_manifest(beton)
    except UserError as error:
        assert is_clear(error), repr(str(error))
        return
    assert isinstance(manifest, Manifest)
    assert manifest.count == sum(manifest.class_counts) and len(manifest.classes) == len(manifest.class_counts)


RECORDS = [
    {
        "kind": "train",
        "step": step,
        "epoch": step / 4,
        "lr": 0.1,
        "loss": 2.0,
        "images_per_second": 9.5,
        "data_wait": 0.0,
    }
    for step in range(1, 5)
]


@examples(150)
@given(data=st.data())
def test_fuzz_any_metrics_are_cut_to_records_of_the_past(data: st.DataObject, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed_metrics.jsonl"
    lines = [json.dumps(record).encode() for record in RECORDS]
    number = data.draw(st.integers(0, 3))
    changed = data.draw(st.sampled_from(["bytes", "part", "anything"]))
    match changed:
        case "bytes":
            lines[number] = bytes_of(lines[number], data)
        case "part":
            lines[number] = json.dumps(mutated(RECORDS[number], data)).encode()
        case "anything":
            lines[number] = json.dumps(data.draw(ANYTHING)).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    kept, damaged = truncate_metrics(path, step=3)
    untouched = [record for record in RECORDS[:3] if record is not RECORDS[number]]
    assert [record for record in kept if record in untouched] == untouched
    assert damaged or len(kept) >= 2  # nothing is left out silently
    assert all(isinstance(record["step"], int) and record["step"] <= 3 for record in kept)
    assert [json.loads(line) for line in path.read_text().splitlines()] == kept


@examples(60)
@given(data=st.data())
def test_fuzz_any_record_of_starts_is_read_or_one_line(data: st.DataObject, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed_run"
    folder.mkdir(exist_ok=True)
    original = [{"step": 0, "commit": None, "packages": {"torch": "2.9"}, "processes": 2}]
    text = json.dumps(original).encode()
    changed = json.dumps(data.draw(ANYTHING)).encode() if data.draw(st.booleans()) else bytes_of(text, data)
    (folder / "starts.json").write_bytes(changed)
    try:
        assert all(isinstance(start, dict) for start in Run(folder).starts)
    except UserError as error:
        assert is_clear(error), repr(str(error))


# ------------------------------------------------------------------------------------------ checkpoints and weights


@pytest.fixture(scope="module")
def small_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(CifarResNet(depth=8), 10)


@examples(100)
@given(data=st.data())
def test_fuzz_any_checkpoint_is_read_whole_or_one_line(data: st.DataObject, tmp_path_factory: Any) -> None:
    """Half of them under a checksum that fits, as of somebody who means it."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    state = {"step": 7, "model": {"weight": torch.arange(6.0)}, "position": {"epoch": 1}, "name": None}
    checkpoint.write(path, state)
    path.write_bytes(bytes_of(path.read_bytes(), data))
    fits = data.draw(st.booleans())
    if fits:
        path.with_name("fuzzed.pt.sha256").write_text(f"{file_sha256(path)}  fuzzed.pt\n")
    try:
        found = checkpoint.read(path)
    except UserError as error:
        assert is_clear(error), repr(str(error))
        return
    assert fits or torch.equal(found["model"]["weight"], torch.arange(6.0))


@examples(60)
@given(data=st.data())
def test_fuzz_any_weights_file_is_loaded_or_one_line(
    data: st.DataObject, small_model: torch.nn.Module, tmp_path_factory: Any
) -> None:
    from safetensors.torch import save_file

    weights: dict[str, Any] = {name: value.clone() for name, value in small_model.state_dict().items()}
    folder = tmp_path_factory.getbasetemp()
    path = folder / data.draw(st.sampled_from(["fuzzed.pth", "fuzzed_weights.safetensors"]))
    how = data.draw(st.sampled_from(["bytes", "shape", "name", "kind"]))
    name = data.draw(st.sampled_from(sorted(weights)))
    match how:
        case "shape":
            weights[name] = torch.zeros(data.draw(st.lists(st.integers(0, 4), max_size=3)))
        case "name":
            weights[data.draw(st.text(max_size=6))] = weights.pop(name)
        case "kind" if path.suffix == ".pth":
            weights[name] = data.draw(SCALARS)
    if path.suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    if how == "bytes":
        path.write_bytes(bytes_of(path.read_bytes(), data))
    try:
        assert load_initial_weights(small_model, path).startswith("initial weights: ")
    except UserError as error:
        assert is_clear(error), repr(str(error))
