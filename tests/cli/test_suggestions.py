"""What newcomers type first is answered: a network, a library's model, a part, a peer's option."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from launch.local.settings import LocalSettings
from launch.slurm.settings import SlurmSettings
from tests.support.command_lines import NEEDED, leaves, resolved
from tests.support.peer_flags import FLAGS
from tests.support.processes import ROOT
from trainer.__main__ import main
from trainer.cli import peer_options, suggestions
from trainer.cli.parse import parse_train
from trainer.cli.peer_options import ANSWERS, PEERS, rows
from trainer.cli.peer_tables import HABITS
from trainer.errors import UserError
from trainer.recipe import LARS, SWA, LibraryModel, Mixing
from trainer.recipe_file import load_recipe, recipe_names
from trainer.settings import BenchmarkSettings, TrainSettings
from trainer.weights_settings import ExportSettings

GUIDE = ROOT / "docs" / "coming-from.md"


def mistake(recipe: str, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_train([recipe, *NEEDED, *words])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def recipe_written_as(answer: str, folder: Path) -> Any:
    """The recipe of the lines that an answer names, as a user would paste them."""
    (code,) = re.findall(r"from dataclasses import .*$", answer)
    (folder / "mine.py").write_text(code)
    return load_recipe(folder / "mine.py")


# --------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", ["resnet50", "ResNet-50", "torchvision/resnet50"])
def test_network_is_answered_with_its_recipes_and_the_one_to_begin_with(name: str) -> None:
    answer = mistake(name)
    of_network = [each for each in recipe_names() if each.startswith("resnet50_")]
    assert len(of_network) == 28
    assert answer.startswith(f"no recipe is called '{name}': 28 recipes train this network. Begin with resnet50_torch")
    assert re.findall(r"resnet50_\w+", answer) == ["resnet50_torchvision_v1", "resnet50_finetune"]
    assert answer.endswith("; python -m trainer recipes resnet50 lists all")


def test_network_of_few_recipes_is_answered_with_their_names() -> None:
    networks = [name.partition("_")[0] for name in recipe_names()]
    network = next(each for each in networks if 1 < networks.count(each) < 8)
    names = [each for each in recipe_names() if each.startswith(f"{network}_")]
    assert sorted(re.findall(rf"{network}_\w+", mistake(network))) == names


def test_suggestions_every_network_has_a_recipe_to_begin_with() -> None:
    networks = {name.partition("_")[0] for name in recipe_names()}
    assert len(networks) == 24
    for network in networks:
        answer = str(suggestions.for_unknown_recipe(network, recipe_names()))
        (first,) = re.findall(rf"(?:Begin with|network is) ({network}_\w+)", answer)
        assert first in recipe_names()


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("resnext50_32x4d", "torchvision/resnext50_32x4d"),
        ("wide_resnet50_2", "torchvision/wide_resnet50_2"),
        ("vit_base_patch16_224", "timm/vit_base_patch16_224"),
        ("timm/seresnet50", "timm/seresnet50"),
    ],
)
def test_librarys_model_is_answered_with_how_it_is_trained(name: str, model: str, tmp_path: Path) -> None:
    answer = mistake(name)
    (tuning,) = re.findall(r"To fine-tune it: train (\S+ --model.name \S+)\.", answer)
    recipe, _, value = tuning.split()
    assert resolved(recipe, "--model.name", value).model == LibraryModel(name=model, pretrained=True)
    assert recipe_written_as(answer, tmp_path).model == LibraryModel(name=model)


@pytest.mark.parametrize("name", ["nothing", "get_model_weights_of_nobody", "os"])
def test_word_that_names_nothing_is_answered_with_the_list(name: str) -> None:
    assert "recipes lists all 86 (a recipe of your own is a path that ends in .py)" in mistake(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "found", "not_found"),
    [
        ("LAMB", "resnet50_wightman2021_a1", "resnet50_goyal2017"),  # a part
        ("mixup", "resnet50_wightman2021_a1", "resnet50_he2015"),  # a docstring or a setting
        ("kornblith", "resnet50_finetune", "resnet50_he2015"),  # a docstring alone
        ("torchvision/resnet50", "resnet50_finetune", "resnet50_he2015"),  # a library's network
    ],
)
def test_recipes_searches_docstrings_networks_and_parts(
    word: str, found: str, not_found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", word]) == 0
    names = re.findall(r"^(\w+): ", capsys.readouterr().out, re.MULTILINE)
    assert found in names
    assert not_found not in names


def test_recipes_prefers_names_to_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "wightman2021"]) == 0
    names = re.findall(r"^(\w+): ", capsys.readouterr().out, re.MULTILINE)
    assert names == [name for name in recipe_names() if "wightman2021" in name]


@pytest.mark.parametrize("option", ["-a", "--arch", "--model"])
def test_network_as_an_option_before_the_recipe_is_answered_as_a_recipe(option: str) -> None:
    with pytest.raises(UserError, match=r"recipe comes first: .* 28 recipes train this .* resnet50_torchvision_v1"):
        parse_train([option, "resnet50", "photos"])


def test_folder_without_an_option_is_answered_with_data() -> None:
    with pytest.raises(UserError, match=r"'photos' needs an option before it: did you mean --data photos\?"):
        parse_train(["resnet50_finetune", "photos", "--run-dir", "r"])


# ----------------------------------------------------------------------------------------------------------- parts


def test_suggestions_part_that_does_not_exist_is_answered_with_those_that_do(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from trainer.recipe import Lion\n")
    answer = mistake(str(tmp_path / "mine.py"))
    assert (
        "trainer.recipe has no Lion. The parts of a recipe are model: ResNet, CifarResNet, WideResNet, LibraryModel; "
        in answer
    )
    assert "optimizer: SGD, DecoupledSGD, AdamW, LAMB, LARS, LibraryOptimizer; schedule: Steps, " in answer
    (tmp_path / "mine.py").write_text("from trainer.recipe import CosineS\n")
    assert "trainer.recipe has no CosineS: did you mean Cosine?" in mistake(str(tmp_path / "mine.py"))


def test_suggestions_part_on_the_command_line_is_answered_with_the_lines_of_a_recipe_file(tmp_path: Path) -> None:
    base = load_recipe("resnet20_digits")
    answer = mistake("resnet20_digits", "--optimizer", "adamw")
    assert "this recipe has optimizer=SGD; a part is chosen in a recipe file, among SGD, DecoupledSGD, AdamW" in answer
    assert recipe_written_as(answer, tmp_path).optimizer != base.optimizer
    answer = mistake("resnet20_digits", "--optimizer=lars")
    assert recipe_written_as(answer, tmp_path).optimizer == LARS(lr=base.optimizer.lr)
    answer = mistake("resnet20_digits", "--mixing.mixup-alpha", "0.2")
    assert "this recipe has mixing=None" in answer
    assert recipe_written_as(answer, tmp_path).mixing == Mixing(mixup_alpha=0.2)
    answer = mistake("resnet18_torchvision_v1", "--swa", "SWA")
    assert recipe_written_as(answer, tmp_path).swa == SWA(start_epoch=67)  # three quarters of 90 epochs


@pytest.mark.slow
def test_part_that_is_switched_on_or_off_is_answered_with_the_lines_that_do_it(tmp_path: Path) -> None:
    """A part may also lie within a part, as a schedule's warmup."""
    answer = mistake("resnet20_digits", "--schedule.warmup", "None")
    assert "this recipe has schedule.warmup=Warmup; a part is chosen in a recipe file" in answer
    base = load_recipe("resnet20_digits")
    assert recipe_written_as(answer, tmp_path).schedule == replace(base.schedule, warmup=None)
    answer = mistake("resnet18_torchvision_v1", "--schedule.warmup")
    assert recipe_written_as(answer, tmp_path).schedule.warmup is not None
    answer = mistake("resnet50_wightman2021_a2", "--mixing", "None")
    assert "this recipe has mixing=Mixing" in answer
    assert recipe_written_as(answer, tmp_path).mixing is None
    assert "this recipe has ema=None already: leave it out" in mistake("resnet20_digits", "--ema", "None")


