"""How an accuracy was measured, as fields; the sentence in reports is made from them and is never read by a program.

Needs no torch and no NumPy: compare reads protocols from result.json.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from trainer.recipe import EMA, SWA, CenterCrop
from trainer.recipe_file import check_values
from trainer.run.init_weights import InitWeights
from trainer.run.teacher import Teacher

Selection = Literal["newest", "best", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """The average of the weights over time that was evaluated."""

    decay: float
    every: int
    start_epoch: float
    started: bool
    """False: evaluated before start_epoch, so a copy of the weights"""

    @classmethod
    def of(cls, ema: EMA, epochs: float) -> Self:
        """Describes the average after this many epochs."""
        return cls(decay=ema.decay, every=ema.every, start_epoch=ema.start_epoch, started=epochs > ema.start_epoch)

    def __str__(self) -> str:
        if not self.started:
            return f"a copy of the weights, whose average begins at epoch {self.start_epoch:g}"
        every = f"{self.every} steps" if self.every > 1 else "step"
        return f"exponential moving average (decay {self.decay:g} every {every})"


@dataclass(frozen=True, kw_only=True)
class WeightMean:
    """The mean of several sets of weights, each counted once, that was evaluated."""

    of: Literal["epochs", "checkpoints"]
    """epochs: SWA, in training; checkpoints: the command average, afterwards"""
    count: int
    """sets of weights in the mean; 0: evaluated before the first, so a copy of the weights"""
    first: float
    """epochs complete at the first of them"""
    last: float

    @classmethod
    def of_swa(cls, swa: SWA, epochs: float) -> Self:
        """Describes the mean after this many epochs."""
        count = int((epochs - swa.start_epoch) // swa.every) + 1 if epochs >= swa.start_epoch else 0
        last = swa.start_epoch + max(count - 1, 0) * swa.every
        return cls(of="epochs", count=count, first=float(swa.start_epoch), last=float(last))

    def __str__(self) -> str:
        if not self.count:
            return f"a copy of the weights, whose average begins at epoch {self.first:g}"
        sets = f"the weights after {self.count} epochs" if self.of == "epochs" else f"{self.count} checkpoints"
        return f"mean of {sets} ({self.first:g} to {self.last:g})"


@dataclass(frozen=True, kw_only=True)
class TrainedWeights:
    """Weights from a checkpoint of this trainer: how they were trained."""

    step: int
    steps: int | None
    """of the whole training; None: the recipe of the run is not known"""
    epoch: float
    init_weights: InitWeights
    norms: Literal["running averages", "measured", "not measured yet"]
    """where the norms' statistics come from: not measured yet in a checkpoint between two epochs of precise BN"""
    norm_images: int | None
    """training samples they were measured over; None: not measured, or the number is not known"""
    averaging: Averaging | WeightMean | None
    teacher: Teacher | None = None
    """that they were distilled from"""
    selection: Selection
    """best: the epoch with the highest top-1 on the run's validation images; unknown: the file may be either"""
    selected_on: str | None
    """checksum of the validation images; None: not selected, or not known"""

    def text(self, evaluated_on: str | None = None) -> str:
        """A phrase for the weights. `evaluated_on`: checksum of the images; None: those the epoch was selected on."""
        total = "" if self.steps is None else f" of {self.steps:,}"
        parts = [f"weights after {self.step:,}{total} steps"]
        if self.init_weights.kind != "recipe":
            parts.append(f"started from {self.init_weights}")
        if self.teacher:
            parts.append(f"distilled from {self.teacher}")
        if self.norms == "measured":
            over = "" if self.norm_images is None else f" over {self.norm_images:,} training samples"
            parts.append(f"norms measured{over}")
        elif self.norms == "not measured yet":
            parts.append("norms not measured yet: running averages")
        if self.selection == "unknown":
            parts.append("of an epoch that may have been selected")
        elif self.selection == "best" and evaluated_on is None:
            parts.append("the best epoch on the run's validation images and so optimistic")
        elif self.selection == "best":
            same = evaluated_on == self.selected_on
            parts.append(f"the best epoch on {'these images and so optimistic' if same else 'other images'}")
        parts.append(str(self.averaging) if self.averaging else "no averaging")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """Weights from a file that does not say how they were trained."""

    file: str
    sha256: str
    key: str = ""
    """of the weights within the file, such as state_dict_ema; empty: they are all of it"""

    def text(self, evaluated_on: str | None = None) -> str:
        """A phrase for the weights, whatever they are evaluated on."""
        key = f"{self.key} in " if self.key else ""
        return f"weights of {key}{self.file} (sha256:{self.sha256[:12]})"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What an accuracy was measured on, and how. Accuracies of different protocols cannot be compared."""

    dataset: str
    split: Literal["val"] = "val"
    checksum: str
    """of the images"""
    images_seen: int
    """different images that were evaluated"""
    images_total: int
    duplicates: int
    """images evaluated more than once"""
    resolution: int
    crop_ratio: float
    """side of the centre crop, as a fraction of the image's short side"""
    scaled_decoding: bool
    views: Literal[1, 2]
    """2: mean logits of the centre crop and its mirror image"""
    precision: str
    seed: int | None
    """of the run; None: the weights are not known to come from this recipe"""
    weights: TrainedWeights | WeightsFile
    restricted_to: int | None = None
    """classes of the images, to which the network's logits were restricted; None: it was not"""
    real_labels: str | None = None
    """checksum of a table with several correct labels per image, whose images without any do not count; None: an image
    has its label"""

    @property
    def coverage(self) -> str:
        """How many of the images were evaluated, and how many of them more than once."""
        return coverage_text(seen=self.images_seen, total=self.images_total, duplicates=self.duplicates)

    @property
    def crop(self) -> str:
        """The part of an image that the network sees."""
        return crop_text(self.resolution, self.crop_ratio, scaled_decoding=self.scaled_decoding)

    def text(self, *, seed: bool = True) -> str:
        """The protocol as a sentence. Without `seed`: as several runs share it."""
        views = "mean logits of two views, the crop and its mirror image" if self.views == 2 else "one view"
        run = f"1 run, seed {self.seed}; " if seed and self.seed is not None else ""
        return (
            f"{self.dataset}: {self.coverage}; {self.crop}, {views}; {self._labels}{self.weights.text(self.checksum)}; "
            f"{self.precision}; {run}data {short(self.checksum)}"
        )

    @property
    def _labels(self) -> str:
        restricted = f"logits restricted to these {self.restricted_to} classes; " if self.restricted_to else ""
        several = "several correct labels per image, images without one left out"
        real = f"ReaL labels {short(self.real_labels)}: {several}; " if self.real_labels else ""
        return restricted + real

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Reads what to_dict returned. Raises ValueError or TypeError, naming the field, for anything else."""
        found = dict(_fields_of(cls, values))
        weights = found["weights"]
        if isinstance(weights, dict) and "step" in weights:
            inner = dict(_fields_of(TrainedWeights, weights))
            inner["teacher"] = Teacher.from_dict(inner["teacher"])
            inner["init_weights"] = InitWeights.from_dict(inner["init_weights"])
            if inner["averaging"] is not None:
                kind = WeightMean if "of" in inner["averaging"] else Averaging
                inner["averaging"] = kind(**_fields_of(kind, inner["averaging"]))
            found["weights"] = TrainedWeights(**inner)
        else:
            found["weights"] = WeightsFile(**_fields_of(WeightsFile, weights))
        made = cls(**found)
        check_values(made, cls, "")
        return made


def coverage_text(*, seen: int, total: int, duplicates: int) -> str:
    """Says how many of the images were evaluated, and how many of them more than once."""
    return f"{seen:,} of {total:,} images, {duplicates} duplicates"


def crop_text(resolution: int, crop_ratio: float, *, scaled_decoding: bool) -> str:
    """Describes the part of an image that the network sees."""
    scaled = ", scaled decoding" if scaled_decoding else ""
    return f"{resolution} px, centre crop of {crop_ratio:.3f} x short side{scaled}"


def describe_crop(crop: CenterCrop) -> str:
    """Describes the part of an image that the network sees."""
    return crop_text(crop.resolution, crop.crop_ratio, scaled_decoding=crop.scaled_decoding)


def short(checksum: str) -> str:
    """Returns the kind of a checksum and its first 12 digits, which tell it from others."""
    kind, _, digits = checksum.partition(":")
    return f"{kind}:{digits[:12]}"


def _fields_of(kind: type[Any], values: Any) -> dict[str, Any]:
    """The values, once their names are known to be exactly this dataclass's fields."""
    names = [field.name for field in fields(kind)]
    if not isinstance(values, dict) or sorted(values) != sorted(names):
        raise TypeError(f"{kind.__name__} needs exactly {', '.join(names)}, and has {values!r:.100}")
    return values
