"""Each precision trains; losses, clipping and accumulation are the formulas, seen from what a real run has saved."""

import math
import re
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainer.data.crop import eval_view
from trainer.data.device import DeviceBatch, device_batches
from trainer.data.formats import open_source
from trainer.data.loader import Loader
from trainer.loss import build_loss
from trainer.model import build_model
from trainer.optim.optimizer import build_optimizer
from trainer.precision import Precision, autocast, build_scaler, emulation_note, set_tf32
from trainer.recipe import SGD, CenterCrop, CifarResNet, Constant, CrossEntropy, LibraryModel, PaddedCrop, Recipe
from trainer.recipe_file import load_recipe
from trainer.run.checkpoint import Checkpoints, read, write
from trainer.settings import TrainSettings
from trainer.train import train

CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EVERY_PRECISION = pytest.mark.parametrize("precision", DTYPES)


@cache
def why_not(precision: Precision) -> str:
    """Why this machine's torch cannot train in `precision` on a CPU; empty where it can."""
    try:
        with autocast(precision, CPU):
            loss = nn.Conv2d(3, 4, 3)(torch.randn(2, 3, 8, 8)).float().sum()
        loss.backward()
    except RuntimeError as error:
        return f"torch {torch.__version__}: {error}"
    return ""


@pytest.fixture(autouse=True)
def skip_what_torch_cannot_do(request: pytest.FixtureRequest) -> None:
    if "precision" in request.fixturenames and (reason := why_not(request.getfixturevalue("precision"))):
        pytest.skip(reason)


