"""Recipe files load or fail with one line; a stored recipe is the recipe; differences are named with both values."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.command_lines import NEEDED, leaves, resolved
from trainer.cli.parse import parse_train
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
from trainer.recipe_file import (
    RECIPES,
    changes_since,
    load_recipe,
    overrides_of,
    recipe_diff,
    recipe_names,
    recipe_source,
    settings_of,
)


def test_recipe_of_a_user_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(load_recipe("resnet20_digits"), name="mine", epochs=3)
    (tmp_path / "mine.py").write_text(recipe_source(own))
    monkeypatch.chdir(tmp_path)
    assert load_recipe("mine.py") == load_recipe(tmp_path / "mine.py") == own
    assert resolved("mine.py", "--epochs", "4") == replace(own, epochs=4)


def test_recipe_of_a_user_may_be_a_variant(tmp_path: Path) -> None:
    base = "from dataclasses import replace\n\nfrom recipes.resnet50_goyal2017_8k import recipe as base\n\n"
    (tmp_path / "warm.py").write_text(f"{base}recipe = replace(base, name='warm', epochs=18)\n")
    assert recipe_diff(load_recipe("resnet50_goyal2017_8k"), load_recipe(tmp_path / "warm.py")) == [
        ("name", "resnet50_goyal2017_8k", "warm"),
        ("epochs", 90, 18),
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
def test_file_that_is_no_recipe_is_one_line(content: str, answer: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UserError, match=rf"mine\.py: not a recipe: .*{answer}") as caught:
        load_recipe(tmp_path / "mine.py")
    assert "\n" not in str(caught.value)


def test_recipe_file_is_read_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's bytecode cache compares size and second, which misses the edit of a number."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "mine.py"
    for lr in (0.1, 0.2):
        path.write_text(recipe_source(replace(load_recipe("resnet20_digits"), optimizer=SGD(lr=lr))))
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert load_recipe(path).optimizer == SGD(lr=lr)
    assert list(tmp_path.iterdir()) == [path]  # no __pycache__ is left in a run directory


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


@pytest.mark.slow
def test_stored_recipe_is_the_recipe(tmp_path: Path) -> None:
    options = ["--optimizer.lr", "0.1234567890123456789", "--mean", "0.1", "0.2", "0.3", "--clip-grad-norm", "1"]
    overridden = [resolved(name, *options) for name in recipe_names()]
    recipes = [load_recipe(name) for name in recipe_names()] + overridden + VARIANTS
    assert len(recipes) == 86 + 86 + len(VARIANTS)
    for number, recipe in enumerate(recipes):
        path = tmp_path / f"recipe{number}.py"
        path.write_text(recipe_source(recipe))
        again = load_recipe(path)
        assert again == recipe
        assert recipe_diff(recipe, again) == []
        assert recipe_source(again) == recipe_source(recipe)


def test_stored_recipe_says_how_to_run_it_and_writes_every_value_out() -> None:
    source = recipe_source(load_recipe("resnet50_goyal2017_8k"))
    assert "python -m trainer train THIS_FILE --data DIR --run-dir DIR" in source
    assert source.count("=") == 1 + len(list(leaves(load_recipe("resnet50_goyal2017_8k")))) + 8  # and its 8 parts


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50_goyal2017_8k", ["--optimizer.weight-decay", "1e-300"]),
        ("resnet50_goyal2017_8k", ["--seed", str(2**63 - 1)]),
        ("resnet50_finetune", ["--model.name", "timm/a'b"]),
    ],
)
def test_value_at_the_edge_that_the_command_line_takes_can_be_stored(
    name: str, options: list[str], tmp_path: Path
) -> None:
    """Otherwise a run could start but neither resume nor be evaluated, because its recipe.py does not load."""
    recipe = resolved(name, *options)
    assert recipe != load_recipe(name)
    (tmp_path / "recipe.py").write_text(recipe_source(recipe))
    assert load_recipe(tmp_path / "recipe.py") == recipe


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
def test_value_that_no_recipe_file_can_hold_is_refused_by_the_command_line(options: list[str]) -> None:
    with pytest.raises(UserError, match=options[0][2:].replace("-", "_")):
        resolved("resnet50_goyal2017_8k", *options)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("resnet20_digit", r"no recipe is called 'resnet20_digit': did you mean resnet20_digits\?"),
        ("resnet50_goyal2018", r"did you mean resnet50_goyal2017\?"),
        ("nothing", r"no recipe is called 'nothing': python -m trainer recipes lists all 86"),
        ("", r"no recipe is called ''"),
        (".", r"no recipe is called '\.'"),
        ("mine.py", r"mine\.py: there is no such recipe file"),
    ],
)
def test_unknown_recipe_is_answered_with_those_there_are(name: str, answer: str) -> None:
    with pytest.raises(UserError, match=answer) as caught:
        parse_train([name, *NEEDED])
    assert "\n" not in str(caught.value)


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
    ],
)
def test_changes_are_named_with_both_values(other: Recipe, changes: list[str] | None) -> None:
    found = [str(change) for change in recipe_diff(HE, other)]
    if changes is not None:
        assert found == changes
    assert bool(found) is (other != HE)
    assert len(recipe_diff(other, HE)) == len(found)


def test_recipe_file_corrected_published_result_is_no_change() -> None:
    """Else a run would not continue after the correction, and compare would call its recipe changed."""
    assert HE.published
    for published in (None, replace(HE.published, top1=91.3, runs=None)):
        corrected = replace(HE, published=published)
        assert recipe_diff(HE, corrected) == recipe_diff(corrected, HE) == overrides_of(corrected) == []
        assert changes_since(settings_of(HE), settings_of(corrected)) == []


def test_recipe_file_different_part_with_the_same_values_is_a_change() -> None:
    cosine, linear = replace(HE, schedule=Cosine()), replace(HE, schedule=Linear())
    assert recipe_diff(cosine, linear) == [("schedule", "Cosine", "Linear")]


def test_recipes_of_the_package_are_those_in_the_folder() -> None:
    assert recipe_names() == sorted(path.stem for path in RECIPES.glob("*.py") if path.stem != "__init__")
