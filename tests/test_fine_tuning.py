"""What is frozen does not move by a bit, in steps of real training; what is not, does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.layers import EvoNorm2dB0
from torch import nn

from tests.support.command_lines import resolved
from trainer.commands.plan.data import DataFacts
from trainer.commands.plan.warnings import warnings
from trainer.data.contents import Contents
from trainer.distributed import process_group
from trainer.errors import UserError
from trainer.fine_tuning import apply_fine_tuning, train_mode
from trainer.model import build_model
from trainer.model.library import pixel_mismatch
from trainer.optim.optimizer import build_optimizer
from trainer.recipe import LAMB, LARS, SGD, AdamW, CifarResNet, DecoupledSGD, FineTuning, LibraryModel, Optimizer
from trainer.settings import TrainSettings
from trainer.setup import networks
from trainer.setup.networks import build_module

OPTIMIZERS: list[Optimizer] = [
    SGD(lr=0.1),
    DecoupledSGD(lr=0.1),
    AdamW(lr=0.1),
    LAMB(lr=0.1, weight_decay=0.1),
    LARS(lr=10.0),
]


def resnet8() -> nn.Module:
    torch.manual_seed(0)
    return build_model(CifarResNet(depth=8), 10)


def trained(model: nn.Module, spec: FineTuning | None, optimizer_spec: Optimizer, steps: int = 2) -> set[str]:
    """Trains the model, and returns the names of the entries of its state that are no longer what they were."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if spec:
        apply_fine_tuning(model, spec)
    optimizer = build_optimizer(optimizer_spec, model, spec)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        train_mode(model, spec)
        images = torch.randn(8, 3, 16, 16, generator=generator)
        nn.functional.cross_entropy(model(images), torch.arange(8)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda spec: type(spec).__name__)
def test_backbone_at_rate_zero_stays_as_it_is_and_the_classifier_learns(optimizer: Optimizer) -> None:
    assert trained(resnet8(), FineTuning(backbone_lr=0), optimizer) == {"fc.weight", "fc.bias"}


def test_fine_tuning_without_fine_tuning_all_of_it_moves() -> None:
    model = resnet8()
    assert trained(model, None, SGD(lr=0.1)) == set(model.state_dict())


def test_frozen_norms_keep_gamma_beta_and_statistics_while_all_other_layers_learn() -> None:
    model = resnet8()
    in_norms = {
        f"{name}.{entry}"
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for entry in module.state_dict()
    }
    assert len(in_norms) == 7 * 5
    assert trained(model, FineTuning(freeze_norms=True), SGD(lr=0.1)) == set(model.state_dict()) - in_norms


def test_freeze_norms_freezes_a_librarys_own_norms() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), EvoNorm2dB0(8), nn.Flatten(), nn.Linear(8, 2))
    apply_fine_tuning(model, FineTuning(freeze_norms=True))
    train_mode(model, FineTuning(freeze_norms=True))
    assert not any(parameter.requires_grad for parameter in model[1].parameters())
    assert not model[1].training and model[0].training


def test_slower_backbone_moves_by_that_share_in_its_first_step() -> None:
    """Its statistics move as ever."""
    start, slow, full = resnet8(), resnet8(), resnet8()
    moved = trained(slow, FineTuning(backbone_lr=0.25), SGD(lr=0.1, momentum=0), steps=1)
    assert moved == trained(full, None, SGD(lr=0.1, momentum=0), steps=1) == set(start.state_dict())
    for name, before in start.named_parameters():
        share = 1.0 if name.startswith("fc.") else 0.25
        expected = before + share * (full.get_parameter(name) - before)
        torch.testing.assert_close(slow.get_parameter(name), expected, atol=1e-6, rtol=1e-4)


