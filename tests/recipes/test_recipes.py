"""Each recipe against what its paper says: the numbers are the papers' (tests/papers/), not the recipe files'."""

import ast
import math
import re
import shlex
from dataclasses import fields, replace
from functools import cache
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from tests.papers import PAPERS
from tests.papers.paper import Images
from tests.support.processes import ROOT
from trainer.cli.parse import parse_prepare, parse_train
from trainer.data.resolution import resolution_at
from trainer.model import build_model, without_pretrained
from trainer.model.block import Block
from trainer.model.blur import BlurConv2d, BlurMaxPool2d
from trainer.model.preactivation import PreActivationBlock
from trainer.model.weights import classifiers
from trainer.optim.optimizer import audit, build_optimizer
from trainer.recipe import LibraryModel, Model, Recipe, ResNet, Steps
from trainer.recipe_file import RECIPES, load_recipe, recipe_names
from trainer.schedule import lr_at

FILES = sorted(path for path in (ROOT / "recipes").glob("*.py") if path.stem != "__init__")
BY_NAME = {path.stem: path for path in FILES}
EVERY_RECIPE = pytest.mark.parametrize("name", sorted(PAPERS))
PUBLISHED = pytest.mark.parametrize("name", sorted(name for name in PAPERS if PAPERS[name].top1 is not None))


@cache
def recipe_of(name: str) -> Recipe:
    return load_recipe(name)


@cache
def built(spec: Model, num_classes: int) -> nn.Module:
    """Its convolutions share one zero: nobody looks at their values here, and 40 models would need time and 4 GB."""
    torch.manual_seed(0)
    nothing = lambda *_, **__: None  # noqa: E731
    with patch.object(nn.Conv2d, "reset_parameters", nothing), patch.object(nn.init, "kaiming_normal_", nothing):
        model = build_model(spec, num_classes)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = torch.zeros(1).expand(module.weight.shape)
    return model


def model_of(name: str) -> nn.Module:
    """Recipes that differ in other things share one; nothing is downloaded."""
    return built(without_pretrained(recipe_of(name).model), recipe_of(name).num_classes)


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse(BY_NAME[name].read_text())) or ""


def flat(name: str) -> str:
    """The docstring on one line."""
    return re.sub(r"\s+", " ", docstring(name))


def test_recipe_every_recipe_has_its_paper_here() -> None:
    assert len(FILES) == 86
    assert sorted(BY_NAME) == sorted(PAPERS) == recipe_names()


@EVERY_RECIPE
def test_recipe_is_called_as_its_file(name: str) -> None:
    assert recipe_of(name).name == name


def test_recipe_every_setting_of_a_recipe_is_compared_with_its_paper() -> None:
    """A setting that is new in the vocabulary needs an expectation in tests/papers/ and a test below."""
    elsewhere = {"name", "dataset", "published", "model", "num_classes", "loss", "optimizer", "schedule", "epochs"}
    elsewhere |= {"clip_grad_norm", "ema", "fine_tuning", "global_batch_size", "micro_batch_size", "norm_batch_size"}
    elsewhere |= {"order", "sync_norm", "precise_norm_images", "precision", "gradient_compression", "seed"}
    elsewhere |= {"clip_grad_value", "clip_grad_agc", "distillation", "swa"}
    assert {field.name for field in fields(Recipe)} == elsewhere | {field.name for field in fields(Images)}


# ------------------------------------------------------------------------------------------------------- training


@EVERY_RECIPE
def test_rate_is_the_papers_at_the_steps_it_names(name: str) -> None:
    recipe, paper = recipe_of(name), PAPERS[name]
    assert len(paper.lr) >= 5
    for step, lr in paper.lr.items():
        found = lr_at(recipe.schedule, peak=recipe.optimizer.lr, epoch=step / paper.steps, epochs=recipe.epochs)
        assert found == pytest.approx(lr, rel=1e-9), f"at step {step}"


@EVERY_RECIPE
def test_number_of_steps_is_the_papers_on_the_published_images(name: str) -> None:
    recipe, paper = recipe_of(name), PAPERS[name]
    assert (recipe.dataset, recipe.num_classes) == (paper.dataset, paper.classes)
    assert (recipe.global_batch_size, recipe.epochs) == (paper.batch, paper.epochs)
    assert paper.images // recipe.global_batch_size == paper.steps


