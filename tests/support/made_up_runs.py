"""Run directories with made-up numbers, as a run leaves them, for tests in which the numbers matter."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trainer.evaluation.result import EvalResult, Evaluation, trained_weights
from trainer.evaluation.result import protocol as protocol_of
from trainer.recipe import Recipe
from trainer.recipe_file import recipe_source
from trainer.run.init_weights import InitWeights
from trainer.run.state import Position
from trainer.run.teacher import Teacher

START = {"step": 0, "commit": "0123456789ab", "packages": {"torch": "2.10.0"}, "cpu": "A CPU", "cpus": 2, "gpu": None}
IMAGES = {"ImageNet": (1_281_167, 50_000), "CIFAR-10": (50_000, 10_000), "digits": (1_437, 360)}


def write_run(
    folder: Path,
    recipe: Recipe,
    top1: Sequence[float],
    *,
    seed: int = 0,
    rate: float = 1000.0,
    val: str = "sha256:" + "1" * 64,
    init_weights: InitWeights | None = None,
    teacher: Teacher | None = None,
    protocol: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    """A finished run: `top1` of its last epochs, 0 % in those before; `rate`: images per second.

    `more` replaces parts of result.json, `protocol` those of its protocol.
    """
    recipe = replace(recipe, seed=seed)
    training, validation = next(sizes for name, sizes in IMAGES.items() if recipe.dataset.startswith(name))
    per_epoch = training // recipe.global_batch_size
    records: list[dict[str, Any]] = []
    for epoch, percent in enumerate([0.0] * (recipe.epochs - len(top1)) + list(top1), 1):
        place = {"step": epoch * per_epoch, "epoch": float(epoch)}
        loss = 2.0 / epoch + seed / 100
        records.append({"kind": "train", **place, "lr": 0.1, "loss": loss, "images_per_second": rate, "data_wait": 0.0})
        records.append({"kind": "eval", **place, "top1": percent, "top5": 99.0, "loss": loss})
    evaluation = Evaluation(top1=top1[-1], top5=99.0, loss=1.0, seen=validation, duplicates=0, total=validation)
    at = Position(steps_per_epoch=per_epoch, epoch=recipe.epochs)
    start = init_weights or InitWeights(kind="recipe")
    measured = recipe.precise_norm_images is not None
    averaged = recipe.ema is not None
    weights = trained_weights(recipe, at, start, norms_measured=measured, averaged=averaged, teacher=teacher)
    source = SimpleNamespace(name="val.beton", checksum=val)
    measured_by = protocol_of(recipe, source, EvalResult(evaluation, recipe.eval_crop, weights))  # type: ignore[arg-type]
    result = {
        "recipe": recipe.name,
        "seed": seed,
        "top1": top1[-1],
        "protocol": {**measured_by.to_dict(), **(protocol or {})},
        "protocol_text": measured_by.text(),
        "data": {"train": "sha256:" + "0" * 64, "val": val},
        **more,
    }
    folder.mkdir(parents=True)
    (folder / "recipe.py").write_text(recipe_source(recipe))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "starts.json").write_text(json.dumps([{**START, "processes": 1}]))
    return folder


def stop_early(folder: Path, lines: int) -> None:
    """Leaves what a run has that was killed after so many lines of metrics."""
    (folder / "result.json").unlink()
    kept = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)[:lines]
    (folder / "metrics.jsonl").write_text("".join(kept) + '{"kind": "tr')