def test_fine_tuning_dropping_back_to_train_mode_wakes_no_frozen_norm_and_leaves_all_else_in_training() -> None:
    model, spec = resnet8(), FineTuning(freeze_norms=True)
    model.eval()
    train_mode(model, spec)
    asleep = [module for module in model.modules() if not module.training]
    assert len(asleep) == 7
    assert all(isinstance(module, nn.BatchNorm2d) for module in asleep)
    train_mode(model, FineTuning(backbone_lr=0.5))
    assert all(module.training for module in model.modules())
    train_mode(model.eval(), None)
    assert all(module.training for module in model.modules())


def test_norm_within_the_classifier_learns_with_it() -> None:
    class WithHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
            self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))

        def get_classifier(self) -> nn.Module:
            return self.head

    model = WithHead()
    apply_fine_tuning(model, FineTuning(backbone_lr=0))
    train_mode(model, FineTuning(backbone_lr=0))
    assert (model.backbone[1].training, model.head[0].training) == (False, True)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        "head.0.weight",
        "head.0.bias",
        "head.1.weight",
        "head.1.bias",
    }


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            FineTuning(backbone_lr=0),
            "fine-tuning: 21 of 23 tensors are frozen, 7 of 7 norms keep their statistics; "
            "fc at the full rate, other layers at 0 of it",
        ),
        (
            FineTuning(backbone_lr=0.1),
            "fine-tuning: fc at the full rate, other layers at 0.1 of it",
        ),
        (
            FineTuning(freeze_norms=True),
            "fine-tuning: 14 of 23 tensors are frozen, 7 of 7 norms keep their statistics; "
            "fc at the full rate, other layers at 1 of it",
        ),
    ],
)
def test_log_counts_what_is_frozen(spec: FineTuning, sentence: str) -> None:
    assert apply_fine_tuning(resnet8(), spec) == sentence


def test_pretrained_weights_are_refused_with_the_pixels_that_they_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a file replaces them. The message has the options that mend it, and plan warns."""
    name = "timm/test_resnet"
    recipe = resolved("resnet50_finetune", "--model.name", name)
    settings = TrainSettings(data="DIR", run_dir=Path("run"))
    with process_group.initialize("cpu", 1) as world, pytest.raises(UserError) as caught:
        build_module(recipe, settings, world, fresh=True)
    said = str(caught.value)
    assert said == (
        f"the pretrained {name} expects mean=(0.5, 0.5, 0.5) and std=(0.5, 0.5, 0.5), but the recipe has "
        f"(0.485, 0.456, 0.406) and (0.229, 0.224, 0.225): use --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5"
    )
    facts = DataFacts(name="data", train=Contents(count=64), val=Contents(count=64))
    assert said in warnings(recipe, facts, 1)
    mended = resolved("resnet50_finetune", "--model.name", name, *said.partition(": use ")[2].split())
    assert pixel_mismatch(mended.model, mended.mean, mended.std) == ""
    assert not any("expects" in note for note in warnings(mended, facts, 1))
    monkeypatch.setattr(networks, "build_model", lambda *_, **__: resnet8())
    with (
        process_group.initialize("cpu", 1) as world,
        pytest.raises(UserError, match="initial weights: there is no file"),
    ):
        build_module(recipe, replace(settings, initial_weights=Path("nowhere.pth")), world, fresh=True)


def test_timms_classifier_is_found_whatever_its_name() -> None:
    model = build_model(LibraryModel(name="timm/mobilenetv3_small_050"), 10)
    apply_fine_tuning(model, FineTuning(backbone_lr=0))
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning == ["classifier.weight", "classifier.bias"]


def test_model_without_a_classifier_cannot_be_fine_tuned() -> None:
    with pytest.raises(UserError, match="Sequential has no classifier"):
        apply_fine_tuning(nn.Sequential(nn.Conv2d(3, 4, 1)), FineTuning(backbone_lr=0.1))


def test_fine_tuning_nothing_left_to_train_is_an_error() -> None:
    model = resnet8()
    model.get_submodule("fc").requires_grad_(False)
    with pytest.raises(UserError, match="all 23 tensors of CifarResNet are frozen"):
        apply_fine_tuning(model, FineTuning(backbone_lr=0))
