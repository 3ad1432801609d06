"""The door to torchvision's and timm's models: their networks, their published weights, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from trainer import recipe
from trainer.errors import UserError
from trainer.model import build_model
from trainer.model.weights import classifiers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions"),
    [("torchvision/resnext50_32x4d", 25.029), ("torchvision/squeezenet1_1", 1.235), ("timm/resnet50d", 25.576)],
)
def test_library_model_is_the_librarys(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build_model(recipe.LibraryModel(name=name), 1000)
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)
        assert build_model(recipe.LibraryModel(name=name), 7)(torch.empty(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.slow
def test_timms_resnet18_is_the_same_network_as_ours() -> None:
    theirs = build_model(recipe.LibraryModel(name="timm/resnet18"), 7).eval()
    ours = build_model(recipe.ResNet(depth=18), 7).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.inference_mode():
        images = torch.randn(2, 3, 64, 64)
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnet5O", r"torchvision has no model 'resnet5O'; did you mean .*\bresnet50\b"),
        ("timm/resnt50", r"timm has no model 'resnt50'; did you mean .*\bresnet50\b"),
        ("timm/resnet50.a9_in1k", r"no model 'resnet50.a9_in1k'; did you mean .*\bresnet50.a._in1k\b"),
        ("torchvision/zzzzzzzz", "and none with a similar name"),
        ("torchvision/fasterrcnn_resnet50_fpn", "torchvision has no model"),  # it has, but not of images to logits
    ],
)
def test_misspelt_name_is_answered_with_close_ones(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(recipe.LibraryModel(name=name), 10)


@pytest.mark.parametrize("name", ["torchvision/googlenet", "torchvision/inception_v3"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_network_with_auxiliary_classifiers_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="auxiliary classifiers"), torch.device("meta"):
        build_model(recipe.LibraryModel(name=name), 10)


def test_library_model_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # what makes `import timm` raise ImportError
    with pytest.raises(UserError, match="needs timm: pip install timm"):
        build_model(recipe.LibraryModel(name="timm/resnet18"), 10)


# ---------------------------------------------------------------------------------------------- published weights


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("torchvision/resnet18", "fc"),
        ("torchvision/convnext_tiny", "classifier.2"),
        ("torchvision/vit_b_16", "heads.head"),
        ("timm/resnet18", "fc"),
        ("timm/convnext_atto", "head.fc"),
        ("timm/efficientnet_b0", "classifier"),
    ],
)
def test_classifier_is_found_by_what_it_is(name: str, path: str) -> None:
    with torch.device("meta"):
        model = build_model(recipe.LibraryModel(name=name), 7)
    assert classifiers(model) == [path]
    head = model.get_submodule(path)
    assert isinstance(head, nn.Linear) and head.out_features == 7


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Tensor]]:
    """Both libraries' download caches, with small models' weights as if downloaded, and no network."""
    import timm
    from huggingface_hub import constants

    shuffle, small = models.shufflenet_v2_x0_5().state_dict(), timm.create_model("test_resnet").state_dict()
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    for weights, state in (
        (models.ShuffleNet_V2_X0_5_Weights.DEFAULT, shuffle),
        (models.SqueezeNet1_1_Weights.DEFAULT, models.squeezenet1_1().state_dict()),
    ):
        torch.save(state, tmp_path / "checkpoints" / weights.url.rpartition("/")[2])
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(small, repository / "snapshots" / ("0" * 40) / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("urllib.request.urlopen", _no_network)
    return {"torchvision/shufflenet_v2_x0_5": shuffle, "timm/test_resnet": small}


def _no_network(*_args: object, **_kwargs: object) -> None:
    raise OSError("Name or service not known")


@pytest.mark.parametrize("name", ["torchvision/shufflenet_v2_x0_5", "timm/test_resnet"])
@pytest.mark.parametrize("num_classes", [1000, 7])
def test_published_weights_come_whole_or_with_a_new_head(
    published: dict[str, dict[str, Tensor]], name: str, num_classes: int
) -> None:
    model = build_model(recipe.LibraryModel(name=name, pretrained=True), num_classes)
    state = model.state_dict()
    new = [key for key in state if not torch.equal(state[key], published[name][key])]
    assert state.keys() == published[name].keys()
    assert new == ([] if num_classes == 1000 else ["fc.weight", "fc.bias"])
    assert model.training and model(torch.zeros(2, 3, 64, 64)).shape == (2, num_classes)


@pytest.mark.parametrize(
    ("name", "reason", "place"),
    [
        ("torchvision/resnet18", "Name or service not known", models.ResNet18_Weights.DEFAULT.url),
        ("timm/resnet18", "cannot find", "the file model.safetensors of timm/resnet18.a1_in1k on the Hugging Face Hub"),
        ("timm/resnetblur18", "No pretrained weights exist for resnetblur18", "choose a file of this network"),
    ],
)
@pytest.mark.usefixtures("published")
def test_weights_that_cannot_be_had_are_one_line_with_the_way_out(name: str, reason: str, place: str) -> None:
    with pytest.raises(UserError, match=f"published weights of {name} could not be loaded: .*{reason}") as caught:
        build_model(recipe.LibraryModel(name=name, pretrained=True), 10)
    assert "\n" not in str(caught.value)
    assert place in str(caught.value)
    assert str(caught.value).endswith("add --model.no-pretrained --initial-weights FILE")


@pytest.mark.usefixtures("published")
def test_published_weights_whose_classifier_cannot_be_replaced_are_refused() -> None:
    with pytest.raises(UserError, match="torchvision/squeezenet1_1 has no linear classifier"):  # it is a convolution
        build_model(recipe.LibraryModel(name="torchvision/squeezenet1_1", pretrained=True), 7)