@pytest.mark.parametrize(
    "name", sorted(name for name in PAPERS if name.endswith("he2015") and PAPERS[name].classes == 10)
)
def test_hes_iterations_are_the_thousands_of_the_paper(name: str) -> None:
    """164 epochs with drops at 82 and 123 are the usual reading of 32k, 48k and 64k iterations."""
    recipe = recipe_of(name)
    assert isinstance(recipe.schedule, Steps)
    iterations = [390 * epoch for epoch in (*recipe.schedule.milestones, recipe.epochs)]
    assert iterations == pytest.approx([32_000, 48_000, 64_000], rel=1e-3)


def test_hes_epochs_on_imagenet_are_60e4_iterations() -> None:
    assert recipe_of("resnet50_he2015").epochs * 5004 == pytest.approx(60e4, rel=1e-3)


def test_goyals_256_workers_are_one_option_away() -> None:
    recipe = replace(recipe_of("resnet50_goyal2017_8k"), micro_batch_size=32)
    assert (recipe.accumulation(256), recipe.norm_batch_size) == (1, 32)


@EVERY_RECIPE
def test_norm_sees_the_papers_batch_on_any_number_of_processes(name: str) -> None:
    recipe, paper = recipe_of(name), PAPERS[name]
    assert recipe.micro_batch_size == (paper.micro_batch or paper.norm_batch)
    assert (recipe.norm_batch_size or recipe.micro_batch_size) == paper.norm_batch
    assert (recipe.sync_norm, recipe.gradient_compression) == (False, None)
    assert recipe.precise_norm_images == paper.precise_norm_images
    assert {1, 8, 64} <= set(paper.processes)
    for processes, expected in paper.processes.items():
        if isinstance(expected, int):
            assert recipe.accumulation(processes) == expected
            assert expected * processes * recipe.micro_batch_size == paper.batch
        else:
            with pytest.raises(ValueError, match=rf"{processes} processes cannot share .*: use {expected} processes"):
                recipe.accumulation(processes)


@pytest.mark.slow
@EVERY_RECIPE
def test_optimizer_is_the_papers_and_decays_what_it_says(name: str) -> None:
    recipe, paper = recipe_of(name), PAPERS[name]
    optimizer = build_optimizer(recipe.optimizer, model_of(name), recipe.fine_tuning)
    assert type(optimizer).__name__ == paper.optimizer
    assert [(len(group["params"]), group["lr_factor"]) for group in optimizer.param_groups] == [
        (count, share) for count, _, share in paper.groups
    ]
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays == pytest.approx([decay for _, decay, _ in paper.groups], rel=1e-12)
    for group in optimizer.param_groups:
        assert {key: group[key] for key in paper.settings} == paper.settings
    assert sum(count for count, _, _ in paper.groups) == len(list(model_of(name).parameters()))


@EVERY_RECIPE
def test_loss_is_the_papers_and_nothing_is_switched_on_that_it_does_not_have(name: str) -> None:
    """No clipping but LAMB's own, no average but the paper's, the common seed."""
    recipe, paper = recipe_of(name), PAPERS[name]
    assert (recipe.loss, recipe.fine_tuning) == (paper.loss, paper.fine_tuning)
    assert (recipe.clip_grad_norm, recipe.seed, recipe.precision) == (paper.clip_grad_norm, 0, paper.precision)
    assert (recipe.clip_grad_value, recipe.clip_grad_agc) == (None, None)
    assert (recipe.swa, recipe.order, recipe.distillation) == (None, None, paper.distillation)
    found = recipe.ema and (recipe.ema.decay, recipe.ema.every, recipe.ema.start_epoch)
    assert found == (pytest.approx(paper.ema, rel=1e-6) if paper.ema else None)


# ---------------------------------------------------------------------------------------------------------- model


@pytest.mark.slow
@EVERY_RECIPE
def test_model_has_the_papers_size(name: str) -> None:
    net, parameters = PAPERS[name].net, list(model_of(name).parameters())
    assert sum(parameter.numel() for parameter in parameters) == net.parameters
    assert len(parameters) == net.weights + net.biases + 2 * net.norms


def test_hes_cifar_networks_have_the_millions_of_table_6() -> None:
    depths = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7, 1202: 19.4}
    for depth, millions in depths.items():
        assert PAPERS[f"resnet{depth}_he2015"].net.parameters / 1e6 == pytest.approx(millions, rel=0.02)


