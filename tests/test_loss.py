"""Losses against timm's, torch's and their formulas, for labels and for the targets that mixing makes."""

import math

import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy as TimmBinaryCrossEntropy

from trainer.loss import build_loss
from trainer.recipe import BinaryCrossEntropy, CrossEntropy

CLASSES = 5
LOGITS = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
KEPT = 0.7
SMOOTHING = pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])


def one_hot() -> torch.Tensor:
    return torch.eye(CLASSES)[LABELS]


def mixed() -> torch.Tensor:
    return KEPT * one_hot() + (1 - KEPT) * one_hot().flip(0)


@SMOOTHING
def test_cross_entropy_is_torchs_for_labels_and_for_mixed_targets(smoothing: float) -> None:
    loss = build_loss(CrossEntropy(label_smoothing=smoothing))
    for targets in (LABELS, mixed()):
        expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(LOGITS, targets)
        torch.testing.assert_close(loss(LOGITS, targets), expected)


@SMOOTHING
def test_cross_entropy_of_a_mixture_is_the_mixture_of_cross_entropies(smoothing: float) -> None:
    """mixup's own definition (Zhang et al. 2017, section 2), and smoothing's: probability spread over all classes."""
    log_p = LOGITS.double().log_softmax(dim=1)
    smoothed = mixed().double() * (1 - smoothing) + smoothing / CLASSES
    loss = build_loss(CrossEntropy(label_smoothing=smoothing))
    assert loss(LOGITS, mixed()).item() == pytest.approx(-(smoothed * log_p).sum(dim=1).mean().item(), rel=1e-6)
    parts = KEPT * loss(LOGITS, LABELS) + (1 - KEPT) * loss(LOGITS, LABELS.flip(0))
    torch.testing.assert_close(loss(LOGITS, mixed()), parts)
    torch.testing.assert_close(loss(LOGITS, one_hot()), loss(LOGITS, LABELS))


BCE = [
    BinaryCrossEntropy(),
    BinaryCrossEntropy(label_smoothing=0.1),
    BinaryCrossEntropy(label_smoothing=0.1, target_threshold=0.2),
    BinaryCrossEntropy(label_smoothing=0.1, target_threshold=0.6),
    BinaryCrossEntropy(target_threshold=0.0),
    BinaryCrossEntropy(over_classes="sum"),
    BinaryCrossEntropy(label_smoothing=0.2, target_threshold=0.2, over_classes="sum"),
]


def timms(spec: BinaryCrossEntropy) -> TimmBinaryCrossEntropy:
    return TimmBinaryCrossEntropy(
        smoothing=spec.label_smoothing,
        target_threshold=spec.target_threshold,
        sum_classes=spec.over_classes == "sum",
    )


@pytest.mark.parametrize("spec", BCE, ids=str)
def test_binary_cross_entropy_is_timms_for_labels(spec: BinaryCrossEntropy) -> None:
    torch.testing.assert_close(build_loss(spec)(LOGITS, LABELS), timms(spec)(LOGITS, LABELS))
    torch.testing.assert_close(build_loss(spec)(LOGITS, one_hot()), timms(spec)(LOGITS, LABELS))


@pytest.mark.parametrize("spec", BCE, ids=str)
def test_binary_cross_entropy_is_timms_for_mixed_targets_which_timm_smooths_where_it_mixes(
    spec: BinaryCrossEntropy,
) -> None:
    theirs = mixup_target(LABELS, CLASSES, KEPT, spec.label_smoothing)
    torch.testing.assert_close(build_loss(spec)(LOGITS, mixed()), timms(spec)(LOGITS, theirs))


@pytest.mark.parametrize("over_classes", ["mean", "sum"])
def test_binary_cross_entropy_is_the_formula(over_classes: str) -> None:
    spec = BinaryCrossEntropy(label_smoothing=0.1, over_classes=over_classes)  # type: ignore[arg-type]
    total = 0.0
    for logits, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        for number, logit in enumerate(logits):
            target = 0.1 / CLASSES + (0.9 if number == label else 0.0)
            p = 1 / (1 + math.exp(-logit))
            total -= target * math.log(p) + (1 - target) * math.log(1 - p)
    expected = total / len(LABELS) / (CLASSES if over_classes == "mean" else 1)
    assert build_loss(spec)(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_threshold_makes_both_classes_of_a_mixture_true_and_smoothing_none() -> None:
    """Wightman et al. 2021, section 3: mixed classes are both present."""
    spec = BinaryCrossEntropy(label_smoothing=0.1, target_threshold=0.2)
    both = ((one_hot() + one_hot().flip(0)) > 0).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(LOGITS, both)
    torch.testing.assert_close(build_loss(spec)(LOGITS, mixed()), expected)


@pytest.mark.parametrize("spec", [CrossEntropy(label_smoothing=0.1), *BCE[:3]], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loss_of_half_precision_logits_is_computed_in_fp32(
    spec: CrossEntropy | BinaryCrossEntropy, dtype: torch.dtype
) -> None:
    logits = LOGITS.to(dtype)
    for targets in (LABELS, mixed()):
        loss = build_loss(spec)(logits, targets)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, build_loss(spec)(logits.float(), targets))


@pytest.mark.parametrize("spec", [CrossEntropy(label_smoothing=0.1), *BCE], ids=str)
def test_loss_reads_nothing_from_the_device(spec: CrossEntropy | BinaryCrossEntropy) -> None:
    """A tensor on the meta device has no values to read: what tries raises."""
    labels = torch.zeros(6, dtype=torch.int64, device="meta")
    for targets in (labels, mixed().to("meta")):
        assert build_loss(spec)(LOGITS.to("meta"), targets).shape == ()