@pytest.mark.slow
def test_lines_for_every_part_are_a_recipe(tmp_path: Path) -> None:
    tried = 0
    for part, kinds in suggestions.parts().items():
        for kind in kinds:
            answer = mistake("resnet18_torchvision_v1", f"--{part.replace('_', '-')}", kind.__name__)
            assert type(getattr(recipe_written_as(answer, tmp_path), part)) is kind
            tried += 1
    assert tried == 35


# ---------------------------------------------------------------------------------------------------- peers' options

ASKED = {
    "--resume": "run the same command again",
    "--output": "--run-dir",
    "--config": "RECIPE comes first",
    "--batch-size": "--global-batch-size",
    "--batch_size": "--global-batch-size",
    "-b": "--global-batch-size",
    "--sync-bn": "--sync-norm",
    "--wandb": "no equivalent",
    "--log-wandb": "no equivalent",
    "--lr": "--optimizer.lr",
    "--learning-rate": "--optimizer.lr",
    "--model": "choose a recipe",
    "-j": "--workers",
    "--num-workers": "--workers",
    "--amp": "--precision",
    "--fp16": "--precision",
    "--channels-last": "always on",
    "--pretrained": "resnet50_finetune",
    "--distributed": "python -m launch local",
    "--opt": "a recipe file",
    "--sched": "a recipe file",
    "--num-epochs": "--epochs",
    "--max-epochs": "--epochs",
    "--wd": "--optimizer.weight-decay",
    "--training.batch_size": "--global-batch-size",
    "OPTIM.BASE_LR": "--optimizer.lr",
}


