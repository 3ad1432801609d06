"""train RECIPE: each option changes the value it names and no other; each mistake is one line; --help is complete."""

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_lines import CHOICES, NEEDED, ON_ANY_SCREEN, leaves, resolved, stdout
from trainer.__main__ import main
from trainer.cli.parse import parse_train
from trainer.errors import UserError
from trainer.recipe import (
    FineTuning,
    Recipe,
    Steps,
)
from trainer.recipe_file import load_recipe, overrides_of, recipe_diff, recipe_names


def different_value(name: str, value: Any) -> Any:
    """A valid value for setting `name` that differs from `value`."""
    named = {
        "model.stem": "cifar",
        "model.variant": "d",
        "model.blur_pool": "convs",
        "precision": "fp32",
        "gradient_compression": "bf16",
        "precise_norm_images": 8192,
        "schedule.changes_every": "epoch",
        "schedule.warmup.shape": "constant",
        "train_crop.padding_mode": "reflect",
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
    raise AssertionError(f"{name}={value!r}: no rule for a different value")


def as_words(name: str, value: Any) -> list[str]:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        path, _, last = option.rpartition(".")
        return [f"--{path}{'.' if path else ''}{'' if value else 'no-'}{last}"]
    return [f"--{option}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]


# ------------------------------------------------------------------------------------------------- valid options


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("resnet50_goyal2017_8k_gamma1", 50), ("resnet20_he2015", 41)])
def test_cli_train_every_value_of_a_recipe_is_an_option_that_changes_this_value_alone(name: str, count: int) -> None:
    recipe = load_recipe(name)
    identity = ("name", "dataset", "published")
    changed = 0
    for setting, value in leaves(recipe):
        if (
            setting.split(".")[0] in identity
            or setting in CHOICES
            or setting == "model.bottleneck"  # needs model.preactivation
            or (setting == "sync_norm" and recipe.norm_batch_size)
        ):
            continue
        wanted = different_value(setting, value)
        found = resolved(name, *as_words(setting, wanted))
        assert dict(leaves(found))[setting] == wanted
        (change,) = recipe_diff(recipe, found)
        assert (change.setting, change.old) == (setting, value)
        changed += 1
    assert changed == count


def test_cli_train_numbers_become_what_the_setting_is() -> None:
    recipe = resolved("resnet50_goyal2017_8k", "--optimizer.lr", "1", "--epochs", "18", "--model.fc-std", "None")
    assert (type(recipe.optimizer.lr), recipe.optimizer.lr) == (float, 1.0)
    assert (type(recipe.epochs), recipe.epochs) == (int, 18)
    assert recipe.model == replace(load_recipe("resnet50_goyal2017_8k").model, fc_std=None)
    recipe = resolved("resnet50_goyal2017_8k", "--schedule.milestones", "1", "2.5", "3", "--no-flip")
    assert isinstance(recipe.schedule, Steps)
    assert recipe.schedule.milestones == (1.0, 2.5, 3.0)
    assert recipe.flip is False


def test_cli_train_nothing_is_derived_behind_the_readers_back() -> None:
    assert recipe_diff(
        load_recipe("resnet50_goyal2017_8k"), resolved("resnet50_goyal2017_8k", "--global-batch-size", "256")
    ) == [("global_batch_size", 8192, 256)]


@pytest.mark.slow
def test_cli_train_without_options_the_recipe_is_the_files() -> None:
    assert len(recipe_names()) == 86
    for name in recipe_names():
        recipe, _ = parse_train([name, *NEEDED])
        assert recipe == load_recipe(name)
        assert type(recipe) is Recipe


@pytest.mark.parametrize("word", ["--fine-tuning.backbone-lr", "--fine_tuning.backbone_lr"])
def test_cli_train_fine_tuning_can_be_given_to_any_recipe(word: str) -> None:
    recipe, _ = parse_train(["resnet18_he2015", "--data", "DIR", "--run-dir", "RUN", word, "0.1"])
    base = load_recipe("resnet18_he2015")
    assert base.fine_tuning is None
    assert recipe == replace(base, fine_tuning=FineTuning(backbone_lr=0.1))
    assert overrides_of(recipe)


def test_settings_are_read_beside_the_recipe() -> None:
    words = ["--workers", "3", "--device", "cpu", "--log-every", "7", "--checkpoint-minutes", "0.5", "--deterministic"]
    _, settings = parse_train(["resnet20_digits", *NEEDED, *words])
    assert (settings.data, settings.run_dir) == ("DIR", Path("runs/one"))
    assert (settings.workers, settings.device, settings.log_every) == (3, "cpu", 7)
    assert (settings.checkpoint_minutes, settings.deterministic, settings.compile) == (0.5, True, False)
    assert (settings.checkpoint_steps, settings.keep_last_checkpoints, settings.initial_weights) == (None, 3, None)


def test_data_folder_is_found_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, settings = parse_train(["resnet20_digits", *NEEDED])
    assert settings.data_folder == str(tmp_path / "DIR")
    _, settings = parse_train(["resnet20_digits", "--data", "synthetic:64", "--run-dir", "runs/one"])
    assert settings.data_folder == "synthetic:64"


