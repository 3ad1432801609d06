"""What this machine says, verb by verb: where data and runs are, how many threads, how often to log and save."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Train a recipe. The same command again continues where the run was stopped, to the same weights."""

    data: str
    """folder with train.beton and val.beton, or with class folders below train/ and val/; or synthetic:COUNT"""
    run_dir: Path
    """folder of this run: recipe, checkpoints, metrics, TensorBoard's events; one that has a checkpoint is continued"""
    initial_weights: Path | None = None
    """file to start from instead of the recipe's initialisation: .pt, .pth or .safetensors, e.g. torchvision's"""
    workers: int | None = None
    """threads that read images, for each process; None: the CPUs of this machine shared by its processes"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda where there is a GPU"""
    compile: bool = False
    """torch.compile the model: a slower start and faster steps"""
    deterministic: bool = False
    """allow deterministic kernels only, so that a GPU too gives the same bits every time; a CPU always does"""
    log_every: int = 20
    """steps from one line of metrics to the next"""
    pictures: bool = True
    """augmented images, mistakes and the confusion matrix in TensorBoard; at the end one more pass over validation"""
    profile_steps: int | None = None
    """record so many steps with torch.profiler, into RUN/profile/; None: off"""
    profile_from: int = 20
    """steps before the recorded ones, counted from the run's beginning"""
    checkpoint_steps: int | None = None
    """save after every so many steps, besides the end of each epoch"""
    checkpoint_minutes: float = 10.0
    """save when this long has passed since the last time"""
    keep_last_checkpoints: int = 3
    """number of newest checkpoints to keep, besides the best"""
    timeout_minutes: float = 30.0
    """how long processes wait for one another, or for images, before they give up"""
    heartbeat_timeout_minutes: float = 3.0
    """how long a process may give no sign of life, because it is stopped or its machine is gone, before the run ends"""

    def __post_init__(self) -> None:
        _check_positive(self, "workers", "log_every", "checkpoint_steps", "keep_last_checkpoints", "profile_steps")
        if self.profile_steps is not None and self.profile_steps > 100:
            raise ValueError(f"profile_steps={self.profile_steps} is more than 100: a trace of so many opens nowhere")
        if self.profile_from < 0:
            raise ValueError(f"profile_from={self.profile_from} is negative")
        if self.log_every > 10_000:
            raise ValueError(f"log_every={self.log_every} is more than 10,000 steps")
        for name in ("checkpoint_minutes", "timeout_minutes", "heartbeat_timeout_minutes"):
            if not 0 < getattr(self, name) <= 60 * 24 * 30:
                raise ValueError(f"{name}={getattr(self, name)} is not above 0 and within a month")

    @property
    def data_folder(self) -> str:
        """`data` as it is found from any working directory."""
        return self.data if self.data.startswith("synthetic:") else str(Path(self.data).absolute())


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Evaluate weights on every validation image once: a run's, or those of a file."""

    weights: Annotated[Path, tyro.conf.Positional]
    """folder of a run, or a file: a checkpoint of this trainer, anybody's .pt, .pth or .safetensors, .onnx"""
    recipe: str | None = None
    """for a file: the recipe that says which network it is and how it is evaluated; a run, and its files, have one"""
    data: str | None = None
    """folder as for train, a .beton file or a folder of class folders. For a run: other images than its own"""
    checkpoint: Literal["newest", "best"] = "newest"
    """of a run. best: the highest top-1 of all epochs, chosen on the validation images themselves and so optimistic"""
    resolution: int | None = None
    """another resolution than the recipe's eval_crop, in pixels"""
    crop_ratio: float | None = None
    """another crop than the recipe's: side of the centre square as a fraction of the short side"""
    flip_tta: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """average the logits of the crop and of its mirror image, whatever the recipe does"""
    no_flip_tta: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """one view, whatever the recipe does"""
    scaled_decoding: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """large JPEGs at 1/2, 1/4 or 1/8 of their size, whatever the recipe does: see CenterCrop"""
    no_scaled_decoding: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """JPEGs at their full size, whatever the recipe does"""
    out: Path | None = None
    """file for the result with its protocol, as JSON; None: RUN/evaluations/ for a run, beside the file for a file"""
    workers: int | None = None
    """threads that read images, for each process; None: the CPUs of this machine shared by its processes"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda where there is a GPU"""

    def __post_init__(self) -> None:
        _check_positive(self, "workers", "resolution")
        if self.resolution and self.resolution > 2048:
            raise ValueError(f"resolution={self.resolution} is more than 2,048 pixels")
        if self.flip_tta and self.no_flip_tta:
            raise ValueError("--flip-tta and --no-flip-tta: use one of both")
        if self.scaled_decoding and self.no_scaled_decoding:
            raise ValueError("--scaled-decoding and --no-scaled-decoding: use one of both")


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """Show what a recipe would do: steps, rates, batches, memory, time. Nothing is trained."""

    data: str | None = None
    """folder of the data; None: as many images as the recipe's data set has"""
    world_size: int = 1
    """number of processes, one for each GPU"""
    out: Path | None = None
    """folder for the learning-rate curve, lr.png; None: it is drawn in the terminal only"""
    measure: bool = False
    """also run two real steps on this machine, with noise for images, to measure the memory they take"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """what is measured. auto: cuda where there is a GPU"""
    images_per_second: float | None = None
    """what one GPU alone trains, from a benchmark: 1 to 1,024 GPUs are predicted from it; None: no prediction"""
    gpus_per_node: int = 8
    """GPUs of one machine, for the prediction"""
    link_gbytes: float = 450.0
    """GB/s, one direction, between the GPUs of a machine, for the prediction; 450: NVLink of an H100"""
    network_gbytes: float = 50.0
    """GB/s, one direction, of one machine's network, all adapters together, for the prediction; 50: 400 Gbit/s"""

    def __post_init__(self) -> None:
        _check_positive(self, "world_size", "images_per_second", "gpus_per_node", "link_gbytes", "network_gbytes")
        if self.world_size > 1_000_000:
            raise ValueError(f"world_size={self.world_size} is more than a million processes")


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Measure loader, compute, copy and the real thing in turn, and say what limits training."""

    data: str
    """folder with train.beton, or with class folders below train/"""
    seconds: float = 5.0
    """length of one measurement"""
    rounds: int = 3
    """how often each is measured, in turn"""
    original: str | None = None
    """folder of the original images, class folders below train/, for torchvision's pipeline; None: left out"""
    workers: int | None = None
    """threads that read images; None: all CPUs this process may use"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda where there is a GPU"""
    compile: bool = False
    """torch.compile the model"""
    json: Path | None = None
    """file for the figures, for machines"""

    def __post_init__(self) -> None:
        _check_positive(self, "workers", "rounds", "seconds")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Compare finished runs by recipe: seeds, mean and deviation, the published result, time and images needed."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders of runs, or folders that hold them, directly or one folder below"""
    html: Path | None = None
    """file for a report with curves that needs nothing else to be read"""
    allow_different_protocols: bool = False
    """also line up runs of different protocols or data; the table then says what differs"""
    time_to_accuracy: tuple[float, ...] = ()
    """top-1 accuracies, in %, whose time and number of images are shown"""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("which runs? give folders of runs, or folders that hold them")
        for top1 in self.time_to_accuracy:
            if not 0 < top1 <= 100:
                raise ValueError(f"time_to_accuracy={top1} is not an accuracy above 0 and up to 100 %")


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Write a run's weights for others to use, and check what was written."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """folder of the run"""
    to: Literal["torchvision", "onnx", "safetensors"]
    """torchvision: a state_dict that its own resnet50() loads; onnx: checked by onnxruntime; safetensors: no pickle"""
    out: Path | None = None
    """file to write; None: in the run's folder, named after the recipe"""
    checkpoint: Literal["newest", "best"] = "newest"
    """best: the highest top-1 of all epochs, chosen on the validation images themselves and so optimistic"""


@dataclass(frozen=True, kw_only=True)
class LookSettings:
    """Show what is in a data set: a sheet of images as a recipe sees them, sizes, how many of each class."""

    data: Annotated[str, tyro.conf.Positional]
    """folder with train.beton and val.beton, or with class folders below train/ and val/; or one .beton, or one folder
    of class folders"""
    recipe: str | None = None
    """show the images as this recipe trains on them, or evaluates them for --split val; None: whole"""
    split: Literal["train", "val"] = "train"
    """of a folder that has both"""
    images: int = 48
    """number of images on the sheet"""
    out: Path = Path("look.png")
    """file for the sheet"""

    def __post_init__(self) -> None:
        _check_positive(self, "images")
        if self.images > 2000:
            raise ValueError(f"images={self.images} is more than 2,000, which is much for a sheet")


@dataclass(frozen=True, kw_only=True)
class RecipesSettings:
    """List the recipes: paper, published result with its protocol, and what was measured with this code."""

    words: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """show those only whose name holds one of these, e.g. resnet50 goyal"""


def _check_positive(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}={value} is not a positive number")