@EVERY_RECIPE
def test_training_starts_from_the_papers_weights(name: str) -> None:
    paper, counted = PAPERS[name], audit(recipe_of(name).optimizer, model_of(name))
    assert (counted.gammas_zero, counted.gammas) == (paper.gammas_zero, paper.net.norms)
    (head,) = classifiers(model_of(name))
    fc = model_of(name).get_submodule(head)
    if isinstance(fc, nn.Conv2d):  # BiT's, whose values are not kept: see built()
        assert head == "head.fc"
        assert fc.bias is not None and not fc.bias.any() and paper.fc_bias == 0
        return
    assert isinstance(fc, nn.Linear)
    # the deviation of a sample's deviation is at most sigma / sqrt(2n)
    assert fc.weight.std().item() == pytest.approx(paper.fc_std, rel=4 / math.sqrt(2 * fc.weight.numel()))
    assert fc.weight.shape[0] == paper.classes
    if paper.fc_bias is None:
        assert len(set(fc.bias.tolist())) > paper.classes / 2
    else:
        assert fc.bias.tolist() == pytest.approx([paper.fc_bias] * paper.classes, rel=1e-6)


@EVERY_RECIPE
def test_blocks_are_joined_as_in_the_paper(name: str) -> None:
    """Shortcuts in residual networks only; what is dropped or blurred as in the source, and nowhere else."""
    spec, paper, modules = recipe_of(name).model, PAPERS[name], list(model_of(name).modules())
    if isinstance(spec, LibraryModel):
        assert (spec.name, spec.pretrained) == (paper.library, recipe_of(name).fine_tuning is not None)
        return
    if isinstance(spec, ResNet):
        assert (spec.stem, spec.variant) == ("imagenet", paper.variant)
    blocks = [module for module in modules if isinstance(module, Block | PreActivationBlock)]
    assert sum(block.downsample is not None for block in blocks) == paper.net.blocks
    assert {module.p for module in modules if isinstance(module, nn.Dropout)} <= {paper.dropout}
    assert not paper.dropout or any(isinstance(module, nn.Dropout) for module in modules)
    drops = [module.p for module in modules if isinstance(module, StochasticDepth)]
    expected = [paper.drop_path * index / (paper.net.blocks - 1) for index in range(1, paper.net.blocks)]
    assert drops == (pytest.approx(expected) if paper.drop_path else [])  # the first block has probability 0
    assert (
        sum(isinstance(module, BlurConv2d) for module in modules),
        sum(isinstance(module, BlurMaxPool2d) for module in modules),
    ) == paper.blurs


# --------------------------------------------------------------------------------------------------------- images


@EVERY_RECIPE
def test_recipe_images_are_cut_coloured_and_mixed_as_in_the_paper(name: str) -> None:
    for field in fields(Images):
        assert getattr(recipe_of(name), field.name) == getattr(PAPERS[name].sees, field.name), field.name


@EVERY_RECIPE
def test_crops_grow_in_the_papers_epochs(name: str) -> None:
    recipe, paper = recipe_of(name), PAPERS[name]
    assert bool(paper.resolutions) is (paper.sees.progressive is not None)
    resolutions = paper.resolutions or dict.fromkeys((0, recipe.epochs - 1), paper.sees.train_crop.resolution)
    assert {epoch: resolution_at(recipe, epoch) for epoch in resolutions} == resolutions


def test_hes_padding_is_zero_after_the_mean_is_subtracted() -> None:
    crop = PAPERS["resnet20_he2015"].sees
    for value, mean in zip((125, 123, 114), crop.mean, strict=True):
        assert abs(value / 255 - mean) < 0.5 / 255  # as near as 8 bits can be


# --------------------------------------------------------------------------------------------------- what it says


@EVERY_RECIPE
def test_published_result_is_the_papers_with_protocol_and_source(name: str) -> None:
    published, paper = recipe_of(name).published, PAPERS[name]
    if paper.top1 is None:
        assert published is None
        return
    assert published is not None
    assert published.top1 == pytest.approx(paper.top1, abs=1e-9)
    assert published.sd == paper.sd
    assert paper.source in published.source
    assert f"{paper.sees.eval_crop.resolution} px" in published.protocol
    assert (published.runs, published.statistic) == (paper.runs, paper.statistic)
    assert published.comparable is paper.comparable
    assert [words for words in paper.protocol if words not in published.protocol] == []


@EVERY_RECIPE
def test_docstring_names_source_and_result(name: str) -> None:
    paper = PAPERS[name]
    assert (paper.named or paper.source).lower() in flat(name).lower()
    assert paper.told in flat(name)
    if paper.top1 is None:
        return
    value = float(paper.told.split()[0])
    assert paper.top1 == pytest.approx(100 - value if "error" in paper.told else value, abs=1e-9)
    assert f"+- {paper.sd}" in paper.told if paper.sd else "+-" not in paper.told


@EVERY_RECIPE
def test_docstring_says_what_is_not_verified_and_how_it_differs(name: str) -> None:
    assert [words for words in PAPERS[name].doubts if words not in flat(name)] == []


