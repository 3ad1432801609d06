"""The command line changes what it says it changes; every mistake is one line; a resolved recipe is Python again."""

import io
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from trainer.__main__ import main
from trainer.cli import parse, parse_prepare, parse_train
from trainer.errors import UserError
from trainer.recipe import (
    LARS,
    SGD,
    CenterCrop,
    CifarResNet,
    ColorJitter,
    Constant,
    Cosine,
    CrossEntropy,
    FineTuning,
    LibraryModel,
    Linear,
    Mixing,
    RandomErasing,
    RandomResizedCrop,
    Recipe,
    Steps,
    Warmup,
)
from trainer.recipe_file import RECIPES, load_recipe, recipe_changes, recipe_names, recipe_source
from trainer.settings import EvaluateSettings, RecipesSettings

CHOICES = {"progressive", "color", "augmentation", "erasing", "mixing", "also_eval_crop", "ema", "fine_tuning"}
CHOICES |= {"schedule.warmup"}
"""What a recipe has or has not: the command line changes values only."""
NEEDED = ["--data", "DIR", "--run-dir", "runs/one"]
SCREENS = {"wide": ("utf-8", "120"), "narrow": ("utf-8", "40"), "not unicode": ("iso-8859-1", "80")}
"""The option parser draws its messages into boxes, to the width and encoding of the screen."""


ON_ANY_SCREEN = pytest.mark.parametrize("screen", SCREENS)


@contextmanager
def stdout(screen: str) -> Iterator[io.TextIOWrapper]:
    """What is printed to such a screen."""
    encoding, columns = SCREENS[screen]
    with pytest.MonkeyPatch.context() as patch:
        printed = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        patch.setattr(sys, "stdout", printed)
        patch.setenv("COLUMNS", columns)
        yield printed
        printed.seek(0)


