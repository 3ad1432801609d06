"""The learning rate of each layer in fine-tuning, as a multiple of the classifier's."""

from torch import nn

from trainer.errors import UserError
from trainer.model.preactivation import PreActivationResNet
from trainer.model.weights import classifiers
from trainer.recipe import FineTuning

_BLOCK = r"^layer(\d+)\.(\d+)"
_RESNET = {"stem": r"^conv1|bn1|maxpool", "blocks": _BLOCK}
"""timm's division of a ResNet into layers: the stem, each residual block, the classifier; torchvision's names too"""
_PRE_ACTIVATION = {"stem": r"^conv1", "blocks": [(_BLOCK, None), (r"^bn1", (99999,))]}
"""The same where the last norm follows the blocks: timm's ResNetV2 counts it to the last block, by this number"""


def lr_factors(model: nn.Module, spec: FineTuning) -> dict[nn.Parameter, float]:
    """Returns for each parameter of `model` the multiple of the classifier's rate at which it learns.

    The classifier's is 1. Outside it the factor is spec.backbone_lr * spec.layer_decay ** depth, where depth counts
    layers from the classifier, which is 0, down to the stem. Layers are those of timm's group_matcher: residual blocks
    in a ResNet. Raises UserError if layer_decay is not 1 and timm knows no layers of this model.
    """
    heads = {parameter for name in classifiers(model) for parameter in model.get_submodule(name).parameters()}
    layers = _layers(model) if spec.layer_decay != 1 else {}
    last = max(layers.values(), default=0)
    return {
        parameter: 1.0
        if parameter in heads
        else spec.backbone_lr * spec.layer_decay ** (last - layers.get(name, last))  # timm: unknown ones are the head's
        for name, parameter in model.named_parameters()
    }


def _layers(model: nn.Module) -> dict[str, int]:
    """The number of each parameter's layer by the parameter's name, 0 for the stem."""
    from timm.models import group_parameters

    if find := getattr(model, "group_matcher", None):
        matcher = find(coarse=False)
    elif isinstance(getattr(model, "layer1", None), nn.Sequential):
        matcher = _PRE_ACTIVATION if isinstance(model, PreActivationResNet) else _RESNET
    else:
        raise UserError(
            f"fine_tuning.layer_decay needs a network whose layers timm knows, and {type(model).__name__} is none: "
            f"use a ResNet or model=LibraryModel(name='timm/NAME'), or set layer_decay=1"
        )
    found: dict[str, int] = group_parameters(model, matcher, reverse=True)
    return found