@PUBLISHED
def test_docstring_says_where_the_precision_is_not_the_papers(name: str) -> None:
    """Few of these sources trained in bf16."""
    differences = re.split(r"Not as (?:in the paper|there):", docstring(name))[1:]
    assert any("bf16" in text for text in differences) is not PAPERS[name].same_precision


@EVERY_RECIPE
def test_recipe_first_line_is_a_sentence_for_the_listing(name: str) -> None:
    line = docstring(name).partition("\n")[0]
    assert line.endswith(".") and len(line) <= 117
    networks = r"ResNet-\d+|ResNet-RS-\d+|ResNeXt-\d+|Wide-ResNet-\d+|WRN-\d+|[Tt]he pre-activation ResNet-\d+"
    assert re.match(rf"(A )?({networks}|[Tt]he plain network of \d+ layers)\b", line)
    assert "".join(re.findall(r"\d+", line)[:1]) == "".join(re.findall(r"\d+", name)[:1])


def commands(name: str) -> list[list[str]]:
    """The indented lines of a docstring, split into words. A backslash continues a line."""
    lines = docstring(name).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("    ")]


@pytest.mark.slow
@EVERY_RECIPE
def test_command_in_the_docstring_runs_this_recipe(name: str) -> None:
    training = [words for words in commands(name) if "train" in words]
    assert len(training) == 1
    words = training[0]
    start = words.index("trainer") - 1
    assert words[start : start + 4] == ["-m", "trainer", "train", name]
    recipe, settings = parse_train(words[start + 3 :])
    assert recipe == recipe_of(name)
    assert settings.data and settings.run_dir
    teacher = recipe.distillation and recipe.distillation.teacher
    from_file = teacher is not None and not (isinstance(teacher, LibraryModel) and teacher.pretrained)
    assert (settings.teacher_weights is not None) == from_file
    assert words[:start] in (["python"], ["torchrun", "--nproc-per-node", words[2]])
    recipe.accumulation(1 if words[0] == "python" else int(words[2]))  # raises where they cannot share the batch


@EVERY_RECIPE
def test_recipe_every_other_command_in_the_docstring_prepares_the_data_it_trains_on(name: str) -> None:
    prepared = [words for words in commands(name) if "train" not in words]
    assert len(prepared) == (PAPERS[name].dataset != "ImageNet-1k" or "leclerc2023" in name)
    for words in prepared:
        assert words[:4] == ["python", "-m", "trainer", "prepare"]
        _, _, out, options = parse_prepare(words[4:])
        (training,) = [words for words in commands(name) if "train" in words]
        assert training[training.index("--data") + 1] == str(out)
        if "leclerc2023" in name:  # FFCV's files: 400 px and 10 % JPEG for ResNet-18, 500 px and 50 % for ResNet-50
            expected = (400, 0.1) if name.startswith("resnet18") else (500, 0.5)
            assert (options.max_resolution, options.compress_probability) == expected
            assert (options.write_mode, options.jpeg_quality) == ("proportion", 90)


@pytest.mark.slow
@EVERY_RECIPE
def test_options_that_a_docstring_recommends_exist(name: str) -> None:
    words = ["--data", "DIR", "--run-dir", "DIR"]
    for option in recommended(name):
        flag, _, value = option.rstrip(".").partition(" ")
        value = {"FILE": "weights.pt", "N": "10"}.get(value, value)
        parse_train([name, *words, flag, *([value.rstrip(".")] if value else [])])


def recommended(name: str) -> list[str]:
    """The options in a docstring's sentences: --precision fp32, --micro-batch-size 256, ..."""
    prose = " ".join(line for line in docstring(name).splitlines() if not line.startswith("    "))
    return re.findall(r"--[\w.-]+(?: (?:[\d.]+(?=[ ,:;.)]|$)|fp\d+|FILE|N\b))?", prose)


def test_options_in_docstrings_are_found() -> None:
    assert "--precision fp32" in recommended("resnet50_goyal2017_8k")
    assert "--micro-batch-size 256" in recommended("resnet50_wightman2021_a1")
    assert sum(len(recommended(name)) for name in BY_NAME) == 38


def test_ledger_has_a_line_for_every_recipe_with_its_published_result_and_ours() -> None:
    ledger = (RECIPES / "README.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ledger.splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == recipe_names()
    for name, source, published, measured in rows:
        result = load_recipe(name.strip("`")).published
        assert (published == "none") is (result is None)
        if result:
            assert source == result.source
            assert published == f"{result.value} ({result.conditions})"
        assert measured == "not yet" or ("n = " in measured and "commit " in measured)
