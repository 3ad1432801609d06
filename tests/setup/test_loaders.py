"""Training and validation images that do not belong together are refused before the first step."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_webdataset import jpeg, write_shard
from tests.support.odd_images import class_folders
from tests.support.small_recipe import recipe as small
from trainer.data.beton.prepare import PrepareOptions, prepare_folder
from trainer.distributed import process_group
from trainer.distributed.process_group import World
from trainer.errors import UserError
from trainer.recipe import RandomResizedCrop
from trainer.settings import TrainSettings
from trainer.setup import loaders
from trainer.setup.loaders import open_loaders


def open_both(data: Path, num_classes: int) -> None:
    recipe = replace(small, num_classes=num_classes, train_crop=RandomResizedCrop(resolution=16))
    settings = TrainSettings(data=str(data), run_dir=data / "run", workers=1)
    with process_group.initialize("cpu", timeout_minutes=15) as world, ExitStack() as stack:
        open_loaders(recipe, settings, world, stack)


def test_loaders_name_a_class_without_training_images(tmp_path: Path) -> None:
    files = [[(f"{label}.jpg", jpeg()), (f"{label}.cls", b"%d" % label)] for label in range(4)]
    (tmp_path / "classes.txt").write_text("cat\ndog\nemu\nfox\n")
    write_shard(tmp_path / "train.tar", [*files[0], *files[1]])
    write_shard(tmp_path / "val.tar", [*files[1], *files[3]])
    with pytest.raises(UserError, match="1 class with validation images and no training images: 'fox': add training"):
        open_both(tmp_path, 4)
    write_shard(tmp_path / "val.tar", files[1])
    open_both(tmp_path, 4)


@pytest.mark.parametrize("kind", ["folders", "shards", "betons"])
def test_loaders_refuse_training_images_under_the_name_of_validation(tmp_path: Path, kind: str) -> None:
    """By a link, or copied. A part of them is no mistake: whoever overfits on purpose may validate on it."""
    if kind == "folders":
        shutil.rmtree(class_folders(tmp_path) / "val")
        (tmp_path / "val").symlink_to("train")
    elif kind == "shards":
        write_shard(tmp_path / "train.tar", [("0.jpg", jpeg()), ("0.cls", b"2")])
        (tmp_path / "val.tar").symlink_to("train.tar")
    else:
        prepare_folder(class_folders(tmp_path / "src"), tmp_path, PrepareOptions(write_mode="raw", workers=1))
        for name in ("beton", "beton.json"):
            shutil.copy(tmp_path / f"train.{name}", tmp_path / f"val.{name}")
    with pytest.raises(
        UserError, match=r"train and val hold the same images, .*: put other images into val, or a part"
    ):
        open_both(tmp_path, 3)
    if kind == "folders":
        (tmp_path / "val").unlink()
        shutil.copytree(tmp_path / "train", tmp_path / "val")
        (tmp_path / "val" / "c" / "000.png").unlink()
        open_both(tmp_path, 3)


def test_loaders_read_class_folders_on_one_process_before_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All processes of a machine would otherwise read everything at once, for its checksum."""
    first: list[bool] = []

    def on_every_rank(_: World, action: Callable[[], Any]) -> Any:
        opened = action()
        first.append(all(loader.source.is_identified for loader in opened))
        return opened

    monkeypatch.setattr(loaders, "on_every_rank", on_every_rank)
    open_both(class_folders(tmp_path), 3)
    assert first[0]
