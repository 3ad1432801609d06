"""Where a run's weights came from before its first step. Needs no torch: compare reads it from result.json."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from trainer.errors import UserError, one_line
from trainer.run.checksum import file_sha256


@dataclass(frozen=True, kw_only=True)
class InitWeights:
    """The initial weights of a run. Equal ones are the same weights, whatever the name of their file."""

    kind: Literal["recipe", "file", "pretrained"]
    """recipe: its own initialisation; file: --initial-weights; pretrained: the library's published weights"""
    file: str | None = field(default=None, compare=False)
    """the file's name, without its folder"""
    sha256: str | None = None
    """of the file, in hexadecimal"""
    key: str | None = None
    """where they are in the file, such as state_dict_ema; None: they are all of it"""

    def __post_init__(self) -> None:
        given = (self.file, self.sha256)
        fits = all(isinstance(value, str) for value in given) if self.kind == "file" else given == (None, None)
        has_key = isinstance(self.key, str) and self.kind == "file"
        if self.kind not in ("recipe", "file", "pretrained") or not fits or not (self.key is None or has_key):
            raise ValueError(f"kind={self.kind!r} with file={self.file!r}, sha256={self.sha256!r} and key={self.key!r}")

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Identifies the weights in a file by its SHA-256. Raises UserError if it cannot be read."""
        try:
            digest = file_sha256(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        return cls(kind="file", file=path.name, sha256=digest)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Reads what to_dict returned. Raises ValueError or TypeError for anything else."""
        if not isinstance(values, dict):
            raise TypeError(f"{values!r:.100} is not an object")
        return cls(**values)

    def to_dict(self) -> dict[str, str | None]:
        """Returns the fields for JSON and for a checkpoint."""
        return asdict(self)

    def __str__(self) -> str:
        match self.kind:
            case "recipe":
                return "the recipe's own initialisation"
            case "pretrained":
                return "the library's pretrained weights"
            case "file":
                key = f"{self.key} in " if self.key else ""
                where = one_line(f"{key}{self.file}")  # TensorBoard and file formats refuse names that are not UTF-8
                return f"{where} (sha256:{self.sha256[:12] if self.sha256 else None})"
