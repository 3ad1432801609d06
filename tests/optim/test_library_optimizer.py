"""timm's optimizers by name: all of them resume bit for bit, and what cannot is refused."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from timm.optim import get_optimizer_info, list_optimizers
from torch import nn

from tests.support.small_recipe import recipe as small
from trainer.cli.parse import parse_train
from trainer.errors import UserError
from trainer.optim.optimizer import batch_scaling, build_optimizer, state_tensors
from trainer.recipe import FineTuning, LibraryOptimizer
from trainer.recipe_file import load_recipe, recipe_diff, recipe_source

LION = LibraryOptimizer(lr=1e-3, name="timm/lion", options={"betas": (0.95, 0.98), "caution": True})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def step_all(optimizer: torch.optim.Optimizer, model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for group in optimizer.param_groups:
        group["lr"] = 0.01 / (step + 1) * group["lr_factor"]
    optimizer.step()


def resumes(name: str) -> bool:
    """Whether steps 3 to 6 after a checkpoint end with the same finite weights as without one."""
    spec, tuning = LibraryOptimizer(lr=0.01, name=f"timm/{name}", weight_decay=0.1), FineTuning(backbone_lr=0.5)
    model, other = network(), network()
    optimizer = build_optimizer(spec, model, tuning)
    for step in range(3):
        step_all(optimizer, model, step)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other.load_state_dict(saved["model"])
    resumed = build_optimizer(spec, other, tuning)
    resumed.load_state_dict(saved["optimizer"])
    for step in range(3, 7):
        step_all(optimizer, model, step)
        step_all(resumed, other, step)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.equal(one, two) and bool(one.isfinite().all()) for one, two in pairs)


@pytest.mark.slow
def test_library_optimizer_of_any_name_resumes_bit_for_bit() -> None:
    names = [name for name in list_optimizers() if not isinstance(get_optimizer_info(name).opt_class, str)]
    usable = [name for name in names if name not in ("adahessian", "kron", "kronc", "kronw")]
    assert len(usable) >= 70
    assert [name for name in usable if not resumes(name)] == []


@pytest.mark.parametrize(
    ("spec", "answer"),
    [
        (LibraryOptimizer(lr=0.1, name="timm/lyon"), r"timm has no optimizer 'lyon'; did you mean lion"),
        (LibraryOptimizer(lr=0.1, name="timm/lookahead_lion"), r"timm has no optimizer 'lookahead_lion'"),
        (LibraryOptimizer(lr=0.1, name="timm/adahessian"), r"'timm/adahessian' is of second order"),
        (LibraryOptimizer(lr=0.1, name="timm/kron"), r"'timm/kron' is not deterministic"),
        (
            LibraryOptimizer(lr=0.1, name="timm/lion", options={"beta": 0.9}),
            r"timm/lion has no option 'beta'; did you mean betas",
        ),
        (
            LibraryOptimizer(lr=0.1, name="timm/lion", options={"zzz": 1}),
            r"timm/lion has no option 'zzz'; it has betas, caution, ",
        ),
        (LibraryOptimizer(lr=0.1, name="timm/lion", options={"betas": (2.0, 0.9)}), r"timm/lion refuses them: "),
    ],
    ids=str,
)
def test_library_optimizer_that_cannot_be_used_is_one_line(spec: LibraryOptimizer, answer: str) -> None:
    with pytest.raises(UserError, match=answer) as caught:
        build_optimizer(spec, network())
    assert "\n" not in str(caught.value)


def test_library_optimizer_of_a_package_that_is_absent_is_one_line() -> None:
    with pytest.raises(UserError, match=r"'timm/fusedlamb' cannot be used here: (CUDA|APEX)"):
        build_optimizer(LibraryOptimizer(lr=0.1, name="timm/fusedlamb"), network())


def test_library_optimizers_state_is_counted_for_plan_and_its_batch_has_no_rule() -> None:
    counts = {"lion": 1, "nadamw": 2, "adan": 4, "adafactor": 1}
    found = {name: state_tensors(LibraryOptimizer(lr=0.1, name=f"timm/{name}")) for name in counts}
    assert found == counts
    assert batch_scaling(LION) is None


def test_options_are_stored_compared_and_set_on_the_command_line(tmp_path: Path) -> None:
    recipe = replace(small, optimizer=LION)
    (tmp_path / "lion.py").write_text(recipe_source(recipe))
    assert load_recipe(tmp_path / "lion.py") == recipe
    words = [str(tmp_path / "lion.py"), "--data", "D", "--run-dir", "R", "--optimizer.options.betas", "0.8", "0.9"]
    changed, _ = parse_train(words)
    assert [str(change) for change in recipe_diff(recipe, changed)] == [
        "optimizer.options.betas: (0.95, 0.98) -> (0.8, 0.9)"
    ]