@pytest.mark.parametrize(
    "words", [["--name", "mine"], ["--dataset", "mine"], ["--published", "None"], ["--published.top1", "99"]]
)
def test_cli_train_what_a_recipe_is_cannot_be_set_on_the_command_line(words: list[str]) -> None:
    with pytest.raises(UserError, match="Unrecognized options"):
        parse_train(["resnet50_goyal2017_8k", *NEEDED, *words])


# -------------------------------------------------------------------------------------------------------- mistakes

MISTAKES = {
    "misspelt group": (["--optimiser.lr", "1"], r"--optimiser\.lr.*did you mean --optimizer\.lr"),
    "misspelt value": (["--optimizer.lrr", "1"], r"--optimizer\.lrr.*did you mean --optimizer\.lr"),
    "misspelt setting": (["--worker", "1"], r"--worker\b.*did you mean --workers"),
    "of another recipe": (["--schedule.milestones", "1"], r"Unrecognized options: --schedule\.milestones"),
    "a word too much": (["epochs=3"], r"Unrecognized options: epochs=3"),
    "no value": (["--epochs"], r"Missing value for argument '--epochs'"),
    "not a number": (["--epochs", "many"], r"--epochs: .*'many'"),
    "not a whole number": (["--epochs", "1.5"], r"--epochs: .*'1\.5'"),
    "not a choice": (["--precision", "fp8"], r"'fp8'.*'fp32', 'tf32', 'bf16', 'fp16'"),
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
    "padding": (["--train-crop.padding", "16"], r"train_crop\.padding=16 is not within 0 and resolution=16"),
    "crop ratio": (["--eval-crop.crop-ratio", "1.5"], r"eval_crop\.crop_ratio=1\.5 is not within \(0, 1\]"),
    "warmup": (["--schedule.warmup.epochs", "-1"], r"schedule\.warmup\.epochs=-1\.0 is negative or not a number"),
    "clipping at 0": (["--clip-grad-norm", "0"], r"clip_grad_norm=0\.0 is not positive; None switches clipping off"),
    "seed": (["--seed", "-1"], r"seed=-1 is not within 0 and 2\*\*63 - 1"),
    "std": (["--std", "1", "1", "0"], r"std=\(1\.0, 1\.0, 0\.0\) has a value that is not positive"),
    "keep_last_checkpoints": (["--keep-last-checkpoints", "0"], r"keep_last_checkpoints=0 is not a positive number"),
    "profile of no steps": (
        ["--profile-from", "5"],
        r"--profile-from 5 records nothing by itself: add --profile-steps",
    ),
    "minutes": (["--checkpoint-minutes", "0"], r"checkpoint_minutes=0\.0 is not above 0 and within a month"),
    "hparams": (
        ["--hparams", "epochs", "optimizer.lrr"],
        r"^--hparams optimizer\.lrr: resnet20_digits has no setting of this name, such as optimizer\.lr$",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
@ON_ANY_SCREEN
def test_cli_train_mistake_is_one_line_that_names_the_value(name: str, screen: str) -> None:
    assert len(MISTAKES) == 26
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


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--data", "DIR", "--run-dir", ""], "--run-dir"),
        (["--data", "DIR", "--run-dir="], "--run-dir"),
        (["--data", "", "--run-dir", "runs/one"], "--data"),
        ([*NEEDED, "--initial-weights", ""], "--initial-weights"),
        (["", *NEEDED], "the word after train resnet20_digits"),
    ],
)
def test_cli_train_empty_word_is_no_path(words: list[str], option: str) -> None:
    """`--run-dir "$RUN"` without RUN would be the current folder."""
    with pytest.raises(UserError, match=rf"^{option} is empty: is a variable unset\?$"):
        parse_train(["resnet20_digits", *words])


def test_suggestion_is_an_option_that_helps() -> None:
    with pytest.raises(UserError) as caught:
        parse_train(["resnet20_digits", *NEEDED, "--optimizer.lrr", "1"])
    assert "or --help" not in str(caught.value)


def test_option_before_the_recipe_is_shown_where_it_belongs() -> None:
    with pytest.raises(
        UserError, match=r"the recipe comes first: python -m trainer train RECIPE --data .*recipes lists all 86"
    ):
        parse_train([*NEEDED, "resnet20_digits"])


def test_cli_train_mistake_is_printed_once_per_machine_and_exits_with_2(
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
    assert waited == [10.0]  # rank 0 prints the message before torchrun stops it


# ------------------------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        (
            "resnet50_goyal2017_8k",
            {"optimizer.lr": "3.2", "schedule.milestones": "30 60 80", "global-batch-size": "8192", "epochs": "90"},
        ),
        ("resnet20_digits", {"optimizer.weight-decay": "0.0005", "train-crop.padding": "2", "precision": "fp32"}),
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
    assert "python -m trainer recipes lists all 86" in " ".join(said.split())
    assert "--run-dir" in said
