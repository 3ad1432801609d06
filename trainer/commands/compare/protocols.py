"""What must agree before accuracies can be compared: the properties of protocol and data, and where runs differ."""

from collections.abc import Sequence

from trainer.commands.compare.run_record import FinishedRun
from trainer.errors import first_few
from trainer.evaluation.protocol import short


def properties(run: FinishedRun) -> dict[str, str]:
    """What must agree before accuracies can be compared: each property of protocol and data by name."""
    protocol, data = run.protocol, run.result["data"]
    norms = "running averages"
    if run.weights.norms == "measured":
        norms = f"measured over {run.weights.norm_images:,} images"
    return {
        "resolution": f"{protocol.resolution} px",
        "crop": f"{protocol.crop_ratio:.3f} x short side",
        "decoding": "scaled" if protocol.scaled_decoding else "full",
        "views": "two views" if protocol.views == 2 else "one view",
        "weights": "averaged" if run.weights.averaging else "last",
        "norms": norms,
        "images": f"{protocol.images_seen:,} of {protocol.images_total:,}, {protocol.duplicates} duplicates",
        "validation data": short(data["val"]),
        "training data": short(data["train"]),
    }


def differing(of_runs: Sequence[dict[str, str]]) -> list[str]:
    """The names whose values are not all the same."""
    return [name for name in of_runs[0] if len({one[name] for one in of_runs}) > 1]


def differing_properties(runs: Sequence[FinishedRun]) -> list[str]:
    """The properties that differ, a line for each kind of runs that shares them; nothing if all are alike."""
    of_runs = [properties(run) for run in runs]
    names = differing(of_runs)
    holders: dict[str, list[str]] = {}
    for run, one in zip(runs, of_runs, strict=True):
        holders.setdefault(", ".join(f"{name} {one[name]}" for name in names), []).append(str(run.folder))
    return [f"{values} ({first_few(who)})" for values, who in holders.items()] if names else []