@pytest.fixture(scope="module")
def images(digits: Path) -> DeviceBatch:
    """Handwritten digits as the model sees them: few, because fp16 is slow on a CPU that has no instructions for it."""
    with Loader(open_source(str(digits), "train", num_classes=10, resolution=16), workers=1) as loader:
        crops = loader.batches([np.arange(12)], eval_view(CenterCrop(resolution=32, crop_ratio=1.0)), 32)
        (batch,) = device_batches(crops, CPU, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert len(batch.labels.unique()) > 2
    return batch


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return build_model(CifarResNet(depth=8), 10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def loss_on(model: nn.Module, batch: DeviceBatch, precision: Precision) -> torch.Tensor:
    with autocast(precision, CPU):
        return build_loss(CrossEntropy())(model(batch.images), batch.labels)


# ------------------------------------------------------------------------------------------------------ precision


def test_precision_every_precision_of_a_recipe_is_tried() -> None:
    assert why_not("fp32") == ""
    annotation = Recipe.__annotations__["precision"]
    assert set(re.findall(r"\w+", annotation)) == {"Literal", *DTYPES}


@pytest.mark.parametrize(
    ("precision", "convolutions", "products"),
    [("fp32", False, False), ("tf32", True, True), ("bf16", True, False), ("fp16", True, False)],
)
def test_precision_fp32_is_exact_and_tf32_is_tf32_everywhere(
    precision: Precision, convolutions: bool, products: bool
) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        set_tf32(precision)
        assert torch.backends.cudnn.allow_tf32 == convolutions
        assert torch.backends.cuda.matmul.allow_tf32 == products
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.slow
@EVERY_PRECISION
def test_precision_one_step_lowers_the_loss_on_its_own_batch(precision: Precision, images: DeviceBatch) -> None:
    model = small_model()
    optimizer, scaler = build_optimizer(SGD(lr=0.05, nesterov=True), model), build_scaler(precision, CPU)
    before = loss_on(model, images, precision)
    scaler.scale(before).backward()
    scaler.step(optimizer)
    scaler.update()
    after = loss_on(model, images, precision)
    assert before.item() == pytest.approx(math.log(10), rel=0.3)  # it knows nothing yet
    assert after.item() < before.item() - 0.05


@EVERY_PRECISION
def test_products_are_in_the_precision_and_all_that_is_kept_is_fp32(precision: Precision, images: DeviceBatch) -> None:
    model = small_model()
    with autocast(precision, CPU):
        logits = model(images.images[:2])
        loss = build_loss(CrossEntropy())(logits, images.labels[:2])
    assert logits.dtype == DTYPES[precision]
    assert loss.dtype == torch.float32
    loss.backward()
    kept = chain(model.parameters(), model.buffers(), (parameter.grad for parameter in model.parameters()))
    assert {tensor.dtype for tensor in kept if tensor is not None and tensor.is_floating_point()} == {torch.float32}
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_rounds_and_no_more(precision: Precision, images: DeviceBatch) -> None:
    """It does something, and what it does is small: bf16 keeps 8 bits, fp16 11."""
    exact, rounded = (loss_on(small_model(), images, name).item() for name in ("fp32", precision))
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=2 ** -(7 if precision == "bf16" else 10))


# --------------------------------------------------------------------------------------------------------- scaler


@pytest.mark.parametrize(
    ("precision", "flags", "expected"),
    [
        ("fp32", set(), None),
        ("bf16", {"avx2", "amx_bf16"}, None),
        ("bf16", {"avx512_bf16"}, None),
        ("bf16", {"avx512f"}, "--precision fp32"),
        ("fp16", {"amx_bf16"}, "--precision fp32"),
    ],
)
def test_emulation_note_names_the_faster_precision(
    precision: Precision, flags: set[str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.precision._cpu_flags", lambda: flags)
    note = emulation_note(precision, torch.device("cpu"))
    assert note is None if expected is None else expected in str(note)


@pytest.mark.parametrize("native", [True, False])
def test_emulation_note_names_fp16_on_gpus_that_emulate_bf16(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Tesla T4")
    note = emulation_note("bf16", torch.device("cuda"))
    assert note is None if native else note and note.startswith("Tesla T4") and "--precision fp16" in note


def test_precision_only_fp16_is_scaled() -> None:
    assert [build_scaler(name, CPU).is_enabled() for name in ("fp32", "bf16", "fp16")] == [False, False, True]
    assert build_scaler("bf16", CPU).state_dict() == {}


def step_once(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


def test_gradient_that_overflows_is_left_out_and_the_scale_halved() -> None:
    model = nn.Linear(4, 1, bias=False)
    optimizer, scaler = build_optimizer(SGD(lr=0.1), model), build_scaler("fp16", CPU)
    step_once(scaler, optimizer, model(torch.ones(1, 4)).sum())
    weight, scale = model.weight.detach().clone(), scaler.get_scale()
    velocity = optimizer.state[model.weight]["momentum_buffer"].clone()
    step_once(scaler, optimizer, model(torch.full((1, 4), torch.inf)).sum())
    assert torch.equal(model.weight, weight)
    assert torch.equal(optimizer.state[model.weight]["momentum_buffer"], velocity)
    assert scaler.get_scale() == scale / 2
    step_once(scaler, optimizer, model(torch.ones(1, 4)).sum())
    assert not torch.equal(model.weight, weight)


def test_precision_first_step_that_is_left_out_leaves_no_velocity(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 often leaves its first steps out. Memory that nobody has written to holds NaN here."""
    monkeypatch.setattr(torch, "empty_like", lambda tensor: torch.full_like(tensor, torch.nan))
    model, other = nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False)
    other.load_state_dict(model.state_dict())
    optimizer, scaler = build_optimizer(SGD(lr=0.1), model), build_scaler("fp16", CPU)
    for value in (torch.inf, 1.0):
        step_once(scaler, optimizer, model(torch.full((1, 4), value)).sum())
    step_once(scaler, build_optimizer(SGD(lr=0.1), other), other(torch.ones(1, 4)).sum())
    assert torch.equal(model.weight, other.weight)
    assert not model.weight.isnan().any()


@pytest.mark.parametrize("unscaled_first", [False, True])
def test_scaling_changes_no_step(unscaled_first: bool) -> None:
    """The scale is a power of two: bit for bit, whether the fused optimizer takes it out or clipping did before."""
    plain, scaled = nn.Linear(4, 3), nn.Linear(4, 3)
    scaled.load_state_dict(plain.state_dict())
    optimizers = [build_optimizer(SGD(lr=0.1), model) for model in (plain, scaled)]
    scaler = build_scaler("fp16", CPU)
    for _ in range(3):
        plain(torch.ones(2, 4)).square().sum().backward()
        optimizers[0].step()
        optimizers[0].zero_grad()
        scaler.scale(scaled(torch.ones(2, 4)).square().sum()).backward()
        if unscaled_first:
            scaler.unscale_(optimizers[1])
        scaler.step(optimizers[1])
        scaler.update()
        optimizers[1].zero_grad()
    assert scaler.get_scale() > 1
    assert torch.equal(plain.weight, scaled.weight)
    assert torch.equal(plain.bias, scaled.bias)


def test_scalers_state_goes_through_a_checkpoint(tmp_path: Path) -> None:
    """Two trainers forget it: a resumed run then starts from a scale of 65,536 and skips its first steps."""
    model = nn.Linear(4, 1, bias=False)
    optimizer, scaler = build_optimizer(SGD(lr=0.1), model), build_scaler("fp16", CPU)
    for value in (torch.inf, torch.inf, 1.0, 1.0, 1.0):
        step_once(scaler, optimizer, model(torch.full((1, 4), value)).sum())
    write(tmp_path / "state.pt", {"scaler": scaler.state_dict()})
    again = build_scaler("fp16", CPU)
    assert again.get_scale() == 2.0**16
    again.load_state_dict(read(tmp_path / "state.pt")["scaler"])
    assert again.state_dict() == scaler.state_dict()
    assert again.get_scale() == 2.0**14
    assert again.state_dict()["_growth_tracker"] == 3
    again.set_growth_interval(3 + 2)  # the count goes on where it was: two more good steps, not five
    for scale in (2.0**14, 2.0**15):
        step_once(again, optimizer, model(torch.ones(1, 4)).sum())
        assert again.get_scale() == scale


# ----------------------------------------------------------------------------------------------------------- loss

LOGITS = [[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]]
LABELS = [0, 2]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_szegedys_formula(smoothing: float) -> None:
    """The target is 1 - e on the label, and e / K on each of the K classes (Szegedy et al. 2015, section 7)."""
    expected = 0.0
    for logits, label in zip(LOGITS, LABELS, strict=True):
        log_sum = math.log(sum(math.exp(value) for value in logits))
        for index, value in enumerate(logits):
            target = (1 - smoothing) * (index == label) + smoothing / len(logits)
            expected += target * (log_sum - value) / len(LABELS)
    loss = build_loss(CrossEntropy(label_smoothing=smoothing))(torch.tensor(LOGITS), torch.tensor(LABELS))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    if smoothing:
        assert loss.item() != pytest.approx(
            build_loss(CrossEntropy())(torch.tensor(LOGITS), torch.tensor(LABELS)).item()
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_is_computed_in_fp32(dtype: torch.dtype) -> None:
    """In 16 bits, the loss of a confident answer is rounded to nothing or to infinity."""
    logits = torch.tensor([[0.0, -12.0]], dtype=dtype)
    loss = build_loss(CrossEntropy())(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-12.0)), rel=1e-2)


# --------------------------------------------------------------------------------- the loop, by what it has saved


def trained(recipe: Recipe, images: int, run_dir: Path) -> dict[str, torch.Tensor]:
    """The weights after training on noise."""
    settings = TrainSettings(data=f"synthetic:{images}", run_dir=run_dir, device="cpu", workers=1, log_every=1)
    train(recipe, settings)
    found = Checkpoints(run_dir / "checkpoints", keep=1).newest()
    assert found is not None
    state: dict[str, Any] = found[1]
    return dict(state["model"])


def initial(recipe: Recipe) -> nn.Module:
    torch.manual_seed(recipe.seed)
    return build_model(recipe.model, recipe.num_classes)


def one_step(precision: Precision, clip_grad_norm: float | None) -> Recipe:
    """A single step that moves the weights by the rate times the gradient, which is the mean of two micro-batches."""
    return replace(
        load_recipe("resnet20_digits"),
        model=CifarResNet(depth=8),
        optimizer=SGD(lr=0.5, momentum=0.0, weight_decay=0.0),
        schedule=Constant(),
        clip_grad_norm=clip_grad_norm,
        epochs=1,
        global_batch_size=4,
        micro_batch_size=2,
        precision=precision,
    )


@pytest.mark.slow
@EVERY_PRECISION
def test_clipping_bounds_the_norm_of_a_steps_gradient(precision: Precision, tmp_path: Path) -> None:
    """In fp16 too: what is clipped is the gradient without its scale."""
    norms = []
    for limit in (None, 0.01, 1e6):
        recipe = one_step(precision, limit)
        weights = trained(recipe, images=4, run_dir=tmp_path / str(limit))
        moved = [weights[name] - parameter.detach() for name, parameter in initial(recipe).named_parameters()]
        norms.append(torch.cat([difference.flatten() for difference in moved]).double().norm().item() / 0.5)
    free, clipped, hardly = norms
    assert free > 0.1
    assert clipped == pytest.approx(0.01, rel=1e-3)
    assert hardly == pytest.approx(free, rel=1e-3)


@pytest.mark.slow
def test_precision_four_micro_batches_make_the_step_of_their_mean(tmp_path: Path) -> None:
    """Of a network without batch normalisation, whose statistics are meant to be the micro-batch's."""
    whole = replace(
        one_step("fp32", None),
        model=LibraryModel(name="timm/convnext_atto"),
        train_crop=PaddedCrop(resolution=32),
        eval_crop=CenterCrop(resolution=32, crop_ratio=1.0),
        loss=CrossEntropy(label_smoothing=0.1),
        optimizer=SGD(lr=0.05, nesterov=True),
        epochs=2,
        global_batch_size=32,
        micro_batch_size=32,
    )
    start = initial(whole)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in start.modules())
    expected = trained(whole, images=64, run_dir=tmp_path / "whole")
    found = trained(replace(whole, micro_batch_size=8), images=64, run_dir=tmp_path / "parts")
    assert found.keys() == expected.keys()
    difference = max((found[name] - expected[name]).abs().max().item() for name in found)
    moved = max((expected[name] - value).abs().max().item() for name, value in start.state_dict().items())
    assert moved > 0.01
    assert difference < 1e-3 * moved
