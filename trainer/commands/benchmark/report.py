"""The results of a benchmark: as a dictionary for JSON, with protocol, hardware and commit, and as text."""

import os
from pathlib import Path
from typing import Any

from trainer.commands.benchmark.bottleneck import Rates, find_bottleneck, smallest_useful_side
from trainer.commands.benchmark.measure import WARM_UP, Measured
from trainer.commands.benchmark.peak import Peak
from trainer.commands.benchmark.whole_epoch import epoch_line
from trainer.commands.out_file import require_replaceable
from trainer.data.loader import Source
from trainer.errors import UserError, counted
from trainer.recipe import Recipe
from trainer.recipe_file import overrides_of

FFCV = "FFCV's own Loader"
TORCHVISION = "torchvision's pipeline"
UNSTEADY = 1.3  # fastest round / slowest round
DOUBTFUL = 0.95  # of the device's peak: more is not plausible for a whole step
_DOUBT = {
    True: "The matrix product that it is taken from was slowed down, or is slower here than the network's convolutions",
    False: "Does the data sheet describe this device?",
}
_LABELS = {
    "loader": "loader alone",
    FFCV: f"  {FFCV}, same file",
    TORCHVISION: f"  {TORCHVISION}, original files",
    "copy": "copy to the device alone",
    "augmentation": "augmenting and normalising alone",
    "compute": "compute alone, with augmenting",
    "real": "real: all of it together",
    "evaluation": "evaluating validation images",
}


def require_writable(file: Path | None, *data: str | None) -> None:
    """Raises UserError if the figures could not be written to the file of --json; None: there is none.

    `data`: the data sets that are read.
    """
    if file and not os.access(file.absolute().parent, os.W_OK):
        raise UserError(f"--json {file} cannot be written: name a file in a folder that exists")
    if file:
        require_replaceable(file, data=data, option="--json")


def figures(
    recipe: Recipe,
    source: Source,
    measured: dict[str, Measured],
    hardware: dict[str, Any],
    *,
    seconds: float,
    workers: int,
    cpus: int,
    stored_side: int | None,
    flops: float,
    peak: Peak,
    notes: list[str],
) -> dict[str, Any]:
    """All results, for JSON. `flops`: of one image; `cpus`: that each process may use."""
    rates = {name: rate.total for name, rate in measured.items()}
    processes = int(hardware["processes"])
    bottleneck = find_bottleneck(
        Rates(
            loader=rates["loader"],
            compute=rates["compute"],
            real=rates["real"],
            copy=rates.get("copy"),
            workers=workers,
            cpus=cpus,
            processes=processes,
            stored_side=stored_side,
            smallest_side=smallest_useful_side(recipe.train_crop) or 0,
        )
    )
    ratios = {"real/compute": rates["real"] / rates["compute"], "real/loader": rates["real"] / rates["loader"]}
    ratios |= {f"loader/{peer}": rates["loader"] / rates[peer] for peer in (FFCV, TORCHVISION) if peer in rates}
    waits = measured["real"].waits
    rounds = len(measured["real"].rounds)
    if unsteady := [name for name, rate in measured.items() if max(rate.rounds) > UNSTEADY * min(rate.rounds)]:
        notes = [
            *notes,
            f"the rounds differ much in {', '.join(unsteady)}: measure again with more --rounds, or on an idle machine",
        ]
    of_peak = flops / processes / peak.flops_per_second
    if (highest := max(rates["real"], rates["compute"]) * of_peak) > DOUBTFUL:
        notes = [*notes, f"MFU {highest:.0%} is too much to be true: the peak is in doubt. {_DOUBT[peak.measured]}"]
    return {
        "recipe": recipe.name,
        "changed": overrides_of(recipe),
        "micro_batch_size": recipe.micro_batch_size,
        "resolution": recipe.train_crop.resolution,
        "decoding": "scaled" if recipe.train_crop.scaled_decoding else "full",
        "precision": recipe.precision,
        "data": {"name": source.name, "images": len(source.labels), "checksum": source.checksum},
        "workers": workers,
        "n": rounds,
        "seconds": seconds,
        "protocol": f"median of {rounds} rounds of about {seconds:g} s, all parts in turn in each; images/s of all "
        f"{processes} processes, as {processes} x the slowest; up to {WARM_UP} micro-batches before each do not count",
        "parts": {name: rate.as_json() for name, rate in measured.items()},
        "ratios": ratios,
        "data_wait": max(waits),
        "data_wait_ranks": waits,
        "mfu": {
            "real": rates["real"] * of_peak,
            "compute": rates["compute"] * of_peak,
            "flops_per_image": flops,
            "peak_flops_per_second": peak.flops_per_second,
            "peak": peak.source,
        },
        "verdict": {"kind": bottleneck.kind, "words": bottleneck.text},
        "notes": notes,
        "commit": hardware["commit"],
        "hardware": hardware,
    }


def report(results: dict[str, Any]) -> str:
    """The results as text: a table, ratios, and the bottleneck as the last line."""
    parts, mfu, hardware = results["parts"], results["mfu"], results["hardware"]
    processes = counted(hardware["processes"], "process")
    lines = [
        f"{results['recipe']}: micro-batches of {results['micro_batch_size']} at {results['resolution']} px, "
        f"{results['precision']}; {results['data']['name']}, {results['data']['images']:,} images",
        f"{processes} on {hardware['gpu'] or hardware['cpu']}, {results['workers']} loader threads each, "
        f"{hardware['torch_threads']} of torch; commit {hardware['commit'] or 'unknown'}",
        f"{'':<42} images/s, median of {results['n']} (range)",
        *(_row(name, parts, results["decoding"]) for name in _LABELS if name in parts),
    ]
    if "copy" not in parts:
        lines.append(f"  {_LABELS['copy']:<40} none: the CPU is the device")
    ratios = results["ratios"]
    lines += [
        f"real / compute {ratios['real/compute']:.2f}, real / loader {ratios['real/loader']:.2f}, "
        f"waiting for images {results['data_wait']:.0%} of the time{_with_augmenting(parts)}",
        f"MFU {mfu['real']:.1%}, of compute alone {mfu['compute']:.1%}: {mfu['flops_per_image'] / 1e9:.3g} GFLOP per "
        f"image, peak {mfu['peak_flops_per_second'] / 1e12:.3g} TFLOP/s ({mfu['peak']})",
        *([epoch_line(results["epoch"])] if "epoch" in results else []),
        *(f"note: {note}" for note in results["notes"]),
        results["verdict"]["words"],
    ]
    return "\n".join(lines)


def _row(name: str, parts: dict[str, Any], decoding: str) -> str:
    part = parts[name]
    low, high = min(part["rounds"]), max(part["rounds"])
    row = f"  {_LABELS[name]:<40} {part['images_per_second']:8,.0f} ({low:,.0f} to {high:,.0f})"
    if name in (FFCV, TORCHVISION):
        ratio = parts["loader"]["images_per_second"] / part["images_per_second"]
        row += f"  ours / this: {ratio:.2f}"
        row += ", but ours decodes scaled, this at full size" if decoding == "scaled" else ""
    if len(part["ranks"]) > 1:
        ranks = part["ranks"]
        row += f"  each {min(ranks):,.0f} to {max(ranks):,.0f}, slowest rank {part['slowest_rank']}"
    return row


def _with_augmenting(parts: dict[str, Any]) -> str:
    return "" if "copy" in parts else " (augmenting included, as the CPU does it)"
