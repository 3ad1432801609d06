"""A saved optimizer goes to the tensors it is of, whatever their order and groups are now."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trainer.optim import optimizer as grouping
from trainer.optim.optimizer import build_optimizer, sort_parameters
from trainer.optim.saved_state import load_optimizer
from trainer.recipe import LAMB, LARS, SGD, AdamW, LibraryOptimizer, Optimizer

SPECS: list[Optimizer] = [
    SGD(lr=0.1, weight_decay=0.1),
    SGD(lr=0.1, weight_decay=0.1, decay_norm=False, decay_bias=False),
    AdamW(lr=0.1, weight_decay=0.1, decay_norm=False),
    LAMB(lr=0.1, weight_decay=0.1, decay_bias=False),
    LARS(lr=0.1, weight_decay=0.1),
    LibraryOptimizer(lr=0.1, weight_decay=0.1, name="timm/adafactor"),
]


class Scaled(nn.Module):
    """As a library's layer: a gain, and a bias of another name, of the shape of its norm's tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.q_bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))
        self.linear, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)


def step(optimizer: torch.optim.Optimizer, model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def trained(spec: Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Scaled()
    optimizer = build_optimizer(spec, model)
    for seed in range(2):
        step(optimizer, model, seed)
    return model, optimizer


def stored(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


def reversed_kinds(model: nn.Module) -> tuple[list[nn.Parameter], ...]:
    """Another version of the rule: other kinds, and the other order within each."""
    weights, biases, norms = sort_parameters(model)
    return weights[::-1], biases[:0], [*norms, *biases][::-1]


@pytest.mark.parametrize("sort", [sort_parameters, reversed_kinds], ids=["now", "another order"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_saved_optimizer_continues_bit_for_bit_in_any_order(
    spec: Optimizer, sort: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(grouping, "sort_parameters", sort)
        model, optimizer = trained(spec)
    saved, other = stored(optimizer), copy.deepcopy(model)
    resumed = build_optimizer(spec, other)
    load_optimizer(resumed, saved)
    for seed in range(2, 4):
        step(optimizer, model, seed)
        step(resumed, other, seed)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))
    names = [group["param_names"] for group in saved["param_groups"]]
    assert [group["param_names"] for group in stored(resumed)["param_groups"]] == names


def test_saved_optimizer_of_other_tensors_is_refused() -> None:
    _, optimizer = trained(SGD(lr=0.1))
    saved = stored(optimizer)
    saved["param_groups"][0]["param_names"][0] = "other.weight"
    with pytest.raises(ValueError, match=r"do not share linear\.weight"):
        load_optimizer(optimizer, saved)
