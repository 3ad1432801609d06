"""What WebDataset shards hold: the headers of their tar files, read once. Needs neither torch nor a decoder."""

import os
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from trainer.data.archive import require_end
from trainer.data.images import reason
from trainer.data.listing import composed
from trainer.errors import UserError, counted
from trainer.process.regular import require_regular

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm")  # extensions
LABEL = "cls"  # a number from 0, as text
MOST_CLASSES = 1_000_000  # a larger number is no class
CLASSES = "classes.txt"  # beside the shards, not required: one name per line


class Sample(NamedTuple):
    shard: int
    key: str
    encoding: str
    offset: int  # of the image's bytes
    size: int
    label: int


def read_samples(number: int, shard: Path) -> Iterator[Sample]:
    """Yields the samples of a shard.

    The files of a sample lie side by side; files that are neither image nor label are skipped.
    """
    require_regular(shard)
    seen: set[str] = set()
    try:
        with tarfile.open(shard, "r:") as tar, open(shard, "rb") as file:
            files = (member for member in tar if member.isfile() and _is_part(member.name))
            for key, members in groupby(files, key=lambda member: _key(member.name)):
                if key in seen:
                    raise UserError(f"{shard}: the files of sample {key} are not adjacent: sort the shard")
                seen.add(key)
                parts = list(members)
                images = [part for part in parts if _extension(part.name) != LABEL]
                labels = [part for part in parts if _extension(part.name) == LABEL]
                if (len(images), len(labels)) != (1, 1):
                    raise UserError(
                        f"{shard}: sample {key} has {counted(len(images), 'image')} and "
                        f"{counted(len(labels), f'.{LABEL} file')}: write one of each"
                    )
                text = os.pread(file.fileno(), min(labels[0].size, 32), labels[0].offset_data)
                label = _label(shard, labels[0].name, text)
                encoding = _extension(images[0].name)
                yield Sample(number, key, encoding, images[0].offset_data, images[0].size, label)
            require_end(tar, shard, "write it again")
    except tarfile.TarError as error:
        raise UserError(f"{shard} is not an uncompressed tar file, or is damaged: {error}") from error
    except OSError as error:
        raise UserError(f"{shard} cannot be read: {error.strerror or error}") from error


def _is_part(name: str) -> bool:
    """Whether a file is an image or a label, and not what macOS adds to its archives (._000.jpg)."""
    return _extension(name) in (*IMAGES, LABEL) and not name.rpartition("/")[2].startswith(".")


def _key(name: str) -> str:
    """What the files of a sample share: WebDataset's rule, all before the first dot of the base name."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _extension(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _label(shard: Path, name: str, text: bytes) -> int:
    if not text.strip().isdigit() or int(text) >= MOST_CLASSES:
        raise UserError(
            f"{shard}: {name} holds {text[:32]!r}: write the number of the class, from 0 to {MOST_CLASSES - 1:,}"
        )
    return int(text)


def read_classes(path: Path, count: int) -> list[str]:
    """Reads the names of at least `count` classes; their numbers where there is no such file."""
    if not path.exists():
        return [str(label) for label in range(count)]
    try:
        names = read_names(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): write one name per line, in UTF-8") from error
    if len(names) < count:
        raise UserError(
            f"{path} names {counted(len(names), 'class')}, but labels go up to {count - 1}: write one name per line"
        )
    return names


def read_names(path: Path) -> list[str]:
    """Reads the lines of a text file, without spaces around them and without empty ones at the end.

    Raises OSError, ValueError for what is not UTF-8, and UserError for what is no regular file, and for an empty line
    before a name: if it were left out, all later names would be those of other labels.
    """
    require_regular(path)
    text = path.read_text(encoding="utf-8-sig").rstrip()  # programs of Windows begin with a byte-order mark
    names = [composed(line.strip()) for line in text.splitlines()]
    if "" in names:
        raise UserError(f"{path} is empty in line {names.index('') + 1}: write one name per line, without gaps")
    return names
