"""The options of the commands that read trained weights: evaluate, average, predict, export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from trainer.settings import check_positive, check_workers, one_or_more


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Evaluate the weights of a run or a file. Each validation image is counted once."""

    weights: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE")]
    """folder of a run, or a file: a checkpoint of this trainer, any .pt, .pth or .safetensors, or .onnx"""
    recipe: str | None = None
    """recipe with the network and the evaluation crop, for a weights file; a run has its own"""
    weights_key: str | None = None
    """which weights to use if a file has several, e.g. state_dict_ema; None: the averaged ones, if there are any; both
    kinds of a checkpoint of this trainer"""
    data: str | None = None
    """folder as for train, a .beton file or a folder of class folders; None: the data of the run. Its classes may be a
    subset of the network's, as in ImageNet-A: the logits are then restricted to them"""
    class_order: Literal["text", "numeric"] | None = None
    """order of class folders; text: 0, 1, 10, 2, as torchvision; numeric: 0, 1, 2, 10; None: the run's, else text"""
    real: Path | None = None
    """JSON file with several correct labels per image (ReaL, Beyer et al. 2020), or timm for its table for ImageNet;
    None: the image's one label"""
    checkpoint: Literal["newest", "best", "average"] = "newest"
    """checkpoint of a run. best: highest top-1 of all epochs, chosen on the validation images, so optimistic; average:
    what the command average wrote"""
    resolution: int | None = None
    """resolution in pixels; None: that of the recipe's eval_crop"""
    crop_ratio: float | None = None
    """side of the centre crop as a fraction of the short side; None: that of the recipe's eval_crop"""
    flip_tta: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """average the logits of the crop and its mirror image, whatever the recipe says"""
    no_flip_tta: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """evaluate one view, whatever the recipe says"""
    scaled_decoding: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """decode large JPEGs at 1/2, 1/4 or 1/8 of their size, whatever the recipe says: see CenterCrop"""
    no_scaled_decoding: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """decode JPEGs at full size, whatever the recipe says"""
    out: Path | None = None
    """JSON file for the result and its protocol; None: in RUN/evaluations/ for a run, else beside the weights"""
    workers: int | None = None
    """loader threads per process; None: one per CPU of the process, or one fewer if there are four or more"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda if there is a GPU"""

    def __post_init__(self) -> None:
        check_positive(self, "resolution")
        check_workers(self.workers)
        if self.resolution and self.resolution > 2048:
            raise ValueError(f"resolution={self.resolution} is more than 2,048 pixels")
        if self.flip_tta and self.no_flip_tta:
            raise ValueError("--flip-tta and --no-flip-tta: use only one of them")
        if self.scaled_decoding and self.no_scaled_decoding:
            raise ValueError("--scaled-decoding and --no-scaled-decoding: use only one of them")


@dataclass(frozen=True, kw_only=True)
class AverageSettings:
    """Average the weights of several checkpoints, recompute batch norm's statistics, save the mean and evaluate it."""

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional, one_or_more("RUN|FILE")]
    """folder of a run, or two or more checkpoint files of one network"""
    last: int | None = None
    """number of checkpoints of a run, its newest ones; None: 3, as many as train keeps"""
    recipe: str | None = None
    """recipe with the network and the evaluation crop, for weights files; a run has its own"""
    data: str | None = None
    """folder as for train, with the training images of the run; None: the data of the run"""
    norm_images: int | None = None
    """training images for batch norm's statistics; None: the recipe's precise_norm_images, else 8,192"""
    out: Path | None = None
    """file for the mean, ends in .pt; None: RUN/checkpoints/average.pt, which --checkpoint average then means"""
    workers: int | None = None
    """loader threads per process; None: one per CPU of the process, or one fewer if there are four or more"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda if there is a GPU"""

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise ValueError("which checkpoints? give the folder of a run, or two or more checkpoint files")
        check_positive(self, "last", "norm_images")
        check_workers(self.workers)
        if self.last == 1:
            raise ValueError("last=1 is one checkpoint, which has no mean: use 2 or more")


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """Predict the most probable classes of images, with the weights and the evaluation crop of a run or a file."""

    weights: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE")]
    """folder of a run, or a file as for evaluate"""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, one_or_more("IMAGE")]
    """image files, folders of them at any depth, or - for file names on standard input, one per line"""
    recipe: str | None = None
    """recipe with the network and the evaluation crop, for a weights file; a run has its own"""
    weights_key: str | None = None
    """which weights to use if a file has several, e.g. state_dict_ema; None: the averaged ones, if there are any"""
    top: int = 5
    """number of classes to show, the most probable first"""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """print one JSON object per image: its path, and its predictions with index, class, name and probability"""
    checkpoint: Literal["newest", "best", "average"] = "newest"
    """best: highest top-1 of all epochs; average: what the command average wrote"""
    workers: int | None = None
    """loader threads; None: one per CPU of the process, or one fewer if there are four or more"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda if there is a GPU"""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("which images? give image files, folders of them, or - to read names from standard input")
        check_positive(self, "top")
        check_workers(self.workers)


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Export the weights of a run in a common format, and verify the file."""

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """folder of the run"""
    to: Literal["torchvision", "timm", "onnx", "safetensors", "torch-export"]
    """torchvision: a state_dict that torchvision loads; timm: a folder for timm.create_model("local-dir:FOLDER",
    pretrained=True); onnx: verified with onnxruntime; safetensors: no pickle; torch-export: a program, .pt2, that runs
    without this package"""
    out: Path | None = None
    """file to write, for timm a folder; None: in the folder of the run, named after the recipe"""
    checkpoint: Literal["newest", "best", "average"] = "newest"
    """best: highest top-1 of all epochs, chosen on the validation images and therefore optimistic; average: what the
    command average wrote"""
