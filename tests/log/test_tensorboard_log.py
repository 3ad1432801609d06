"""TensorBoard's history holds everything exactly once, across restarts; pictures show what the model sees."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import DATA_TYPE_FLOAT64
from torch.utils.tensorboard import SummaryWriter

from tests.support.evaluation import evaluate
from tests.support.processes import SUPPORT
from trainer.data.crop import CropBoxes
from trainer.data.formats import open_source
from trainer.data.loader import Loader
from trainer.distributed import process_group
from trainer.distributed.process_group import World
from trainer.evaluation.evaluate import Predictions, predict
from trainer.log.hparams import columns, settings_of
from trainer.log.pictures import augmented, confusion_matrix, confusion_picture, mistakes, sheet
from trainer.log.tensorboard_log import TensorBoardLog, kept_events
from trainer.model import build_model
from trainer.recipe import EMA, Mixing, PaddedCrop
from trainer.recipe_file import load_recipe, recipe_names
from trainer.run.state import Position
from trainer.schedule import lr_at

RECIPE = replace(load_recipe(SUPPORT / "small_recipe.py"), epochs=3)
PER_EPOCH, BATCH = 4, RECIPE.global_batch_size
CLOCK = iter(range(1_000_000_000, 2_000_000_000))


def position(step: int) -> Position:
    epoch = max(0, step - 1) // PER_EPOCH
    return Position(steps_per_epoch=PER_EPOCH, epoch=epoch, batch=step - epoch * PER_EPOCH)


def records(first: int, last: int, rate: float = 96.0) -> list[dict[str, object]]:
    """The lines of metrics.jsonl after step `first`, up to `last`; a step takes one second at 96 images/s."""
    found = []
    for step in range(first, last + 1):
        if step > first:
            speed = {"lr": 0.1, "loss": 1.0, "images_per_second": rate, "data_wait": 0.0}
            found.append({"kind": "train", "step": step, "epoch": step / PER_EPOCH, **speed})
        if step and step % PER_EPOCH == 0:
            values = {"top1": float(step), "top5": 50.0, "loss": 1.0, "seen": 1, "duplicates": 0, "total": 1}
            found.append({"kind": "eval", "step": step, "epoch": step / PER_EPOCH, **values})
    return found


def write(folder: Path, first: int, last: int, *, end: bool = False) -> None:
    """One start of a run, in its own second: event files are read in the order of their names."""
    now = float(next(CLOCK))
    kept = [record for record in records(0, first) if record["step"] < first or record["kind"] == "train"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: now)
        board = TensorBoardLog(folder, RECIPE, position(first), kept)
        if not first:
            board.picture("augmented", np.zeros((4, 4, 3), np.uint8), 0)
        for record in records(first, last):
            board.record(record)
        if end:
            board.end("  recipe  small\n  top-1   12.00 %", last)
        board.close()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar, as TensorBoard reads the files."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def once(folder: Path) -> list[str]:
    """Every tag that is not a scalar, as many times as it occurs in the files."""
    events = kept_events(sorted(folder.glob("events.out.tfevents.*")), position(1000))
    return sorted(v.tag for e in events for v in e.summary.value if not v.HasField("simple_value"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write(folder, 0, 12, end=True)
    return folder


def test_accuracy_is_logged_by_images_by_epochs_and_by_time_of_training(whole: Path) -> None:
    found = scalars(whole)
    assert found["eval/top1"] == [(4, 4), (8, 8), (12, 12)]
    assert found["versus/top1_by_images"] == [(4 * BATCH, 4), (8 * BATCH, 8), (12 * BATCH, 12)]
    assert found["versus/top1_by_epoch"] == [(1, 4), (2, 8), (3, 12)]
    assert found["versus/top1_by_milliseconds"] == [(4000, 4), (8000, 8), (12000, 12)]


def test_tensorboard_log_whole_schedule_is_logged_at_the_start(tmp_path: Path) -> None:
    write(tmp_path, 0, 0)
    schedule = scalars(tmp_path)["whole_run/lr"]
    assert [step for step, _ in schedule] == list(range(1, 13))
    expected = [lr_at(RECIPE.schedule, peak=RECIPE.optimizer.lr, epoch=step / 4, epochs=3) for step in range(12)]
    assert [lr for _, lr in schedule] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("stopped_after", [1, 4, 5, 8, 11, 12])
def test_continued_history_is_that_of_a_run_never_stopped(stopped_after: int, whole: Path, tmp_path: Path) -> None:
    """On every axis, with texts, pictures and tables written once. Steps 4, 8 and 12 precede an evaluation."""
    shutil.copytree(whole, tmp_path / "run")
    write(tmp_path / "run", stopped_after, 12, end=True)
    assert scalars(tmp_path / "run") == scalars(whole)
    assert once(tmp_path / "run") == once(whole)
    assert len(list((tmp_path / "run").iterdir())) == 2  # the history and the file of the new start


def test_tensorboard_log_what_was_logged_keeps_its_time(tmp_path: Path) -> None:
    write(tmp_path, 0, 6)
    before = EventAccumulator(str(tmp_path)).Reload().Scalars("eval/top1")
    write(tmp_path, 6, 12)
    assert EventAccumulator(str(tmp_path)).Reload().Scalars("eval/top1")[:1] == before


def test_crash_between_the_new_history_and_the_removal_of_the_old_doubles_nothing(whole: Path, tmp_path: Path) -> None:
    write(tmp_path, 0, 7)
    (old,) = tmp_path.iterdir()
    content = old.read_bytes()
    write(tmp_path, 7, 7)
    old.write_bytes(content)
    write(tmp_path, 7, 12, end=True)
    assert scalars(tmp_path) == scalars(whole)
    assert once(tmp_path) == once(whole)


def test_tensorboard_log_what_a_killed_process_had_not_written_comes_from_metrics(whole: Path, tmp_path: Path) -> None:
    write(tmp_path, 0, 6)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-700])
    missing = len(scalars(tmp_path)["train/loss"])
    assert missing < 6
    write(tmp_path, 6, 12, end=True)
    assert scalars(tmp_path) == scalars(whole)


def test_tensorboard_log_files_of_earlier_versions_that_purge_are_understood(tmp_path: Path) -> None:
    for start, value in ((0, 1.0), (3, 2.0)):
        now = float(next(CLOCK))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("time.time", lambda now=now: now)
            with SummaryWriter(str(tmp_path), purge_step=start) as writer:
                for step in range(start, 6):
                    writer.add_scalar("train/loss", value, step)
    kept = kept_events(sorted(tmp_path.iterdir()), position(4))
    assert [(e.step, e.summary.value[0].simple_value) for e in kept] == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2)]


def test_tensorboard_opens_on_the_groups_that_matter(whole: Path) -> None:
    """It sorts them by name and unfolds the first two."""
    assert sorted({tag.partition("/")[0] for tag in scalars(whole)})[:2] == ["eval", "train"]
    assert "eval/top5" not in scalars(whole)  # of ten classes


# ---------------------------------------------------------------------------------------------------------- HParams


@pytest.mark.slow
def test_tensorboard_log_every_setting_of_every_recipe_has_a_column_of_its_type() -> None:
    content = columns().value[0].metadata.plugin_data.content
    infos = {info.name: info.type for info in metadata.parse_experiment_plugin_data(content).hparam_infos}
    names = recipe_names()
    assert len(names) >= 62
    for name in names:
        for setting, value in settings_of(load_recipe(name)).items():
            assert (infos[setting] == DATA_TYPE_FLOAT64) == (not isinstance(value, str)), (name, setting)


def test_tensorboard_log_settings_of_a_sweep_are_the_columns_shown_first() -> None:
    def shown(*first: str) -> list[str]:
        content = columns(first).value[0].metadata.plugin_data.content
        infos = metadata.parse_experiment_plugin_data(content).hparam_infos
        return sorted(info.name for info in infos if info.differs)

    assert shown() == ["changed", "global_batch_size", "optimizer.lr", "recipe", "seed"]
    assert shown("epochs", "schedule.warmup.epochs") == ["epochs", "recipe", "schedule.warmup.epochs", "seed"]


def test_settings_are_values_choices_by_name_and_what_is_off_is_off() -> None:
    settings = settings_of(replace(load_recipe("resnet20_he2015"), seed=3, epochs=7, ema=EMA(decay=0.9)))
    assert settings["optimizer"] == "SGD"
    assert settings["optimizer.lr"] == 0.1
    assert settings["ema.decay"] == 0.9
    assert settings["mixing"] == "off"
    assert settings["model.residual"] == "True"
    assert "clip_grad_norm" not in settings
    assert settings["seed"] == 3
    assert "epochs: 164 -> 7" in str(settings["changed"])


# --------------------------------------------------------------------------------------------------------- pictures


@pytest.fixture(scope="module")
def here() -> World:
    with process_group.initialize("cpu", timeout_minutes=1) as world:
        yield world


@pytest.fixture(scope="module")
def images(digits: Path) -> Loader:
    with Loader(open_source(str(digits), "val", num_classes=10, resolution=16), workers=1) as loader:
        yield loader


def test_tensorboard_log_images_that_nothing_is_done_to_look_as_they_are_stored(here: World, images: Loader) -> None:
    recipe = replace(RECIPE, train_crop=PaddedCrop(resolution=16, padding=0), flip=False)
    pixels, captions = augmented(recipe, images, here)
    assert len(pixels) == len(captions) == 16
    whole = np.tile([0, 0, 16, 16], (len(images), 1)).astype(np.int32)
    stored = np.empty((len(images), 16, 16, 3), np.uint8)
    everything = np.arange(len(images))
    images.source.read(everything, CropBoxes(whole, np.zeros(len(images), bool)), stored)
    for picture, caption in zip(pixels, captions, strict=True):
        found = (stored == picture).all(axis=(1, 2, 3)).nonzero()[0]
        assert caption in {images.source.classes[images.source.labels[number]] for number in found}


def test_mixed_images_are_shown_mixed_with_both_classes(here: World, images: Loader) -> None:
    recipe = replace(RECIPE, mixing=Mixing(mixup_alpha=5.0))
    plain, _ = augmented(RECIPE, images, here)
    mixed, captions = augmented(recipe, images, here)
    assert not np.array_equal(plain[0], mixed[0])
    shares = [
        sum(int(line.rsplit(" ", 1)[1].rstrip("%")) for line in text.splitlines()) for text in captions if "%" in text
    ]
    assert len(shares) > 8
    assert set(shares) <= {99, 100, 101}


@pytest.mark.slow
def test_predictions_are_those_that_are_evaluated(here: World, images: Loader) -> None:
    torch.manual_seed(0)
    model = build_model(RECIPE.model, 10)
    answers = predict(model, images, RECIPE, here)
    assert 100 * (answers.predicted == answers.labels).mean() == evaluate(model, images, RECIPE, here).top1
    assert ((answers.confidence > 0.1) & (answers.confidence <= 1)).all()
    counts = confusion_matrix(answers, 10)
    assert counts.sum(axis=1).tolist() == np.bincount(answers.labels, minlength=10).tolist()
    assert counts.sum(axis=0).tolist() == np.bincount(answers.predicted, minlength=10).tolist()
    pictures, captions = mistakes(answers, images, RECIPE)
    assert len(pictures) == len(captions) == 24
    surest = answers.confidence[answers.predicted != answers.labels].max()
    assert captions[0].splitlines()[1].startswith(f"{surest:.0%} ")  # a long name is cut, not the number
    assert sheet(pictures, captions).shape == (6 * 136, 4 * 104, 3)


def test_tensorboard_log_no_mistakes_make_no_picture(images: Loader) -> None:
    labels = images.source.labels
    assert mistakes(Predictions(labels, labels, np.ones(len(labels))), images, RECIPE) == ([], [])


@pytest.mark.parametrize("classes", [2, 21, 100])
def test_confusion_matrix_is_blue_on_its_diagonal_and_red_beside_it(classes: int) -> None:
    counts = np.eye(classes, dtype=np.int64) * 3
    counts[0, 1] = 1
    picture = confusion_picture(counts, [f"a class with a long name {number}" for number in range(classes)])
    blue = (picture[..., 2] == 255) & (picture[..., 0] < 100)
    red = (picture[..., 0] == 255) & (picture[..., 2] < 200) & (picture[..., 1] == picture[..., 2])
    assert picture.shape[1] < 1300
    rows, columns_ = blue.nonzero()
    assert columns_.max() - columns_.min() > 0.8 * (rows.max() - rows.min()) > 0
    assert red.nonzero()[1].min() > columns_.min()
    assert red.nonzero()[0].max() < rows.max()