def resolved(name: str, *options: str) -> Recipe:
    return parse_train([name, *NEEDED, *options])[0]


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a recipe under its dotted name."""
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            yield from leaves(inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", inner


def another(name: str, value: Any) -> Any:
    """A value for setting `name` that is allowed and not `value`."""
    named = {
        "model.stem": "cifar",
        "model.blur_pool": "convs",
        "precision": "fp32",
        "precise_norm_images": 8192,
        "schedule.changes_every": "epoch",
        "schedule.warmup.shape": "constant",
    }
    if name in named:
        return named[name]
    if name == "model.depth":
        return {20: 32, 50: 101}[value]
    match value:
        case bool():
            return not value
        case None | 0:
            return 0.5 if isinstance(value, float) else 1
        case int():
            return 2 * value
        case float():
            return value / 2
        case tuple():
            return tuple(item // 2 if isinstance(item, int) else item / 2 for item in value)
    raise AssertionError(f"{name}={value!r}: another value of what?")


def as_words(name: str, value: Any) -> list[str]:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        path, _, last = option.rpartition(".")
        return [f"--{path}{'.' if path else ''}{'' if value else 'no-'}{last}"]
    return [f"--{option}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]


# ------------------------------------------------------------------------------------------------ what can be said


@pytest.mark.parametrize(("name", "count"), [("resnet50_goyal2017_8k_gamma1", 42), ("resnet20_he2015", 35)])
def test_every_value_of_a_recipe_is_an_option_that_changes_this_value_alone(name: str, count: int) -> None:
    recipe = load_recipe(name)
    identity = ("name", "dataset", "published")
    changed = 0
    for setting, value in leaves(recipe):
        if setting.split(".")[0] in identity or setting in CHOICES:
            continue
        wanted = another(setting, value)
        found = resolved(name, *as_words(setting, wanted))
        assert dict(leaves(found))[setting] == wanted
        (change,) = recipe_changes(recipe, found)
        assert change.startswith(f"{setting}: {value} -> ")
        changed += 1
    assert changed == count


def test_numbers_become_what_the_setting_is() -> None:
    recipe = resolved("resnet50_goyal2017_8k", "--optimizer.lr", "1", "--epochs", "18", "--model.fc-std", "None")
    assert (type(recipe.optimizer.lr), recipe.optimizer.lr) == (float, 1.0)
    assert (type(recipe.epochs), recipe.epochs) == (int, 18)
    assert recipe.model == replace(load_recipe("resnet50_goyal2017_8k").model, fc_std=None)
    recipe = resolved("resnet50_goyal2017_8k", "--schedule.milestones", "1", "2.5", "3", "--no-flip")
    assert isinstance(recipe.schedule, Steps)
    assert recipe.schedule.milestones == (1.0, 2.5, 3.0)
    assert recipe.flip is False


def test_nothing_is_derived_behind_the_readers_back() -> None:
    assert recipe_changes(
        load_recipe("resnet50_goyal2017_8k"), resolved("resnet50_goyal2017_8k", "--global-batch-size", "256")
    ) == ["global_batch_size: 8192 -> 256"]


def test_without_options_the_recipe_is_the_files() -> None:
    assert len(recipe_names()) == 62
    for name in recipe_names():
        recipe, _ = parse_train([name, *NEEDED])
        assert recipe == load_recipe(name)
        assert type(recipe) is Recipe


def test_settings_are_read_beside_the_recipe() -> None:
    words = ["--workers", "3", "--device", "cpu", "--log-every", "7", "--checkpoint-minutes", "0.5", "--deterministic"]
    _, settings = parse_train(["resnet20_digits", *NEEDED, *words])
    assert (settings.data, settings.run_dir) == ("DIR", Path("runs/one"))
    assert (settings.workers, settings.device, settings.log_every) == (3, "cpu", 7)
    assert (settings.checkpoint_minutes, settings.deterministic, settings.compile) == (0.5, True, False)
    assert (settings.checkpoint_steps, settings.keep_last_checkpoints, settings.initial_weights) == (None, 3, None)


def test_the_data_folder_is_found_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, settings = parse_train(["resnet20_digits", *NEEDED])
    assert settings.data_folder == str(tmp_path / "DIR")
    _, settings = parse_train(["resnet20_digits", "--data", "synthetic:64", "--run-dir", "runs/one"])
    assert settings.data_folder == "synthetic:64"


@pytest.mark.parametrize(
    "words", [["--name", "mine"], ["--dataset", "mine"], ["--published", "None"], ["--published.top1", "99"]]
)
def test_what_a_recipe_is_cannot_be_set_on_the_command_line(words: list[str]) -> None:
    with pytest.raises(UserError, match="Unrecognized options"):
        parse_train(["resnet50_goyal2017_8k", *NEEDED, *words])


# --------------------------------------------------------------------------------------------------- what is wrong

MISTAKES = {
    "misspelt group": (["--optimiser.lr", "1"], r"--optimiser\.lr.*did you mean --optimizer\.lr"),
    "misspelt value": (["--optimizer.lrr", "1"], r"--optimizer\.lrr.*did you mean --optimizer\.lr"),
    "misspelt setting": (["--worker", "1"], r"--worker\b.*did you mean --workers"),
    "of another recipe": (["--schedule.milestones", "1"], r"Unrecognized options: --schedule\.milestones"),
    "a word too much": (["epochs=3"], r"Unrecognized options: epochs=3"),
    "no value": (["--epochs"], r"Missing value for argument '--epochs'"),
    "not a number": (["--epochs", "many"], r"--epochs: .*'many'"),
    "not a whole number": (["--epochs", "1.5"], r"--epochs: .*'1\.5'"),
    "not a choice": (["--precision", "fp8"], r"'fp8'.*'fp32', 'bf16', 'fp16'"),
    "too few values": (["--train-crop.fill", "1", "2"], r"--train-crop\.fill.*3 values"),
    "no epochs": (["--epochs", "0"], r"epochs=0 is not a positive number"),
    "batch that does not divide": (
        ["--global-batch-size", "100"],
        r"global_batch_size=100 is not a multiple of micro_batch_size=48",
    ),
    "negative rate": (["--optimizer.lr", "-1"], r"optimizer\.lr=-1\.0 is negative or not a number"),
    "rate that is no number": (["--optimizer.lr", "nan"], r"optimizer\.lr=nan is negative or not a number"),
    "momentum of 1": (["--optimizer.momentum", "1"], r"optimizer\.momentum=1\.0 is not within \[0, 1\)"),
    "depth": (["--model.depth", "21"], r"model\.depth=21 is not 6n \+ 2: the CIFAR family has 20, 32, 44"),
    "padding": (["--train-crop.padding", "32"], r"train_crop\.padding=32 is not within 0 and resolution=32"),
    "crop ratio": (["--eval-crop.crop-ratio", "1.5"], r"eval_crop\.crop_ratio=1\.5 is not within \(0, 1\]"),
    "warmup": (["--schedule.warmup.epochs", "-1"], r"schedule\.warmup\.epochs=-1\.0 is negative or not a number"),
    "clipping at 0": (["--clip-grad-norm", "0"], r"clip_grad_norm=0\.0 is not positive; None switches clipping off"),
    "seed": (["--seed", "-1"], r"seed=-1 is not within 0 and 2\*\*63 - 1"),
    "std": (["--std", "1", "1", "0"], r"std=\(1\.0, 1\.0, 0\.0\) has a value that is not positive"),
    "keep_last_checkpoints": (["--keep-last-checkpoints", "0"], r"keep_last_checkpoints=0 is not a positive number"),
    "minutes": (["--checkpoint-minutes", "0"], r"checkpoint_minutes=0\.0 is not above 0 and within a month"),
}


@pytest.mark.parametrize("name", MISTAKES)
@ON_ANY_SCREEN
def test_a_mistake_is_one_line_that_names_the_value(name: str, screen: str) -> None:
    assert len(MISTAKES) == 24
    options, answer = MISTAKES[name]
    with stdout(screen) as printed, pytest.raises(UserError) as caught:
        parse_train(["resnet20_digits", *NEEDED, *options])
    assert re.search(answer, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)
    assert not re.search(r"[│─╭╰]|---|  ", str(caught.value)), "the box is still drawn"
    assert printed.read() == ""


@pytest.mark.parametrize(("left_out", "missing"), [(0, "--data"), (2, "--run-dir")])
@ON_ANY_SCREEN
def test_data_and_run_dir_must_be_given(left_out: int, missing: str, screen: str) -> None:
    answer = f"Missing from python -m trainer train resnet20_digits: {missing} "
    with stdout(screen), pytest.raises(UserError, match=answer) as caught:
        parse_train(["resnet20_digits", *NEEDED[:left_out], *NEEDED[left_out + 2 :]])
    assert "\n" not in str(caught.value)


def test_a_suggestion_is_an_option_that_helps() -> None:
    with pytest.raises(UserError) as caught:
        parse_train(["resnet20_digits", *NEEDED, "--optimizer.lrr", "1"])
    assert "or --help" not in str(caught.value)


def test_an_option_before_the_recipe_is_told_where_it_belongs() -> None:
    with pytest.raises(
        UserError, match=r"the recipe comes first: python -m trainer train RECIPE --data .*recipes lists all 62"
    ):
        parse_train([*NEEDED, "resnet20_digits"])


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("resnet20_digit", r"no recipe is called 'resnet20_digit': did you mean resnet20_digits\?"),
        ("resnet50_goyal2018", r"did you mean resnet50_goyal2017\?"),
        ("nothing", r"no recipe is called 'nothing': python -m trainer recipes lists all 62"),
        ("", r"no recipe is called ''"),
        (".", r"no recipe is called '\.'"),
        ("mine.py", r"mine\.py: there is no such recipe file"),
    ],
)
def test_an_unknown_recipe_is_answered_with_those_there_are(name: str, answer: str) -> None:
    with pytest.raises(UserError, match=answer) as caught:
        parse_train([name, *NEEDED])
    assert "\n" not in str(caught.value)


def test_a_mistake_is_printed_once_per_machine_and_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "resnet20_digits", *NEEDED, "--epochs", "0"]
    assert main(words) == 2
    assert capfd.readouterr() == ("", "error: epochs=0 is not a positive number\n")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    assert main(words) == 2
    assert capfd.readouterr() == ("", "")
    assert waited == [10.0]  # so that rank 0 has spoken before torchrun ends it


# ------------------------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        (
            "resnet50_goyal2017_8k",
            {"optimizer.lr": "3.2", "schedule.milestones": "30 60 80", "global-batch-size": "8192", "epochs": "90"},
        ),
        ("resnet20_digits", {"optimizer.weight-decay": "0.0005", "train-crop.padding": "4", "precision": "bf16"}),
    ],
)
@ON_ANY_SCREEN
def test_help_shows_the_recipes_own_values(name: str, defaults: dict[str, str], screen: str) -> None:
    with stdout(screen) as printed, pytest.raises(SystemExit) as ended:
        parse_train([name, "--help"])
    assert not ended.value.code
    text = re.sub(r"[\s│]+", " ", printed.read())
    for option, value in defaults.items():
        (default,) = re.findall(rf"--{re.escape(option)} (?:(?! --).)*?\(default: ([^)]*)\)", text)
        assert default == value, option
    for setting, _ in leaves(load_recipe(name)):
        hidden = setting.split(".")[0] in ("name", "dataset", "published") or setting in CHOICES
        assert (f"--{setting.replace('_', '-')}" + " " in text.replace(",", " ")) is not hidden, setting


def test_help_of_train_says_where_the_recipes_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help"])
    assert not ended.value.code
    said = capfd.readouterr().out
    assert "python -m trainer recipes lists all 62" in " ".join(said.split())
    assert "--run-dir" in said


# --------------------------------------------------------------------------------------------------- recipe files


def test_a_recipe_of_ones_own_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(load_recipe("resnet20_digits"), name="mine", epochs=3)
    (tmp_path / "mine.py").write_text(recipe_source(own))
    monkeypatch.chdir(tmp_path)
    assert load_recipe("mine.py") == load_recipe(tmp_path / "mine.py") == own
    assert resolved("mine.py", "--epochs", "4") == replace(own, epochs=4)


def test_a_recipe_of_ones_own_may_be_a_variant(tmp_path: Path) -> None:
    base = "from dataclasses import replace\n\nfrom recipes.resnet50_goyal2017_8k import recipe as base\n\n"
    (tmp_path / "warm.py").write_text(f"{base}recipe = replace(base, name='warm', epochs=18)\n")
    assert recipe_changes(load_recipe("resnet50_goyal2017_8k"), load_recipe(tmp_path / "warm.py")) == [
        "name: resnet50_goyal2017_8k -> warm",
        "epochs: 90 -> 18",
    ]


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("", r"has to define recipe = Recipe\(\.\.\.\)"),
        ("recipe = {'lr': 0.1}", r"has to define recipe = Recipe\(\.\.\.\)"),
        ("from trainer.recipe import Recipe as recipe", r"has to define recipe = Recipe\(\.\.\.\)"),
        ("recipe = (", r"SyntaxError"),
        ("recipe = 1 / 0", r"ZeroDivisionError: division by zero"),
        ("raise ValueError('one\\ntwo')", r"ValueError: one"),
        ("import nothing_of_this_name", r"ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("from trainer.recipe import SGD\nSGD(lr=-1)", r"ValueError: optimizer\.lr=-1 is negative"),
        ("from trainer.recipe import SGD\nSGD(lr=1, momentun=0.9)", r"unexpected keyword argument 'momentun'"),
        ("from trainer.recipe import SGD\nSGD()", r"missing 1 required keyword-only argument: 'lr'"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(content: str, answer: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UserError, match=rf"mine\.py: not a recipe: .*{answer}") as caught:
        load_recipe(tmp_path / "mine.py")
    assert "\n" not in str(caught.value)


def test_a_recipe_file_is_read_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's cache of compiled modules knows a file by its size and second: too coarse for an edited number."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "mine.py"
    for lr in (0.1, 0.2):
        path.write_text(recipe_source(replace(load_recipe("resnet20_digits"), optimizer=SGD(lr=lr))))
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert load_recipe(path).optimizer == SGD(lr=lr)
    assert list(tmp_path.iterdir()) == [path]  # nothing is left in a run directory that nobody put there


DIGITS = load_recipe("resnet20_digits")
VARIANTS = [
    replace(DIGITS, model=LibraryModel(name="timm/resnet50d", pretrained=True)),
    replace(DIGITS, model=LibraryModel(name="torchvision/resnext50_32x4d")),
    replace(DIGITS, train_crop=RandomResizedCrop(resolution=48, scale=(0.25, 1.0)), clip_grad_norm=5.0),
    replace(DIGITS, eval_crop=CenterCrop(resolution=48, crop_ratio=224 / 256), loss=CrossEntropy(label_smoothing=0.1)),
    replace(DIGITS, optimizer=SGD(lr=0.1 * 3, weight_decay=1e-300), schedule=Linear(final_lr=1 / 3)),
    replace(DIGITS, schedule=Constant(warmup=Warmup(epochs=0.5, lr=0.0, shape="constant")), seed=2**63 - 1),
    replace(DIGITS, schedule=Steps(milestones=()), model=CifarResNet(depth=56, residual=False, fc_std=0.01)),
    replace(
        DIGITS, optimizer=LARS(lr=10.0, weight_decay=0.0), color=ColorJitter(brightness=0.4), precise_norm_images=96
    ),
    replace(DIGITS, erasing=RandomErasing(probability=0.25), mixing=Mixing(cutmix_alpha=1.0), norm_batch_size=8),
    replace(DIGITS, fine_tuning=FineTuning(freeze_norms=True), also_eval_crop=CenterCrop(resolution=8, crop_ratio=0.5)),
    replace(DIGITS, name='it\'s "SGD(" \\ in\nfour lines: ä', dataset="Steps(x)"),
]


def test_a_stored_recipe_is_the_recipe(tmp_path: Path) -> None:
    options = ["--optimizer.lr", "0.1234567890123456789", "--mean", "0.1", "0.2", "0.3", "--clip-grad-norm", "1"]
    overridden = [resolved(name, *options) for name in recipe_names()]
    recipes = [load_recipe(name) for name in recipe_names()] + overridden + VARIANTS
    assert len(recipes) == 62 + 62 + len(VARIANTS)
    for number, recipe in enumerate(recipes):
        path = tmp_path / f"recipe{number}.py"
        path.write_text(recipe_source(recipe))
        again = load_recipe(path)
        assert again == recipe
        assert recipe_changes(recipe, again) == []
        assert recipe_source(again) == recipe_source(recipe)


def test_a_stored_recipe_says_how_to_run_it_and_writes_every_value_out() -> None:
    source = recipe_source(load_recipe("resnet50_goyal2017_8k"))
    assert "python -m trainer train THIS_FILE --data DIR --run-dir DIR" in source
    assert source.count("=") == 1 + len(list(leaves(load_recipe("resnet50_goyal2017_8k")))) + 8  # and its 8 parts


@pytest.mark.parametrize(
    "options",
    [
        ["--clip-grad-norm", "inf"],
        ["--mean", "nan", "0", "0"],
        ["--std", "inf", "1", "1"],
        ["--schedule.factor", "nan"],
        ["--schedule.milestones", "30", "inf"],
        ["--model.fc-std", "inf"],
    ],
)
def test_a_value_that_the_command_line_takes_can_be_stored(options: list[str], tmp_path: Path) -> None:
    """Else the run starts, and cannot be continued or evaluated: its recipe.py does not load."""
    try:
        recipe = resolved("resnet50_goyal2017_8k", *options)
    except UserError as error:
        assert options[0][2:].replace("-", "_") in str(error)
        return
    (tmp_path / "recipe.py").write_text(recipe_source(recipe))
    assert recipe_source(load_recipe(tmp_path / "recipe.py")) == recipe_source(recipe)


# ----------------------------------------------------------------------------------------------------- differences

HE = load_recipe("resnet20_he2015")


@pytest.mark.parametrize(
    ("other", "changes"),
    [
        (HE, []),
        (replace(HE, seed=1), ["seed: 0 -> 1"]),
        (
            replace(HE, epochs=10, optimizer=replace(HE.optimizer, lr=0.2)),
            ["optimizer.lr: 0.1 -> 0.2", "epochs: 164 -> 10"],
        ),
        (
            replace(HE, schedule=Cosine()),
            [
                "schedule: Steps -> Cosine",
                "schedule.milestones: (82, 123) -> None",
                "schedule.factor: 0.1 -> None",
                "schedule.final_lr: None -> 0.0",
            ],
        ),
        (
            replace(HE, schedule=replace(HE.schedule, warmup=Warmup(epochs=5, lr=0.1))),
            [
                "schedule.warmup: None -> Warmup",
                "schedule.warmup.epochs: None -> 5",
                "schedule.warmup.lr: None -> 0.1",
                "schedule.warmup.shape: None -> linear",
            ],
        ),
        (replace(HE, schedule=Linear()), None),
        (replace(HE, published=None), None),
    ],
)
def test_changes_are_named_with_both_values(other: Recipe, changes: list[str] | None) -> None:
    found = recipe_changes(HE, other)
    if changes is not None:
        assert found == changes
    assert bool(found) is (other != HE)
    assert len(recipe_changes(other, HE)) == len(found)


def test_another_part_with_the_same_values_is_a_change() -> None:
    cosine, linear = replace(HE, schedule=Cosine()), replace(HE, schedule=Linear())
    assert recipe_changes(cosine, linear) == ["schedule: Cosine -> Linear"]


# ----------------------------------------------------------------------------------------------------- other verbs


def evaluate(*words: str) -> EvaluateSettings:
    return parse(EvaluateSettings, words, "evaluate")


def test_evaluate_takes_a_run_and_what_to_evaluate() -> None:
    assert evaluate("runs/one") == EvaluateSettings(weights=Path("runs/one"))
    assert evaluate("runs/one").checkpoint == "newest"
    words = ["--data", "DIR", "--checkpoint", "best", "--workers", "2", "--device", "cpu"]
    assert evaluate("runs/one", *words) == EvaluateSettings(
        weights=Path("runs/one"), data="DIR", checkpoint="best", workers=2, device="cpu"
    )


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], r"Missing from python -m trainer evaluate: PATH folder of a run, or a file"),
        (["one", "two"], r"Unrecognized options: two"),
        (["one", "--chekpoint", "best"], r"--chekpoint.*did you mean --checkpoint"),
        (["one", "--checkpoint", "last"], r"'last'.*'newest', 'best'"),
        (["one", "--workers", "x"], r"--workers: .*'x'"),
        (["one", "--workers", "0"], r"workers=0 is not a positive number"),
        (["one", "--workers", "-1"], r"workers=-1 is not a positive number"),
    ],
)
def test_a_mistake_in_evaluate_is_one_line(words: list[str], answer: str) -> None:
    with stdout("wide"), pytest.raises(UserError, match=answer) as caught:
        evaluate(*words)
    assert "\n" not in str(caught.value)


def test_recipes_takes_words_and_no_options() -> None:
    assert parse(RecipesSettings, [], "recipes") == RecipesSettings()
    assert parse(RecipesSettings, ["resnet50", "goyal"], "recipes") == RecipesSettings(words=("resnet50", "goyal"))
    with stdout("wide"), pytest.raises(UserError, match="Unrecognized options: --all") as caught:
        parse(RecipesSettings, ["--all"], "recipes")
    assert "\n" not in str(caught.value)


def test_prepare_has_three_kinds_with_their_own_defaults() -> None:
    folder = parse_prepare(["folder", "SRC", "--out", "DIR"])
    cifar = parse_prepare(["cifar10", "SRC", "--out", "DIR"])
    digits = parse_prepare(["digits", "--out", "DIR"])
    assert folder[:3] == ("folder", Path("SRC"), Path("DIR"))
    assert cifar[:3] == ("cifar10", Path("SRC"), Path("DIR"))
    assert digits[:3] == ("digits", None, Path("DIR"))
    assert (folder[3].write_mode, folder[3].max_resolution, folder[3].jpeg_quality) == ("proportion", 500, 90)
    assert cifar[3] == digits[3]
    assert (cifar[3].write_mode, cifar[3].max_resolution) == ("raw", 32)
    options = ["--max-resolution", "400", "--jpeg-quality", "95", "--workers", "3", "--skip-bad", "--overwrite"]
    options = parse_prepare(["folder", "SRC", "--out", "DIR", *options])[3]
    assert (options.max_resolution, options.jpeg_quality, options.workers) == (400, 95, 3)
    assert options.skip_bad and options.overwrite


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], r"prepare writes folder, cifar10, digits, not ''"),
        (["imagenet", "SRC", "--out", "DIR"], r"prepare writes folder, cifar10, digits, not 'imagenet'"),
        (["folder", "--out", "DIR"], r"PATH folder with class folders below train/ and val/"),
        (["folder", "SRC"], r"--out PATH folder to write train\.beton and val\.beton into"),
        (["digits", "SRC", "--out", "DIR"], r"Unrecognized options: SRC"),
        (["folder", "SRC", "--out", "DIR", "--jpeg-qualty", "9"], r"did you mean --jpeg-quality"),
        (["folder", "SRC", "--out", "DIR", "--jpeg-quality", "0"], r"jpeg_quality=0 is not 1 to 100"),
        (["folder", "SRC", "--out", "DIR", "--write-mode", "smart"], r"'smart'.*'jpg', 'raw', 'proportion'"),
        (["folder", "SRC", "--out", "DIR", "--workers", "0"], r"workers=0 is not 1 or more"),
    ],
)
def test_a_mistake_in_prepare_is_one_line(words: list[str], answer: str) -> None:
    with stdout("wide"), pytest.raises(UserError, match=answer) as caught:
        parse_prepare(words)
    assert "\n" not in str(caught.value)


def test_the_recipes_of_the_package_are_those_in_the_folder() -> None:
    assert recipe_names() == sorted(path.stem for path in RECIPES.glob("*.py") if path.stem != "__init__")
