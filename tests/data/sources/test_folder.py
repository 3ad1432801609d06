"""Class folders without validation images: a stratified part of the training images is held out, and said to be."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.sources.miniatures import RAW, contents, png
from trainer.__main__ import main
from trainer.data.beton.manifest import HeldOut, read_manifest
from trainer.data.sources.folder import prepare
from trainer.data.sources.options import SplitOptions
from trainer.data.sources.splits import hold_out
from trainer.errors import UserError

COUNTS = {"cat": 30, "dog": 12, "emu": 2, "fox": 1}


def options(**changes: object) -> SplitOptions:
    return SplitOptions(**{**RAW, **changes})  # type: ignore[arg-type]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """pets/train/{cat,dog,emu,fox}/NN.png, and no validation images."""
    number = 0
    for name, count in COUNTS.items():
        (tmp_path / "pets" / "train" / name).mkdir(parents=True)
        for image in range(count):
            (tmp_path / "pets" / "train" / name / f"{image:02}.png").write_bytes(png(number))
            number += 1
    return tmp_path / "pets"


def test_folder_without_validation_images_holds_some_of_each_class_out(pets: Path, tmp_path: Path) -> None:
    manifests = prepare(pets, tmp_path / "out", options(val_fraction=0.1))
    assert manifests["val"].class_counts == [3, 1, 1, 0], "a class of one image keeps it for training"
    assert manifests["train"].class_counts == [27, 11, 1, 1]
    for split in ("train", "val"):
        assert read_manifest(tmp_path / "out" / f"{split}.beton").source.held_out == HeldOut(val_fraction=0.1, seed=0)
    files = [tmp_path / "out" / f"{split}.beton" for split in ("train", "val")]
    everything = [image.tobytes() for file in files for image in contents(file)[1]]
    assert len(set(everything)) == len(everything) == sum(COUNTS.values())


@pytest.mark.slow
def test_held_out_images_depend_on_the_seed_alone(pets: Path, tmp_path: Path) -> None:
    held_out = {}
    for name, src, seed in (("a", pets, 0), ("b", pets / "train", 0), ("c", pets, 1)):
        prepare(src, tmp_path / name, options(val_fraction=0.4, seed=seed, workers=2))
        held_out[name] = [image.tobytes() for image in contents(tmp_path / name / "val.beton")[1]]
    assert held_out["a"] == held_out["b"], "the class folders themselves are taken too"
    assert held_out["a"] != held_out["c"]


def test_hold_out_takes_the_share_of_each_class_and_keeps_it_when_images_are_added() -> None:
    labels = np.repeat([0, 1, 2], [1000, 100, 10])
    names = [f"{label}/{image}" for image, label in enumerate(labels)]
    chosen = hold_out(labels, names, 0.25, 0)
    assert np.bincount(labels[chosen]).tolist() == [250, 25, 3]
    more = hold_out(np.append(labels, 0), [*names, "0/new"], 0.25, 0)
    assert np.count_nonzero(more[:-1] != chosen) <= 1


def test_hold_out_draws_the_images_that_it_always_drew() -> None:
    """Results on held-out images stay comparable. These names have no other source than this code."""
    names = [f"train/{name}/{image:02}.png" for name in ("cat", "dog") for image in range(20)]
    chosen = hold_out(np.repeat([0, 1], 20), names, 0.15, 7)
    assert [name for name, held_out in zip(names, chosen, strict=True) if held_out] == [
        "train/cat/06.png",
        "train/cat/10.png",
        "train/cat/16.png",
        "train/dog/00.png",
        "train/dog/03.png",
        "train/dog/12.png",
    ]


def test_folder_with_validation_images_needs_no_part_of_the_training_images(pets: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pets has no folder val or validation.*--val-fraction 0\.1"):
        prepare(pets, tmp_path / "out", options())
    (pets / "validation" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match="validation has validation images: leave out --val-fraction"):
        prepare(pets, tmp_path / "out", options(val_fraction=0.1))
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(UserError, match="is not between 0 and 1"):
            options(val_fraction=fraction)


@pytest.mark.parametrize("inside", ["data", "more/data", "cat/data"])
def test_folder_is_not_written_among_its_class_folders(pets: Path, tmp_path: Path, inside: str) -> None:
    """The second start would take it for a class without images."""
    (tmp_path / "link").symlink_to(pets / "train")
    for src in (pets, pets / "train", tmp_path / "link"):
        with pytest.raises(UserError, match=r"--out .*data is inside .*: choose a folder outside it"):
            prepare(src, pets / "train" / inside, options(val_fraction=0.1))
    assert sorted(path.name for path in (pets / "train").iterdir()) == list(COUNTS)
    assert prepare(pets, pets / inside, options(val_fraction=0.1))["val"].count == 5


def test_prepare_says_what_to_pass_where_validation_is_missing(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prepare", "folder", str(pets), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 2
    assert "--val-fraction 0.1" in capsys.readouterr().err
    assert main([*command, "--val-fraction", "0.1"]) == 0
    assert "validation: 5 of 45 images, drawn class by class with seed 0" in capsys.readouterr().out
