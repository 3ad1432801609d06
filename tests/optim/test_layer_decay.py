"""Rates of layers beside timm's param_groups_layer_decay."""

import pytest
import timm.optim
from torch import nn

from trainer.errors import UserError
from trainer.fine_tuning import apply_fine_tuning
from trainer.model import build_model
from trainer.optim.layer_decay import lr_factors
from trainer.optim.optimizer import build_optimizer
from trainer.recipe import SGD, CifarResNet, FineTuning, LibraryModel, ResNet, WideResNet


def timms(model: nn.Module, decay: float) -> dict[nn.Parameter, tuple[float, float]]:
    """Rate and weight decay of each parameter in timm's groups."""
    groups = timm.optim.param_groups_layer_decay(model, weight_decay=0.05, layer_decay=decay)
    return {parameter: (group["lr_scale"], group["weight_decay"]) for group in groups for parameter in group["params"]}


def ours(model: nn.Module, spec: FineTuning) -> dict[nn.Parameter, tuple[float, float]]:
    optimizer = build_optimizer(SGD(lr=0.1, weight_decay=0.05, decay_norm=False, decay_bias=False), model, spec)
    return {
        parameter: (group["lr_factor"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("name", ["timm/resnet18", "timm/resnet26d", "timm/mobilenetv3_small_050"])
def test_layer_decay_gives_the_rates_and_the_decay_of_timms_groups(name: str) -> None:
    model = build_model(LibraryModel(name=name), 10)
    expected = timms(model, 0.75)
    found = ours(model, FineTuning(layer_decay=0.75))
    assert len(found) == len(expected) > 30
    for parameter, (rate, decay) in expected.items():
        assert found[parameter] == (pytest.approx(rate), decay)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [ResNet(depth=18), LibraryModel(name="torchvision/resnet18")], ids=str)
def test_resnet_has_the_layers_of_timms_model_of_the_same_names(spec: ResNet | LibraryModel) -> None:
    theirs = build_model(LibraryModel(name="timm/resnet18"), 10)
    rates = timms(theirs, 0.8)
    expected = {name: rates[parameter][0] for name, parameter in theirs.named_parameters()}
    model = build_model(spec, 10)
    factors = lr_factors(model, FineTuning(layer_decay=0.8))
    assert {name: factors[parameter] for name, parameter in model.named_parameters()} == pytest.approx(expected)
    assert len(set(factors.values())) == 1 + 8 + 1  # stem, blocks, classifier


def test_cifar_resnets_blocks_are_its_layers_and_backbone_lr_is_a_further_factor() -> None:
    model = build_model(CifarResNet(depth=8), 10)
    factors = lr_factors(model, FineTuning(layer_decay=0.5, backbone_lr=0.1))
    by_name = {name: factors[parameter] for name, parameter in model.named_parameters()}
    assert by_name["fc.weight"] == by_name["fc.bias"] == 1
    assert by_name["layer3.0.bn2.weight"] == pytest.approx(0.1 * 0.5)
    assert by_name["layer1.0.conv1.weight"] == pytest.approx(0.1 * 0.5**3)
    assert by_name["conv1.weight"] == by_name["bn1.bias"] == pytest.approx(0.1 * 0.5**4)


@pytest.mark.parametrize("spec", [WideResNet(depth=10, width=1), CifarResNet(depth=8, preactivation=True)], ids=str)
def test_last_norm_of_a_pre_activation_network_has_the_rate_of_its_last_block(spec: WideResNet | CifarResNet) -> None:
    """As in timm's ResNetV2; its name is that of a stem's norm."""
    model = build_model(spec, 10)
    factors = lr_factors(model, FineTuning(layer_decay=0.5))
    by_name = {name: factors[parameter] for name, parameter in model.named_parameters()}
    assert by_name["bn1.weight"] == by_name["bn1.bias"] == by_name["layer3.0.bn1.weight"] == 0.5
    assert by_name["layer1.0.bn1.weight"] == 0.5**3
    assert by_name["conv1.weight"] == 0.5**4


def test_layer_decay_reaches_the_whole_stem_of_variant_rs() -> None:
    """The same layers as timm's, whose convolution in place of the max-pool is in its stem too."""
    theirs = build_model(LibraryModel(name="timm/resnetrs50"), 10)
    rates = timms(theirs, 0.8)
    expected = {name: rates[parameter][0] for name, parameter in theirs.named_parameters() if "se." not in name}
    model = build_model(ResNet(depth=50, variant="rs"), 10)
    factors = lr_factors(model, FineTuning(layer_decay=0.8))
    assert {name: factors[parameter] for name, parameter in model.named_parameters()} == pytest.approx(expected)


def test_layer_decay_is_named_in_the_log() -> None:
    sentence = apply_fine_tuning(build_model(CifarResNet(depth=8), 10), FineTuning(layer_decay=0.75))
    assert sentence.endswith("other layers at 1 of it, times 0.75 for each layer further down")


def test_layer_decay_is_refused_where_the_layers_are_unknown() -> None:
    model = build_model(LibraryModel(name="torchvision/squeezenet1_1"), 10)
    with pytest.raises(UserError, match=r"layer_decay needs a network whose layers timm knows, and SqueezeNet is none"):
        lr_factors(model, FineTuning(layer_decay=0.75))
    assert set(lr_factors(model, FineTuning(backbone_lr=0.5)).values()) <= {0.5, 1.0}
