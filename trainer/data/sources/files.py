"""Files given by patterns, and which of them hold validation images."""

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from trainer.data.formats import FOLDERS
from trainer.data.sources.options import FilesOptions
from trainer.errors import UserError, counted, one_line
from trainer.process.regular import require_regular


def split_files(
    patterns: Sequence[str], suffix: str, options: FilesOptions
) -> tuple[tuple[Path, ...], tuple[Path, ...] | None]:
    """Finds the files of the training images and of the validation images; None if there are none of these.

    Without --val, train, val or test in a file's name or in its folder's name says which split it belongs to. Files of
    test images are left out, and said to be. Raises UserError if a pattern finds nothing, or if the names of some
    files say what they are for and those of others do not.
    """
    files = expand(patterns, suffix)
    if options.val:
        validation = expand(options.val, suffix)
        if both := sorted(set(files) & set(validation)):
            raise UserError(f"{both[0]} is given for training and with --val: give it once")
        return files, validation
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file), []).append(file)
    unnamed = by_split.pop("", [])
    if unnamed and by_split:
        named = next(iter(by_split.values()))[0]
        raise UserError(f"{named} says its split by its name, but {unnamed[0]} does not: pass --val")
    if test := by_split.pop("test", []):
        print(
            f"left out {counted(len(test), 'file')} of test images, such as {one_line(str(test[0]))}: --val takes them "
            f"instead"
        )
    train, val = by_split.get("train", unnamed), by_split.get("val")
    if not train:
        raise UserError(f"{patterns[0]}: none of these files holds training images")
    return tuple(train), tuple(val) if val else None


def expand(patterns: Sequence[str], suffix: str) -> tuple[Path, ...]:
    """Lists the files that patterns stand for, in order: {000..123}, {a,b}, * and ?, or a folder of `suffix` files.

    Raises UserError if one does not exist, is no regular file, or is named twice.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        for name in _braces(pattern):
            files = [Path(name)]
            if files[0].is_dir():
                files = sorted(path for path in files[0].rglob(f"*{suffix}") if not path.name.startswith("."))
            elif any(mark in name for mark in "*?["):
                files = [Path(path) for path in sorted(glob.glob(name))]
            if not files:
                raise UserError(f"{name}: there is no such file" + f" {suffix}" * Path(name).is_dir())
            for file in files:
                require_regular(file)
                if not file.is_file():
                    raise UserError(f"{file}: there is no such file")
                if file in found:
                    raise UserError(f"{file} is given twice")
                found[file] = None
    return tuple(found)


def _braces(pattern: str) -> Iterator[str]:
    """shards-{08..10}.tar -> shards-08.tar, shards-09.tar, shards-10.tar; {3..1} -> 3, 2, 1; {a,b} -> a, b: as in bash.

    Braces within braces and steps ({1..9..2}) are not known.
    """
    for brace in re.finditer(r"\{([^{}]*)\}", pattern):
        inner: Iterable[str]
        if between := re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", brace[1]):
            padded = any(end.startswith("0") and len(end) > 1 for end in between.groups())
            width = max(map(len, between.groups())) if padded else 0
            first, last = map(int, between.groups())
            step = 1 if first <= last else -1
            inner = (f"{number:0{width}}" for number in range(first, last + step, step))
        elif "," in brace[1]:
            inner = brace[1].split(",")
        else:
            continue
        for text in inner:
            yield from _braces(pattern[: brace.start()] + text + pattern[brace.end() :])
        return
    yield pattern


def _split_of(file: Path) -> str:
    """train, val, test or nothing: a word of the file's name, else the whole name of its folder."""
    for words in (re.split("[^a-z]+", file.name.lower()), [file.absolute().parent.name.lower()]):
        for split, names in (("train", FOLDERS["train"]), ("val", FOLDERS["val"]), ("test", ("test",))):
            if any(word in names for word in words if split == "test" or word != "test"):
                return split
    return ""