@pytest.mark.parametrize("option", ASKED)
def test_peers_option_is_answered_with_ours_or_with_why_there_is_none(option: str) -> None:
    answer = mistake("resnet20_digits", option, "3")
    assert answer.startswith(f"Unrecognized options: {option}, 3. Instead of {option}: ")
    assert ASKED[option] in answer


def test_several_options_are_answered_together() -> None:
    answer = mistake("resnet20_digits", "--lr=0.1", "--amp", "--nobody-has-this")
    assert "Instead of --lr: --optimizer.lr" in answer
    assert "Instead of --amp: --precision" in answer
    assert "Instead of --nobody" not in answer


def test_suggestions_every_answer_names_options_that_exist() -> None:
    commands = (TrainSettings, BenchmarkSettings, ExportSettings, LocalSettings, SlurmSettings)
    settings = {field.name for kind in commands for field in fields(kind)}
    settings |= {field.name for field in fields(load_recipe("resnet20_digits"))} | {"out"}
    for name in recipe_names():
        settings |= {setting for setting, _ in leaves(load_recipe(name))}
    parts = suggestions.parts()
    settings |= {f"{part}.{field.name}" for part, kinds in parts.items() for kind in kinds for field in fields(kind)}
    named = [option for text in ANSWERS.values() for option in re.findall(r"--[a-z][\w.-]*[a-z]", text)]
    assert len(named) > 80
    for option in named:
        wanted = option.removeprefix("--").replace("-", "_")
        path, _, last = wanted.rpartition(".")
        assert wanted in settings or f"{path}.{last.removeprefix('no_')}".lstrip(".") in settings, option


def test_guide_holds_the_tables_that_the_command_line_answers_with() -> None:
    text = GUIDE.read_text()
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == [
        *PEERS,
        "Left out on purpose",
    ]
    found = re.findall(r"^\| (`.*`) \| (.*) \|$", text, re.MULTILINE)
    expected = [row for peer in PEERS for row in rows(peer)]
    assert [(options.replace("`", ""), answer.replace("\\|", "|")) for options, answer in found] == expected
    assert len(expected) > 150


COUNTS = {"timm's train.py": 172, "torchvision's references/classification/train.py": 55,
          "ffcv-imagenet's train_imagenet.py": 33, "Composer's Trainer": 62, "pycls": 127}  # fmt: skip


@pytest.mark.parametrize("peer", PEERS)
def test_guide_has_every_option_of_the_peer_once(peer: str) -> None:
    """Against a list of the names in the peer's own source: none is missing, none is made up, none is there twice."""
    stored = FLAGS[peer].split()
    assert len(stored) == len(set(stored)) == COUNTS[peer]
    section = GUIDE.read_text().split(f"\n## {peer}\n")[1].split("\n## ")[0]
    named = [
        name for cell in re.findall(r"^\| (`.*`) \| ", section, re.MULTILINE) for name in re.findall(r"`([^`]+)`", cell)
    ]
    assert sorted(named) == sorted(stored)


def test_suggestions_every_answer_is_used_and_every_option_of_a_peer_answered() -> None:
    subjects = {subject for table in (*PEERS.values(), HABITS) for subject in table}
    assert subjects == set(ANSWERS)
    for peer in PEERS:
        for options, _ in rows(peer):
            for option in options.split(", "):
                assert peer_options.answer(option) or not option.startswith("-"), option


def test_recipe_file_of_the_guide_is_a_recipe(tmp_path: Path) -> None:
    lines = GUIDE.read_text().partition("      # mine.py")[2].partition("\n\n- **")[0].splitlines()[1:]
    (tmp_path / "mine.py").write_text("\n".join(line.removeprefix("      ") for line in lines))
    assert load_recipe(tmp_path / "mine.py").model == LibraryModel(name="torchvision/resnext50_32x4d")
