"""Each kind of clipping beside torch's or timm's own."""

import copy
from dataclasses import replace

import pytest
import torch
from timm.utils.clip_grad import dispatch_clip_grad
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.small_recipe import recipe as small
from trainer.model import build_model
from trainer.optim.clipping import build_clipping
from trainer.recipe import CifarResNet, Recipe

PLAIN = replace(small, clip_grad_norm=None)
KINDS = [("norm", 0.5), ("value", 0.01), ("agc", 0.02)]


def network() -> nn.Module:
    """A network with gradients, some of them far above and some below every limit."""
    torch.manual_seed(0)
    model = build_model(CifarResNet(depth=8), 10)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.randn_like(parameter) * 10.0 ** -(number % 5)
    return model


def recipe_with(kind: str, limit: float) -> Recipe:
    return replace(PLAIN, **{f"clip_grad_{kind}": limit})  # type: ignore[arg-type]


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("kind", "limit"), KINDS)
def test_clipping_is_timms_own_and_returns_the_norm_before_it(kind: str, limit: float) -> None:
    """timm leaves out the last two tensors in adaptive clipping; here they are the classifier's."""
    model = network()
    before = gradients(model)
    theirs = copy.deepcopy(model)
    for parameter, gradient in zip(theirs.parameters(), before.values(), strict=True):
        parameter.grad = gradient.clone()
    norm = build_clipping(recipe_with(kind, limit), model)()
    dispatch_clip_grad(list(theirs.parameters())[: -2 if kind == "agc" else None], limit, mode=kind)
    torch.testing.assert_close(norm, torch.cat([gradient.flatten() for gradient in before.values()]).norm())
    ours, expected = gradients(model), gradients(theirs)
    assert all(torch.equal(ours[name], expected[name]) for name in before)
    assert any(not torch.equal(ours[name], before[name]) for name in before)


def test_adaptive_clipping_is_the_formula_for_each_unit() -> None:
    """Brock et al. 2021, equation 3: a unit's gradient is scaled down to limit * max(||w||, 1e-3)."""
    model, limit = network(), 0.02
    before = gradients(model)
    build_clipping(recipe_with("agc", limit), model)()
    clipped = 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        rows = [parameter.detach(), parameter.grad, before[name]]
        units = zip(*([row] if row.ndim == 1 else row.flatten(1) for row in rows), strict=True)
        for weight, gradient, old in units:
            largest = limit * max(float(weight.norm()), 1e-3)
            scale = min(1.0, largest / float(old.norm())) if not name.startswith("fc.") else 1.0
            clipped += scale < 1
            torch.testing.assert_close(gradient, scale * old, rtol=1e-5, atol=1e-9)
    assert clipped > 50


def test_recipe_without_clipping_leaves_gradients_as_they_are() -> None:
    model = network()
    before = gradients(model)
    build_clipping(PLAIN, model)()
    after = gradients(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("kind", "limit"), KINDS)
def test_clipping_reads_nothing_from_the_device(kind: str, limit: float) -> None:
    class Reads(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.found += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    model = network()
    clip = build_clipping(recipe_with(kind, limit), model)
    with Reads() as reads:
        clip()
    assert reads.found == 0
