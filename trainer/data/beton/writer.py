"""Writes one .beton file: FFCV's layout and encoding, our own processes around them.

FFCV's writer hangs for ever on any exception in a worker. Here the first error stops everything and names the image.
The file gets its name when it is complete, on disk, and was read back and found to hold what was encoded. What was
written before an error or an interruption is kept beside it, and the same command continues there (journal.py).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainer.atomic import atomic_write
from trainer.data.beton import index as beton_index
from trainer.data.beton import manifest as beside
from trainer.data.beton.images import Images
from trainer.data.beton.job import Job
from trainer.data.beton.journal import SKIPPED, Journal, count_damaged, key_of
from trainer.data.beton.manifest import Encoding, Manifest
from trainer.distributed.cpus import usable_cpus
from trainer.errors import UserError


def journal_of(path: Path, images: Images, encoding: Encoding) -> Journal:
    """Returns the journal of the file `path` if it is written from these images."""
    key = key_of(images.labels, images.names, images.classes, images.source, encoding)
    return Journal(path, key, len(images.labels))


def is_complete(path: Path, images: Images, journal: Journal, *, skip_bad: bool) -> bool:
    """Whether `path` was written from these images, by a start that left out no more and whose journal is there."""
    if images.stamp is None or not path.exists() or path.with_name(f"{path.name}.partial").exists():
        return False
    rows, complete = journal.read()
    if not skip_bad and (rows["state"] == SKIPPED).any():
        return False
    return complete and all(images.stamp(image) == stamp for image, stamp in enumerate(rows["stamp"].tolist()))


def write_beton(
    path: Path,
    images: Images,
    encoding: Encoding,
    *,
    workers: int | None = None,
    skip_bad: bool = False,
    keep_journal: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Manifest:
    """Writes the images into `path`, with manifest and stamp beside it.

    `workers`: how many processes, None: one per usable CPU. `skip_bad` leaves out images that cannot be stored.
    `keep_journal` keeps the complete journal, so that a later start can tell that the file is its own.
    `progress` is called now and then with the number done. Raises UserError. Then, and after Ctrl-C, what was written
    is kept as `path`.partial, and the same call continues there.
    """
    labels, classes = images.labels, images.classes
    if len(labels) == 0:
        raise UserError(f"{path} would hold no images")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(classes):
        raise UserError(
            f"{path}: labels are {labels.dtype} from {labels.min()} to {labels.max()}, not 0 to {len(classes) - 1}"
        )
    workers = workers or usable_cpus()
    journal = journal_of(path, images, encoding)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, keep_partial=lambda: journal.path.exists()) as partial:
            job = Job(partial, images, encoding, journal, workers, skip_bad)
            try:
                job.run(progress)
                checksum = job.finish()
                index = beton_index.read_index(partial, len(classes))
                if count_damaged(partial, job.rows, workers)[0]:
                    journal.remove()
                    raise UserError(f"{partial} reads back other bytes than were written: is the storage faulty?")
            except BaseException:
                job.discard_empty()
                raise
            manifest = Manifest(
                count=len(index), classes=classes,
                class_counts=np.bincount(index.labels, minlength=len(classes)).tolist(),
                sizes=index.extremes(partial.stat().st_size),
                source=images.source, options=encoding, skipped=[images.names[image] for image in sorted(job.skipped)],
                checksum=checksum, software=beside.software_versions(),
                exif_oriented=0 if images.oriented is None else int(images.oriented.sum()),
            )  # fmt: skip
            beside.write_manifest(manifest, path)  # before the file has its name: where a .beton is, its manifest is
            journal.mark_complete()
        beside.write_stamp(path, beside.stamp_now(path, checksum))
        if not keep_journal:
            journal.remove()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    for image, why in sorted(job.skipped.items()):
        print(f"skipped {images.names[image]!r}: {why}")
    return manifest
