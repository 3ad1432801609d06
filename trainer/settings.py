"""The options of each command that depend on the machine: folders, threads, device, how often to log and save."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]


def one_or_more(metavar: str) -> Any:
    """How --help shows a positional argument of several words. tyro accepts none at all; the settings refuse that."""
    return tyro.conf.arg(metavar=f"{metavar} ...", help_behavior_hint="(required)")


NONE_BY_DEFAULT = tyro.conf.arg(help_behavior_hint="(default: none)")
"""For options of several words; tyro would show an empty default as nothing."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Train a recipe. To resume a stopped run, run the same command again; it ends with the same weights.

    Options set values. To use other parts (optimizer, schedule, augmentation), write a recipe file: docs/training.md.
    """

    data: str
    """folder with train.beton and val.beton, class folders or WebDataset shards; or synthetic:COUNT"""
    run_dir: Path
    """folder for recipe, checkpoints, metrics and TensorBoard events; a run with a checkpoint is resumed"""
    class_order: Literal["text", "numeric"] | None = None
    """order of class folders; text: 0, 1, 10, 2, as torchvision; numeric: 0, 1, 2, 10; None: text"""
    initial_weights: Path | None = None
    """weights file (torch.save or safetensors, e.g. torchvision's) to start from; None: the recipe's initialisation"""
    weights_key: str | None = None
    """which weights to use if a file has several, e.g. state_dict_ema; None: the averaged ones, if there are any"""
    teacher_weights: Path | None = None
    """weights file of the recipe's teacher; None: no teacher, or one with published weights"""
    workers: int | None = None
    """loader threads per process; None: one per CPU of the process, or one fewer if there are four or more"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda if there is a GPU"""
    compile: bool = False
    """torch.compile the model: slower start, faster steps"""
    compile_mode: CompileMode = "default"
    """mode of torch.compile; reduce-overhead records CUDA graphs, for small micro-batches; max-autotune also tries many
    kernels, which takes minutes. Neither has been tried on a GPU yet"""
    cuda_graph: bool = False
    """capture the whole step as a CUDA graph, check a replay against the plain step, then replay it. For small
    micro-batches; needs bf16, tf32 or fp32, SGD or AdamW, and no accumulation. Not tried on a GPU yet"""
    bucket_mb: float = 25.0
    """size of DDP's gradient buckets in MiB; 25 is PyTorch's default. Larger ones suit slow networks"""
    cpu_kernels: bool = True
    """on CPUs in bf16, train with our own kernels, which are faster than PyTorch's; --compile disables them"""
    deterministic: bool = False
    """use deterministic kernels only, and NCCL_ALGO=Ring unless it is set, for bit-identical runs on GPUs; a CPU is
    always deterministic"""
    log_every: int = 20
    """log metrics at least every N steps, and more often in the first steps and in short epochs. Below 20, each line is
    printed; otherwise one every ten seconds"""
    pictures: bool = True
    """show augmented images, mistakes and the confusion matrix in TensorBoard"""
    hparams: Annotated[tuple[str, ...], NONE_BY_DEFAULT] = ()
    """settings of the recipe, e.g. optimizer.lr, that TensorBoard's HParams table shows first"""
    profile_steps: int | None = None
    """number of steps to record with torch.profiler, into RUN/profile/; None: off"""
    profile_from: int = 20
    """step after which the profiler starts, counted from the beginning of the run"""
    checkpoint_steps: int | None = None
    """save a checkpoint every N steps, in addition to the end of each epoch; None: off"""
    checkpoint_minutes: float = 10.0
    """save a checkpoint when this many minutes have passed since the last one"""
    keep_last_checkpoints: int = 3
    """number of newest checkpoints to keep, in addition to the best"""
    timeout_minutes: float = 30.0
    """minutes that a process waits for others, or for images, before the run ends with an error"""
    heartbeat_timeout_minutes: float = 3.0
    """minutes without a heartbeat of a process, e.g. because its machine is lost, before the run ends with an error"""

    def __post_init__(self) -> None:
        check_positive(self, "log_every", "checkpoint_steps", "keep_last_checkpoints", "profile_steps", "bucket_mb")
        check_workers(self.workers)
        if self.weights_key and not self.initial_weights:
            raise ValueError(f"--weights-key {self.weights_key} chooses among weights of a file: add --initial-weights")
        _check_graphs(self)
        if self.profile_steps is not None and self.profile_steps > 100:
            raise ValueError(f"profile_steps={self.profile_steps} is more than 100: no viewer opens such a trace")
        if self.profile_from < 0:
            raise ValueError(f"profile_from={self.profile_from} is negative")
        if self.profile_from != TrainSettings.profile_from and self.profile_steps is None:
            raise ValueError(f"--profile-from {self.profile_from} records nothing by itself: add --profile-steps")
        if self.log_every > 10_000:
            raise ValueError(f"log_every={self.log_every} is more than 10,000 steps")
        for name in ("checkpoint_minutes", "timeout_minutes", "heartbeat_timeout_minutes"):
            if not 0 < getattr(self, name) <= 60 * 24 * 30:
                raise ValueError(f"{name}={getattr(self, name)} is not above 0 and within a month")

    @property
    def data_folder(self) -> str:
        """`data` as an absolute path; synthetic:COUNT as it is."""
        return self.data if self.data.startswith("synthetic:") else str(Path(self.data).absolute())


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """Show what a recipe would do: steps, learning rates, batches, memory, time. Nothing is trained."""

    data: str | None = None
    """folder of the data; None: the image count of the recipe's data set"""
    world_size: int = 1
    """number of processes, one per GPU"""
    out: Path | None = None
    """folder for the learning-rate curve, lr.png; None: draw it in the terminal only"""
    recipe: bool = False
    """also print the resolved recipe, as Python that runs again"""
    measure: bool = False
    """also run two real steps on this machine, on noise images, and measure their memory"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """device to measure. auto: cuda if there is a GPU"""
    images_per_second: float | None = None
    """measured speed of one GPU; predicts the speed of 1 to 1,024 GPUs; None: no prediction"""
    gpus_per_node: int = 8
    """GPUs per machine, for the prediction"""
    link_gbytes: float = 450.0
    """GB/s between the GPUs of a machine, in one direction, for the prediction; 450: NVLink of an H100"""
    network_gbytes: float = 50.0
    """GB/s of a machine's network, all adapters together, in one direction, for the prediction; 50: 400 Gbit/s"""

    def __post_init__(self) -> None:
        check_positive(self, "world_size", "images_per_second", "gpus_per_node", "link_gbytes", "network_gbytes")
        if self.world_size > 1_000_000:
            raise ValueError(f"world_size={self.world_size} is more than a million processes")
        links = ("gpus_per_node", "link_gbytes", "network_gbytes")
        given = [name for name in links if getattr(self, name) != getattr(PlanSettings, name)]
        if given and self.images_per_second is None:
            raise ValueError(f"--{given[0].replace('_', '-')} is for the prediction: add --images-per-second")
        if self.device != "auto" and not self.measure:
            raise ValueError(f"--device {self.device} is where --measure runs: add that, or leave --device out")


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Measure the loader, the copy, the computation and real training in turn; print the bottleneck."""

    data: str | None = None
    """folder with train.beton, class folders or WebDataset shards; needed, except with --fit"""
    class_order: Literal["text", "numeric"] | None = None
    """order of class folders; text: 0, 1, 10, 2, as torchvision; numeric: 0, 1, 2, 10; None: text"""
    fit: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """find the largest micro-batch that fits this device (real steps on noise), and the accumulation"""
    seconds: float = 5.0
    """length of one measurement, in seconds"""
    rounds: int = 3
    """number of measurements of each kind, taken in turn"""
    original: str | None = None
    """folder of the original images, with class folders below train/, to compare with torchvision; None: skip it"""
    workers: int | None = None
    """loader threads; None: one per CPU of the process, or one fewer if there are four or more"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda if there is a GPU"""
    compile: bool = False
    """torch.compile the model"""
    compile_mode: CompileMode = "default"
    """mode of torch.compile, as in train"""
    cuda_graph: bool = False
    """capture the whole step as a CUDA graph, as in train"""
    json: Path | None = None
    """JSON file for the figures"""

    def __post_init__(self) -> None:
        check_positive(self, "rounds", "seconds")
        check_workers(self.workers)
        compiled = self.compile or self.compile_mode != "default" or self.cuda_graph
        if self.fit and (self.data or self.original or compiled):
            raise ValueError(
                "--fit takes plain steps on noise: leave out --data, --original, --compile, --compile-mode and "
                "--cuda-graph"
            )
        _check_graphs(self)
        if not self.fit and self.data is None:
            raise ValueError("on which images? add --data DIR; or --fit, which needs none")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Compare finished runs by recipe: mean and deviation over seeds, published result, time and images needed."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, one_or_more("RUN")]
    """folders of runs, or folders that contain runs, directly or one folder further down"""
    html: Path | None = None
    """file for a self-contained HTML report with curves"""
    allow_different_protocols: bool = False
    """also compare runs of different protocols or data; the table then shows what differs"""
    time_to_accuracy: Annotated[tuple[float, ...], NONE_BY_DEFAULT] = ()
    """top-1 accuracies in %; shows the time and images needed to reach each"""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("which runs? give folders of runs, or folders that contain runs")
        for top1 in self.time_to_accuracy:
            if not 0 < top1 <= 100:
                raise ValueError(f"time_to_accuracy={top1} is not an accuracy above 0 and up to 100 %")


@dataclass(frozen=True, kw_only=True)
class LookSettings:
    """Show what is in a data set: a grid of images, their sizes, and the number of images per class."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """folder with train.beton and val.beton, class folders or WebDataset shards; or one .beton file"""
    recipe: str | None = None
    """show the images as this recipe trains on them, or with --split val as it evaluates them; None: uncropped"""
    split: Literal["train", "val"] = "train"
    """which images of a folder that has both"""
    check: bool = False
    """also decode every image of the split, and list those that cannot be decoded"""
    class_order: Literal["text", "numeric"] | None = None
    """order of class folders; text: 0, 1, 10, 2, as torchvision; numeric: 0, 1, 2, 10; None: text"""
    images: int = 48
    """number of images in the grid"""
    statistics: bool = False
    """also compute mean and standard deviation of the training images, for --mean and --std of a recipe"""
    out: Path = Path("look.png")
    """PNG file for the grid"""

    def __post_init__(self) -> None:
        check_positive(self, "images")
        if self.statistics and self.split == "val":
            raise ValueError("--statistics are of the training images: leave out --split val")
        if self.images > 2000:
            raise ValueError(f"images={self.images} is more than 2,000: such a grid is too large to view")


@dataclass(frozen=True, kw_only=True)
class AdoptSettings:
    """Check .beton files written by FFCV itself, and write their manifests beside them. The files are not changed."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, one_or_more("FILE")]
    """.beton or .ffcv files with a field of images and one of integers, under any names"""
    classes: Path
    """class names in the order of the labels: a text file with one per line, or a folder of class folders"""
    overwrite: bool = False
    """replace a manifest that is already there"""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("which files? give one or more .beton or .ffcv files")


@dataclass(frozen=True, kw_only=True)
class RecipesSettings:
    """List the recipes: paper, published result with its protocol, and the result measured with this code."""

    words: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """show only recipes with one of these words in their name, or else in their docstring or parts, e.g. resnet50,
    goyal, LAMB, mixup"""


def check_positive(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}={value} is not a positive number")


def check_workers(workers: int | None) -> None:
    if workers is not None and not 0 < workers <= 1024:
        raise ValueError(f"workers={workers} is not a number of threads from 1 to 1,024")


def _check_graphs(settings: TrainSettings | BenchmarkSettings) -> None:
    if settings.compile_mode != "default" and not settings.compile:
        raise ValueError(f"compile_mode={settings.compile_mode!r} needs --compile")
    if settings.compile_mode != "default" and settings.cuda_graph:
        raise ValueError(
            f"compile_mode={settings.compile_mode!r} has CUDA graphs of its own: choose it or --cuda-graph"
        )
