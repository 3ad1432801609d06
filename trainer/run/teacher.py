"""Which teacher a run was distilled from. Needs no torch: compare reads it from result.json."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from trainer.errors import one_line


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The network whose predictions were targets, and its weights; equal whatever the name of their file."""

    network: str
    """a library's name for it, or our class and depth"""
    file: str | None = field(compare=False)
    """the name of --teacher-weights, without its folder; None: the library's published weights"""
    sha256: str
    """of the file, or of the published weights' names and values, in hexadecimal"""

    @classmethod
    def from_dict(cls, values: Any) -> Self | None:
        """Reads what to_dict returned; None for None. Raises TypeError for anything else."""
        if values is None:
            return None
        if not isinstance(values, dict):
            raise TypeError(f"{values!r:.100} is not an object")
        return cls(**values)

    def to_dict(self) -> dict[str, str | None]:
        """Returns the fields for JSON and for a checkpoint."""
        return asdict(self)

    def __str__(self) -> str:
        where = "published weights" if self.file is None else one_line(self.file)  # as in init_weights.py
        return f"{self.network} ({where}, sha256:{self.sha256[:12]})"
