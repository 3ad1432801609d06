"""Accuracy of each class, and calibration: how well the network's confidence predicts its accuracy."""

import math
from dataclasses import dataclass

import numpy as np

from trainer.errors import UserError

BINS = 15
"""of confidence, equally wide; the number of Guo et al. 2017, section 5"""


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """The accuracy on the images of one class."""

    name: str
    images: int
    top1: float | None  # %; None if there are no images


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The images whose confidence lies in one fifteenth of (0, 1]: a point of the reliability diagram."""

    images: int
    confidence: float | None  # mean, in %; None if there are no images
    top1: float | None  # %


@dataclass(frozen=True, kw_only=True)
class Details:
    """One evaluation, split by class and by confidence."""

    ece: float  # expected calibration error, in %
    bins: list[Bin]
    classes: list[ClassAccuracy]


def details(labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, classes: list[str]) -> Details:
    """Computes accuracy by class, confusion and calibration.

    `labels`, `predicted`: int64; `confidence`: float64, the softmax of the prediction; all of shape (images,). Raises
    UserError if a confidence is not a number.
    """
    if wrong := int((~np.isfinite(confidence)).sum()):
        raise UserError(
            f"the logits of {wrong:,} of {len(labels):,} images are not finite: the weights are damaged, or too large "
            f"for the recipe's precision"
        )
    hits = predicted == labels
    bins = calibration_bins(confidence, hits)
    totals, found = np.bincount(labels, minlength=len(classes)), np.bincount(labels[hits], minlength=len(classes))
    return Details(
        ece=calibration_error(bins),
        bins=bins,
        classes=[
            ClassAccuracy(name=name, images=int(total), top1=100 * int(right) / int(total) if total else None)
            for name, total, right in zip(classes, totals, found, strict=True)
        ],
    )


def calibration_bins(confidence: np.ndarray, hits: np.ndarray) -> list[Bin]:
    """Sorts the images by confidence into M bins: bin m of 1 to M holds those within ((m - 1) / M, m / M].

    Guo et al. 2017 (arXiv:1706.04599), section 2. `confidence`: float64 within [0, 1], `hits`: bool, both of shape
    (images,).
    """
    which = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    bins = []
    for index in range(BINS):
        inside = which == index
        count = int(inside.sum())
        bins.append(
            Bin(  # exactly rounded sums: the order of the images cannot matter
                images=count,
                confidence=100 * math.fsum(confidence[inside].tolist()) / count if count else None,
                top1=100 * int(hits[inside].sum()) / count if count else None,
            )
        )
    return bins


def calibration_error(bins: list[Bin]) -> float:
    """Computes the mean distance of accuracy and confidence, bins weighted by their images (Guo et al. 2017, eq. 3)."""
    images = sum(bin.images for bin in bins)
    gaps = [
        bin.images * abs(bin.top1 - bin.confidence)
        for bin in bins
        if bin.top1 is not None and bin.confidence is not None
    ]
    return math.fsum(gaps) / images
