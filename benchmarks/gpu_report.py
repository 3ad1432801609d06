"""Prints what was measured on a GPU, or a part of it: a table, the targets, the distance to the roofline."""

from statistics import median
from typing import Any

IMAGES_PER_SECOND, OF_SYNTHETIC = 4500.0, 0.97  # wanted from real JPEGs on one H200 with 16 cores
_REAL, _SYNTHETIC = ", real", ", synthetic"


def report(results: dict[str, Any]) -> str:
    """`results`: what the file of --json holds, complete or not."""
    if "hardware" not in results:
        return "nothing was measured"
    hardware, rates = results["hardware"], results["images_per_second"]
    middle = {name: median(rounds) for name, rounds in rates.items()}
    at = f"{hardware['gpu'] or 'NOT A GPU: ' + hardware['cpu']}, {results['workers']} loader threads"
    lines = [
        f"{results['what']}; {at}; torch {hardware['packages']['torch']}, commit {hardware['commit'] or 'unknown'}; "
        f"median of n rounds of {results['seconds']:g} s in turn",
        "",
        "| what | images/s (range) | n |",
        "|---|---|---|",
        *(f"| {name} | {middle[name]:,.0f} ({min(rounds):,.0f} to {max(rounds):,.0f}) | {len(rounds)} |"
          for name, rounds in rates.items()),
        *(f"| {name} | failed: {why} | 0 |" for name, why in results["failed"].items()),
        "",
        *_targets(middle),
        *_variants(results.get("variants", {}), middle.get("ours" + _SYNTHETIC)),
        *_memory(results.get("reserved_gb", [])),
        *_limit(results.get("roofline"), middle),
        *_compiled(results["compiled"]),
        *_waits(results["waits"]),
        *_profile(results["profile"]),
    ]  # fmt: skip
    return "\n".join(lines)


def _targets(middle: dict[str, float]) -> list[str]:
    lines = []
    for name, real in middle.items():
        synthetic = middle.get(name.replace(_REAL, _SYNTHETIC))
        if name.endswith(_REAL) and synthetic:
            lines.append(f"{name} / synthetic: {real / synthetic:.3f} (wanted: {OF_SYNTHETIC})")
    for mine, peer in (
        ("ours", "timm's step"),
        ("ours, compiled", "timm's step, compiled"),
        ("ours", "torchvision's step"),
    ):
        rates = middle.get(mine + _SYNTHETIC), middle.get(peer + _SYNTHETIC)
        if rates[0] and rates[1]:
            lines.append(f"{mine} / {peer}, synthetic: {rates[0] / rates[1]:.2f}")
    if real_ones := [rate for name, rate in middle.items() if name.endswith(_REAL)]:
        lines.append(
            f"fastest on real images: {max(real_ones):,.0f} images/s (wanted on an H200: {IMAGES_PER_SECOND:,.0f})"
        )
    return lines


def _variants(variants: dict[str, dict[str, float]], ours: float | None) -> list[str]:
    """Beside our own step in eager mode, both on synthetic images."""
    if not variants:
        return []
    lines = ["", "| our step, with | images/s, n = 1 | of the plain one | GB |", "|---|---|---|---|"]
    for name, results in variants.items():
        rate = results["images_per_second"]
        share = f"{rate / ours:.2f}" if ours else ""
        lines.append(f"| {name} | {rate:,.0f} | {share} | {results['gb']:.1f} |")
    return [*lines, ""]


def _memory(reserved: list[float]) -> list[str]:
    return [f"GB reserved after each round: {', '.join(f'{each:.1f}' for each in reserved)}"] if reserved else []


def _limit(roofline: dict[str, Any] | None, middle: dict[str, float]) -> list[str]:
    """Our fastest step on synthetic images, as a share of each bound."""
    if roofline is None:
        return []
    lines = [roofline["words"]]
    if steps := {name: rate for name, rate in middle.items() if name.startswith("ours") and name.endswith(_SYNTHETIC)}:
        fastest = max(steps, key=lambda name: steps[name])
        shares = ", ".join(
            f"{steps[fastest] / roofline[bound]:.0%} of {words}"
            for bound, words in (("by_flops", "the operations' bound (MFU)"), ("by_bytes", "the bytes' bound unfused"),
                                 ("by_fused", "fused"))
        )  # fmt: skip
        lines.append(f"the fastest step, {fastest}, reaches {shares}")
    return lines


def _compiled(compiled: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {each['seconds']:.0f} s until warm, {each['graphs']} graphs, {each['graph_breaks']} graph breaks, "
        f"CUDA graphs {'recorded' if each['cuda_graphs_recorded'] else 'not recorded'}, "
        f"{each['cuda_graphs_skipped']} skipped"
        for name, each in compiled.items()
    ]


def _waits(waits: dict[str, list[str] | None]) -> list[str]:
    return [
        f"{name}: whether it waits for the device is asked on a GPU only"
        if places is None
        else f"{name}: {'WAITS for the device at ' + ', '.join(places) if places else 'waits for the device nowhere'}"
        for name, places in waits.items()
    ]


def _profile(profiles: dict[str, Any]) -> list[str]:
    lines = []
    for name, profile in profiles.items():
        calls = ", ".join(f"{call} {times} x" for call, times in profile["waiting_calls"].items())
        lines.append(f"{name}: kernels of a step {profile['ms_of_a_step']:.1f} ms; calls that wait: {calls or 'none'}")
        lines += [f"  {each['ms']:8.2f} ms {each['times']:7.1f} x  {each['name']}" for each in profile["kernels"]]
    return lines
