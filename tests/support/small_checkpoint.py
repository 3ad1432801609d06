"""A checkpoint with every key of the schema and next to nothing in it, for tests of how checkpoints are kept."""

from typing import Any

import torch

from trainer.run.checkpoint import CheckpointContent
from trainer.run.init_weights import InitWeights


def checkpoint_content(**parts: Any) -> CheckpointContent:
    """A content of the right types; `parts` replace those of the same name."""
    content: CheckpointContent = {
        "step": 0,
        "position": {},
        "model": {},
        "average": None,
        "optimizer": {},
        "scaler": {},
        "metric_means": torch.zeros(0),
        "metrics_from": 0,
        "data": {},
        "data_folder": "",
        "classes": [],
        "init_weights": InitWeights(kind="recipe").to_dict(),
        "teacher": None,
        "recipe": {},
        "norms_measured": False,
    }
    return {**content, **parts}  # type: ignore[typeddict-item]
