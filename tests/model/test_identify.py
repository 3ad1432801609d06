"""A file of another network is named by its shapes, with the option that builds that network."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from trainer import recipe
from trainer.errors import UserError
from trainer.model import build_model, load_initial_weights
from trainer.model.identify import advice, network_of

RESNET50 = recipe.LibraryModel(name="torchvision/resnet50")


def meta_state(spec: recipe.Model, classes: int = 7) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return build_model(spec, classes).state_dict()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "asked", "said"),
    [
        (recipe.ResNet(depth=18), RESNET50, ". The file is a ResNet-18: use --model.name torchvision/resnet18"),
        (recipe.ResNet(depth=101), recipe.ResNet(depth=50), ". The file is a ResNet-101: use --model.depth 101"),
        (
            recipe.LibraryModel(name="torchvision/resnext50_32x4d"),
            recipe.ResNet(depth=50),
            ". The file is a resnext50_32x4d: use a recipe of it, see python -m trainer recipes resnext50_32x4d",
        ),
        (
            recipe.CifarResNet(depth=14, width=2),
            recipe.CifarResNet(depth=20),
            ". The file is a ResNet-14 for CIFAR of width 2: use --model.depth 14 --model.width 2",
        ),
        (
            recipe.CifarResNet(depth=20),
            recipe.ResNet(depth=18),
            ". The file is a ResNet-20 for CIFAR: use a recipe of it, see python -m trainer recipes resnet20",
        ),
        (
            recipe.ResNet(depth=18),
            recipe.ResNet(depth=18, stem="cifar"),
            ". The file is a ResNet-18: use a recipe of it, see python -m trainer recipes resnet18",
        ),
        (recipe.ResNet(depth=18, stem="cifar"), RESNET50, ""),
        (recipe.LibraryModel(name="timm/convnext_atto"), RESNET50, ""),
        (
            recipe.LibraryModel(name="timm/resnet26d"),
            RESNET50,
            ". The file is a resnet26d of timm: use --model.name timm/resnet26d",
        ),
        (
            recipe.LibraryModel(name="timm/seresnet18"),
            recipe.ResNet(depth=18),
            ". The file is a seresnet18 of timm: use model=LibraryModel(name='timm/seresnet18') in a recipe file",
        ),
    ],
)
def test_advice_names_the_network_of_a_file_and_the_option_for_it(
    file: recipe.Model, asked: recipe.Model, said: str
) -> None:
    assert advice(meta_state(file), asked) == said


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet50d", "resnext50d_32x4d", "ecaresnet50d", "seresnext26d_32x4d", "resnest14d", "skresnet18"]
)
def test_network_of_timms_variants_is_found_by_shapes(name: str) -> None:
    spec = recipe.LibraryModel(name=f"timm/{name}")
    assert network_of(meta_state(spec)) == spec


@pytest.mark.parametrize("depth", [18, 152])
def test_network_of_our_resnet_is_torchvisions(depth: Literal[18, 152]) -> None:
    state = meta_state(recipe.ResNet(depth=depth))
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    for found in (network_of(state), network_of(old)):
        assert found == recipe.LibraryModel(name=f"torchvision/resnet{depth}")


@pytest.mark.slow
def test_initial_weights_of_another_network_name_the_option_that_fits(tmp_path: Path) -> None:
    torch.save(build_model(recipe.CifarResNet(depth=14), 10).state_dict(), tmp_path / "w.pt")
    spec = recipe.CifarResNet(depth=8)
    with pytest.raises(UserError, match=r"is of another model: .*\. The file is a ResNet-14 for CIFAR: use --model"):
        load_initial_weights(build_model(spec, 10), tmp_path / "w.pt", spec=spec)
    load_initial_weights(build_model(recipe.CifarResNet(depth=14), 10), tmp_path / "w.pt", spec=spec)
