"""The command export: writes a run's weights for other programs, and checks that the file computes the same."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from shlex import quote

import torch
from torch import Tensor, nn

from trainer.atomic import atomic_write
from trainer.commands.export.onnx import write_onnx
from trainer.commands.export.timm_folder import CONFIG, TENSORS, atomic_folder, load_folder, timm_network, write_config
from trainer.commands.export.torch_program import run_alone, saved, write_program
from trainer.commands.onnx_network import OnnxNetwork
from trainer.commands.out_file import require_folder, require_replaceable
from trainer.commands.weights import Weights, load_network, run_weights
from trainer.errors import UserError, first_line
from trainer.evaluation.protocol import describe_crop
from trainer.process.rows import rows_or_lines
from trainer.process.units import format_bytes
from trainer.recipe import LibraryModel, Recipe, ResNet
from trainer.run.checksum import file_sha256
from trainer.run.directory import Run
from trainer.weights_settings import ExportSettings

SUFFIXES = {
    "torchvision": (".pth", ".pt"),
    "timm": ("_timm",),
    "onnx": (".onnx",),
    "safetensors": (".safetensors",),
    "torch-export": (".pt2",),
}
TORCHVISION_NAMES = {  # by depth, groups and width_per_group
    **{(depth, 1, 64): f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    (50, 32, 4): "resnext50_32x4d",
    (101, 32, 8): "resnext101_32x8d",
    (101, 64, 4): "resnext101_64x4d",
    (50, 1, 128): "wide_resnet50_2",
    (101, 1, 128): "wide_resnet101_2",
}
SAME = 1e-6  # largest difference of logits with the same kernels
SIMILAR = 1e-3  # with other kernels, which sum in another order


def export(settings: ExportSettings) -> None:
    """Writes the weights of the run's result atomically, once the file is checked. Raises UserError on any failure."""
    run = Run(settings.run_dir)
    recipe = run.recipe
    out = _place(run, recipe, settings)
    weights = run_weights(run, settings.checkpoint)
    trained, network = weights.networks[0]
    description = trained.text()
    name = torchvision_name(recipe) if settings.to == "torchvision" else ""
    model = load_network(weights, network, recipe.num_classes, torch.device("cpu"))
    model = model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    about = _about(weights, description)
    try:
        with (atomic_folder if settings.to == "timm" else atomic_write)(out) as partial:
            match settings.to:
                case "torchvision":
                    partial.write_bytes(saved(model.state_dict()))
                    checked = _check_torchvision(model, recipe, partial, name)
                case "timm":
                    checked = _write_timm(model, weights, description, about, partial)
                case "safetensors":
                    _save_tensors(model.state_dict(), about, partial)
                    checked = _check_safetensors(model, about, partial)
                case "onnx":
                    write_onnx(model, recipe.eval_crop.resolution, about, partial)
                    checked = _check_onnx(model, recipe, partial)
                case "torch-export":
                    write_program(model, recipe.eval_crop.resolution, about, partial)
                    checked = _check_program(model, recipe, partial)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or first_line(error)}") from error
    _print_report(recipe, settings, description, checked, out)


def _print_report(recipe: Recipe, settings: ExportSettings, description: str, checked: str, out: Path) -> None:
    """Prints what was written, and what its user has to know."""
    where = "config.json has this" if settings.to == "timm" else "this is NOT in the file"
    tensors = out / TENSORS if settings.to == "timm" else out
    named = [
        ("recipe", recipe.name),
        ("weights", description.removeprefix("weights ")),
        ("checked", checked),
        ("input", f"RGB in [0, 1], minus mean {recipe.mean}, divided by std {recipe.std}: {where}"),
        ("protocol", describe_crop(recipe.eval_crop)),
        ("written", f"{tensors} ({format_bytes(tensors.stat().st_size)}, sha256:{file_sha256(tensors)})"),
    ]
    print(rows_or_lines(named), flush=True)
    if settings.to != "torch-export":  # evaluate reads weights, or a program of ONNX
        resolved = quote(str(settings.run_dir / "recipe.py"))
        again = f"python -m trainer evaluate {quote(str(tensors))} --recipe {resolved} --data DIR"
        print(f"  again     {again}", flush=True)  # in one line, to be copied


def torchvision_name(recipe: Recipe) -> str:
    """The torchvision model with these parameters. Raises UserError, with the reason, where there is none."""
    spec = recipe.model
    match spec:
        case LibraryModel() if spec.name.startswith("torchvision/"):
            return spec.name.removeprefix("torchvision/")
        case ResNet(stem="cifar"):
            reason = "its stem is for small images"
        case ResNet(residual=False):
            reason = "it has no shortcuts"
        case ResNet(blur_pool="convs" | "convs_and_pool"):
            reason = f"it has filters before its strided convolutions (blur_pool={spec.blur_pool})"
        case ResNet() if spec.variant != "b" or spec.se_ratio is not None:
            reason = f"it has variant={spec.variant} and se_ratio={spec.se_ratio}"
        case ResNet():
            name = TORCHVISION_NAMES.get((spec.depth, spec.groups, spec.width_per_group))
            if name is not None:
                return name
            reason = f"it has groups={spec.groups} and width_per_group={spec.width_per_group} in depth {spec.depth}"
        case LibraryModel():
            reason = f"{spec.name} is not one of its models"
        case _:
            reason = "it has no CIFAR family"
    raise UserError(
        f"torchvision has no network like that of {recipe.name}: {reason}; use --to safetensors, onnx or "
        f"torch-export, or timm if that has it"
    )


