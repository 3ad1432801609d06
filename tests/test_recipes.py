"""Each recipe against what its paper says: the numbers here are the papers', not the recipe files'."""

import ast
import math
import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from trainer.model import build_model
from trainer.optimizer import audit, build_optimizer
from trainer.recipe import CenterCrop, CrossEntropy, PaddedCrop, RandomResizedCrop, Recipe, Steps
from trainer.recipe_file import RECIPES, load_recipe, recipe_names
from trainer.schedule import lr_at
from trainer.settings import parse_prepare, parse_train

FILES = sorted(path for path in (Path(__file__).parent.parent / "recipes").glob("*.py") if path.stem != "__init__")
BY_NAME = {path.stem: path for path in FILES}


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What the source of a recipe says, and what follows from it by hand."""

    source: str  # a word that docstring and published result both have to hold
    top1: float | None
    sd: float | None = None
    images: int  # of the published training set
    classes: int
    resolution: int
    crop_ratio: float
    flip: bool
    steps_per_epoch: int
    steps: int
    lr: dict[int, float]  # at the start of this step
    momentum: float = 0.9
    nesterov: bool
    parameters: int
    groups: list[tuple[int, float]]  # number of tensors and their weight decay
    gammas: tuple[int, int]  # how many start at zero, of how many
    fc_std: float
    accumulation: dict[int, int | str]  # for a number of processes: forward passes per step, or the counts that fit
    norm_batch: int  # images that batch normalisation sees together


PAPERS = {
    # Goyal et al. 2017, Table 1 and sections 2 and 5.1: eta = 0.1 * 8192 / 256 = 3.2, kn = 8192, n = 32
    "resnet50_goyal2017_8k": Paper(
        source="arXiv:1706.02677",
        top1=100 - 23.74,
        sd=0.09,
        images=1_281_167,
        classes=1000,
        resolution=224,
        crop_ratio=224 / 256,
        flip=True,
        steps_per_epoch=156,
        steps=90 * 156,
        lr={
            0: 0.1,
            156: 0.72,
            2 * 156: 1.34,
            3 * 156: 1.96,
            4 * 156: 2.58,
            5 * 156: 3.2,
            30 * 156 - 1: 3.2,
            30 * 156: 0.32,
            60 * 156 - 1: 0.32,
            60 * 156: 0.032,
            80 * 156 - 1: 0.032,
            80 * 156: 0.0032,
            90 * 156 - 1: 0.0032,
        },
        nesterov=True,
        parameters=25_557_032,
        groups=[(53 + 2, 1e-4), (106, 0.0)],  # convolutions and classifier; gamma and beta of 53 norms
        gammas=(16, 53),
        fc_std=0.01,
        accumulation={1: 256, 8: 32, 64: 4, 256: 1, 48: "1, 2, 4, 8, 16, 32, 64, 128, 256"},
        norm_batch=32,
    ),
    # torchvision references/classification: 8 GPUs x 32, lr 0.1, step 30, 90 epochs; ResNet50_Weights.IMAGENET1K_V1
    "resnet50_torchvision_v1": Paper(
        source="ResNet50_Weights.IMAGENET1K_V1",
        top1=76.130,
        images=1_281_167,
        classes=1000,
        resolution=224,
        crop_ratio=224 / 256,
        flip=True,
        steps_per_epoch=5004,
        steps=450_360,
        lr={
            0: 0.1,
            30 * 5004 - 1: 0.1,
            30 * 5004: 0.01,
            60 * 5004 - 1: 0.01,
            60 * 5004: 0.001,
            450_359: 0.001,
        },
        nesterov=False,
        parameters=25_557_032,
        groups=[(161, 1e-4)],
        gammas=(0, 53),
        fc_std=1 / math.sqrt(3 * 2048),  # uniform in +-1 / sqrt(inputs)
        accumulation={1: 8, 8: 1, 64: "1, 2, 4, 8"},
        norm_batch=32,
    ),
    # He et al. 2015, section 4.2: 64k iterations of 128 images, lr 0.1, divided by 10 at 32k and 48k; two GPUs
    "resnet20_he2015": Paper(
        source="arXiv:1512.03385",
        top1=100 - 8.75,
        images=50_000,
        classes=10,
        resolution=32,
        crop_ratio=1.0,
        flip=True,
        steps_per_epoch=390,
        steps=63_960,
        lr={0: 0.1, 31_979: 0.1, 31_980: 0.01, 47_969: 0.01, 47_970: 0.001, 63_959: 0.001},
        nesterov=False,
        parameters=269_722,  # 0.27 M in Table 6
        groups=[(19 + 38 + 2, 1e-4)],
        gammas=(0, 19),
        fc_std=1 / math.sqrt(3 * 64),
        accumulation={1: 2, 2: 1, 8: "1, 2", 64: "1, 2"},
        norm_batch=64,
    ),
    # our own: half a cosine from 0.1 after two epochs of warmup from 0.01
    "resnet20_digits": Paper(
        source="arXiv:1512.03385",
        top1=None,
        images=1_437,
        classes=10,
        resolution=32,
        crop_ratio=1.0,
        flip=False,
        steps_per_epoch=14,
        steps=280,
        lr={0: 0.01, 14: 0.055, 28: 0.1, 154: 0.05, 279: 0.05 * (1 + math.cos(math.pi * 251 / 252))},
        nesterov=True,
        parameters=269_722,
        groups=[(19 + 2, 5e-4), (38, 0.0)],
        gammas=(0, 19),
        fc_std=1 / math.sqrt(3 * 64),
        accumulation={1: 2, 2: 1, 8: "1, 2", 64: "1, 2"},
        norm_batch=48,
    ),
}
EVERY_RECIPE = pytest.mark.parametrize("name", sorted(PAPERS))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@cache
def recipe_of(name: str) -> Recipe:
    return load_recipe(name)


@cache
def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(recipe_of(name).model, recipe_of(name).num_classes)


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse(BY_NAME[name].read_text())) or ""


def test_every_recipe_has_its_paper_here() -> None:
    assert len(FILES) == 4
    assert sorted(BY_NAME) == sorted(PAPERS)


@EVERY_RECIPE
def test_a_recipe_is_called_as_its_file(name: str) -> None:
    assert recipe_of(name).name == name


# ------------------------------------------------------------------------------------------------------- training


@EVERY_RECIPE
def test_the_rate_is_the_papers_at_the_steps_it_names(name: str) -> None:
    recipe, paper = recipe_of(name), PAPERS[name]
    assert len(paper.lr) >= 5
    for step, lr in paper.lr.items():
        found = lr_at(
            recipe.schedule, peak=recipe.optimizer.lr, epoch=step / paper.steps_per_epoch, epochs=recipe.epochs
        )
        assert found == pytest.approx(lr, rel=1e-9), f"at step {step}"


@EVERY_RECIPE
def test_the_number_of_steps_is_the_papers_on_the_published_images(name: str) -> None:
    recipe, paper = recipe_of(name), PAPERS[name]
    steps_per_epoch = paper.images // recipe.global_batch_size
    assert steps_per_epoch == paper.steps_per_epoch
    assert recipe.epochs * steps_per_epoch == paper.steps


def test_hes_iterations_are_the_thousands_of_the_paper() -> None:
    """164 epochs with drops at 82 and 123 are the usual reading of 32k, 48k and 64k iterations."""
    recipe = recipe_of("resnet20_he2015")
    assert isinstance(recipe.schedule, Steps)
    iterations = [390 * epoch for epoch in (*recipe.schedule.milestones, recipe.epochs)]
    assert iterations == pytest.approx([32_000, 48_000, 64_000], rel=1e-3)


@EVERY_RECIPE
def test_a_norm_sees_the_papers_batch_on_any_number_of_processes(name: str) -> None:
    recipe, paper = recipe_of(name), PAPERS[name]
    assert recipe.micro_batch_size == paper.norm_batch
    for processes, expected in paper.accumulation.items():
        if isinstance(expected, int):
            assert recipe.accumulation(processes) == expected
            assert expected * processes * paper.norm_batch == recipe.global_batch_size
        else:
            with pytest.raises(ValueError, match=rf"{processes} processes cannot share .*: use {expected} processes"):
                recipe.accumulation(processes)


@EVERY_RECIPE
def test_the_optimizer_is_the_papers_and_decays_what_it_says(name: str) -> None:
    recipe, paper = recipe_of(name), PAPERS[name]
    optimizer = build_optimizer(recipe.optimizer, model_of(name))
    assert [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups] == paper.groups
    assert {(group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {
        (paper.momentum, paper.nesterov)
    }
    assert sum(count for count, _ in paper.groups) == len(list(model_of(name).parameters()))


@EVERY_RECIPE
def test_nothing_is_switched_on_that_the_paper_does_not_have(name: str) -> None:
    """No label smoothing, no clipping, the common seed."""
    recipe = recipe_of(name)
    assert (recipe.loss, recipe.clip_grad_norm, recipe.seed) == (CrossEntropy(label_smoothing=0.0), None, 0)


# ---------------------------------------------------------------------------------------------------------- model


@EVERY_RECIPE
def test_the_model_has_the_papers_size(name: str) -> None:
    assert sum(parameter.numel() for parameter in model_of(name).parameters()) == PAPERS[name].parameters


@EVERY_RECIPE
def test_training_starts_from_the_papers_weights(name: str) -> None:
    paper, counted = PAPERS[name], audit(recipe_of(name).optimizer, model_of(name))
    assert (counted.gammas_zero, counted.gammas) == paper.gammas
    fc = model_of(name).get_submodule("fc")
    assert isinstance(fc, nn.Linear)
    # the deviation of a sample's deviation is at most sigma / sqrt(2n)
    assert fc.weight.std().item() == pytest.approx(paper.fc_std, rel=4 / math.sqrt(2 * fc.weight.numel()))
    assert fc.weight.shape[0] == recipe_of(name).num_classes == paper.classes
    assert bool(fc.bias.any()) is (paper.fc_std != 0.01)  # Goyal's is zero, PyTorch's is not


# --------------------------------------------------------------------------------------------------------- images


@EVERY_RECIPE
def test_images_are_cut_as_in_the_paper(name: str) -> None:
    recipe, paper = recipe_of(name), PAPERS[name]
    assert recipe.flip is paper.flip
    assert recipe.eval_crop == CenterCrop(resolution=paper.resolution, crop_ratio=paper.crop_ratio)
    if paper.classes == 1000:  # Szegedy's crops: 8 % to 100 % of the area, 3:4 to 4:3
        crop = RandomResizedCrop(resolution=224, scale=(0.08, 1.0), ratio=(0.75, 4 / 3))
        assert recipe.train_crop == crop
        assert (recipe.mean, recipe.std) == IMAGENET
    else:  # 4 pixels of padding on each side
        assert isinstance(recipe.train_crop, PaddedCrop)
        assert (recipe.train_crop.resolution, recipe.train_crop.padding) == (32, 4)


def test_hes_padding_is_zero_after_the_mean_is_subtracted() -> None:
    recipe = recipe_of("resnet20_he2015")
    assert isinstance(recipe.train_crop, PaddedCrop)
    assert recipe.mean == (0.4914, 0.4822, 0.4465)
    assert recipe.std == (0.2470, 0.2435, 0.2616)
    for value, mean, std in zip(recipe.train_crop.fill, recipe.mean, recipe.std, strict=True):
        assert abs(value / 255 - mean) / std < 0.5 / 255 / std  # as near to zero as 8 bits can be


# --------------------------------------------------------------------------------------------------- what it says


@EVERY_RECIPE
def test_the_published_result_is_the_papers_with_protocol_and_source(name: str) -> None:
    recipe, paper = recipe_of(name), PAPERS[name]
    if name == "resnet20_digits":
        assert recipe.published is None
        return
    assert recipe.published is not None
    assert paper.top1 is not None
    assert recipe.published.top1 == pytest.approx(paper.top1, abs=1e-9)
    assert recipe.published.sd == paper.sd
    assert paper.source in recipe.published.source
    assert f"{paper.resolution} px" in recipe.published.protocol
    assert re.search(r"\b\d+ runs?\b", recipe.published.protocol)


@EVERY_RECIPE
def test_the_docstring_names_source_and_result(name: str) -> None:
    text, paper = re.sub(r"\s+", " ", docstring(name)), PAPERS[name]
    assert ("weights metadata" if name == "resnet50_torchvision_v1" else paper.source) in text
    if paper.top1 is None:
        assert "nobody has published a result" in text
    else:
        result = {f"{paper.top1:.3f} % top-1", f"{100 - paper.top1:.2f} % test error"}
        result |= {f"{100 - paper.top1:.2f} +- {paper.sd} % top-1 error"}
        assert any(words in text for words in result), result


@EVERY_RECIPE
def test_the_docstring_says_where_the_precision_is_not_the_papers(name: str) -> None:
    """None of these papers trained in bf16."""
    assert recipe_of(name).precision == "bf16"
    if recipe_of(name).published:
        differences = re.split(r"Not as (?:in the paper|there):", docstring(name))[1:]
        assert any("bf16" in text for text in differences)


def commands(name: str) -> list[list[str]]:
    """The indented lines of a docstring, in words."""
    return [shlex.split(line) for line in docstring(name).splitlines() if line.startswith("    ")]


@EVERY_RECIPE
def test_the_command_in_the_docstring_runs_this_recipe(name: str) -> None:
    training = [words for words in commands(name) if "train" in words]
    assert len(training) == 1
    words = training[0]
    start = words.index("trainer") - 1
    assert words[start : start + 3] == ["-m", "trainer", "train"]
    recipe, settings = parse_train(words[start + 3 :])
    assert recipe == recipe_of(name)
    assert settings.data and settings.run_dir
    assert words[:start] in (["python"], ["torchrun", "--nproc-per-node", words[2]])
    recipe.accumulation(1 if words[0] == "python" else int(words[2]))  # raises where they cannot share the batch


@EVERY_RECIPE
def test_every_other_command_in_the_docstring_prepares_the_data_it_trains_on(name: str) -> None:
    prepared = [words for words in commands(name) if "train" not in words]
    assert len(prepared) == (0 if PAPERS[name].classes == 1000 else 1)
    for words in prepared:
        assert words[:4] == ["python", "-m", "trainer", "prepare"]
        _, _, out, _ = parse_prepare(words[4:])
        (training,) = [words for words in commands(name) if "train" in words]
        assert training[training.index("--data") + 1] == str(out)


def test_the_ledger_has_a_line_for_every_recipe_with_its_published_result_and_ours() -> None:
    ledger = (RECIPES / "README.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ledger.splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == recipe_names()
    for name, _, published, measured in rows:
        result = load_recipe(name.strip("`")).published
        assert published.startswith(f"{result.top1:g}" if result else "none")
        assert measured == "not yet" or ("n = " in measured and "commit " in measured)