def _place(run: Run, recipe: Recipe, settings: ExportSettings) -> Path:
    suffixes = SUFFIXES[settings.to]
    default = run.folder / (re.sub(r"[^\w.-]+", "_", recipe.name) + suffixes[0])
    out = (settings.out or default).absolute()
    if settings.to == "timm" and Path.cwd().is_relative_to(out.resolve()):  # which is a folder
        what, remedy = (f"--out {settings.out}", "name a folder in it") if settings.out else (default, "give an --out")
        raise UserError(f"{what}: this command runs in it, and would replace it: {remedy}")
    if settings.out and out.suffix not in suffixes and settings.to != "timm":
        raise UserError(f"--out {settings.out}: a file for {settings.to} ends in {' or '.join(suffixes)}")
    require_folder(settings.out or default)
    require_replaceable(settings.out or default, is_folder=settings.to == "timm")
    return settings.out or default


def _about(weights: Weights, description: str) -> dict[str, str]:
    """Metadata for file formats that hold some; values other than text are JSON."""
    recipe = weights.recipe
    return {
        "format": "pt",  # what safetensors files of PyTorch's tensors say
        "recipe": recipe.name,
        "model": json.dumps({"kind": type(recipe.model).__name__, **asdict(recipe.model)}),
        "weights": description,
        "checkpoint": f"sha256:{weights.sha256}",
        "eval_crop": json.dumps(asdict(recipe.eval_crop)),
        "mean": json.dumps(recipe.mean),
        "std": json.dumps(recipe.std),
        "classes": json.dumps(weights.classes),
    }


def _save_tensors(state: dict[str, Tensor], about: dict[str, str], file: Path) -> None:
    from safetensors.torch import save

    try:
        content = save(state, about)
    except RuntimeError as error:  # tensors that share memory, as some library networks have
        raise UserError(f"safetensors cannot hold this network: {first_line(error)}") from error
    file.write_bytes(content)  # save_file has an error of its own for a full disk


def _check_torchvision(model: nn.Module, recipe: Recipe, file: Path, name: str) -> str:
    from torchvision import models

    theirs = models.get_model(name, num_classes=recipe.num_classes)
    theirs.load_state_dict(torch.load(file, weights_only=True), strict=True)
    difference = _difference(model, theirs.eval(), recipe)
    _require(difference, SAME, f"torchvision's {name}")
    return (
        f"torchvision's {name}(num_classes={recipe.num_classes}) loads it with strict=True; largest difference of its "
        f"logits on random images: {difference:.2g}"
    )


def _check_safetensors(model: nn.Module, about: dict[str, str], file: Path) -> str:
    from safetensors import safe_open

    state = model.state_dict()
    with safe_open(file, "pt") as read:
        same = {name: read.get_tensor(name) for name in read.keys()}  # noqa: SIM118  # no mapping
        if same.keys() != state.keys() or not all(torch.equal(same[name], state[name]) for name in state):
            raise UserError("the file does not hold what was written: is the disk damaged?")
        if read.metadata() != about:
            raise UserError("the file's metadata is not what was written: is the disk damaged?")
    return f"{len(state)} tensors read back, bit for bit, with their metadata ({', '.join(about)})"


def _check_onnx(model: nn.Module, recipe: Recipe, file: Path) -> str:
    theirs = OnnxNetwork(file, recipe.num_classes)
    difference = _difference(model, theirs, recipe)
    _require(difference, SIMILAR, theirs.runtime)
    resolution = recipe.eval_crop.resolution
    return (
        f"{theirs.runtime}, images float32 [batch, 3, {resolution}, {resolution}] -> logits [batch, "
        f"{recipe.num_classes}]: largest difference from PyTorch on random images {difference:.2g}"
    )


def _write_timm(model: nn.Module, weights: Weights, description: str, about: dict[str, str], folder: Path) -> str:
    recipe = weights.recipe
    name, theirs = timm_network(model, recipe, lambda ours, other: not _difference(ours, other, recipe) <= SAME)
    _save_tensors(model.state_dict(), about, folder / TENSORS)
    write_config(theirs, weights, description, folder / CONFIG)
    difference = _difference(model, load_folder(folder, weights), recipe)
    _require(difference, SAME, f"timm's {name}")
    return (
        f"timm.create_model('local-dir:FOLDER', pretrained=True) is {name} with these weights, classes, mean, std and "
        f"crop; largest difference of its logits on random images: {difference:.2g}"
    )


def _check_program(model: nn.Module, recipe: Recipe, file: Path) -> str:
    inputs = _noise(recipe)
    with torch.inference_mode():
        pairs = zip(map(model, inputs), run_alone(file, inputs), strict=True)
        difference = float(torch.stack([(ours - theirs).abs().max() for ours, theirs in pairs]).max())
    _require(difference, SIMILAR, "the exported program")
    resolution = recipe.eval_crop.resolution
    return (
        f"torch.export.load in a process without this package, images float32 [batch, 3, {resolution}, {resolution}] "
        f"-> logits [batch, {recipe.num_classes}]: largest difference on random images {difference:.2g}"
    )


def _noise(recipe: Recipe) -> list[Tensor]:
    """Batches of 1 and of 4 images of noise, as float32 [count, 3, side, side]."""
    random = torch.Generator().manual_seed(0)
    side = recipe.eval_crop.resolution
    return [torch.randn(count, 3, side, side, generator=random) for count in (1, 4)]


def _difference(ours: nn.Module, theirs: Callable[[Tensor], Tensor], recipe: Recipe) -> float:
    """The largest difference of any logit on noise, in fp32."""
    with torch.inference_mode():
        differences = [(ours(images) - theirs(images)).abs().max() for images in _noise(recipe)]
    return float(torch.stack(differences).max())  # nan where any is


def _require(difference: float, limit: float, who: str) -> None:
    if not difference <= limit:
        raise UserError(f"logits of {who} differ by {difference:.3g}, more than {limit:g}: nothing was written")
