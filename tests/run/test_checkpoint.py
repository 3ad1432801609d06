"""Whenever a process dies or a disk fills, there is a whole checkpoint, and one that is not whole is never read."""

import argparse
import builtins
import errno
import hashlib
import io
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.full_disk import no_space_at
from tests.support.small_checkpoint import checkpoint_content
from trainer.errors import UserError
from trainer.model import build_model
from trainer.optim.optimizer import build_optimizer
from trainer.precision import build_scaler
from trainer.recipe import SGD, CifarResNet
from trainer.run.checkpoint import CheckpointContent, Checkpoints, checked, read, write

Action = Callable[[Checkpoints], object]


def small(mark: int) -> CheckpointContent:
    """A state that shows where it comes from in every part."""
    weights = {name: torch.full((8,), float(mark)) for name in ("first", "last")}
    return checkpoint_content(step=mark, model=weights, position={"epoch": mark, "batch": mark})


def mark_of(state: Any) -> int:
    """The mark of a state that is no mix of two."""
    marks = {state["step"], *state["position"].values()}
    marks |= {int(value) for tensor in state["model"].values() for value in tensor}
    (mark,) = marks
    return mark


def newest_mark(folder: Path) -> int | None:
    found = Checkpoints(folder, keep=3).newest()
    return mark_of(found[1]) if found else None


def assert_equal(first: Any, second: Any) -> None:
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert_equal(value, second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


def checksum_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def sign(path: Path) -> None:
    """Gives a file the checksum of what it holds now."""
    checksum_of(path).write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


# ------------------------------------------------------------------------------------------------ write and read


def test_save_removes_what_a_killed_training_left_and_not_what_average_is_writing(tmp_path: Path) -> None:
    left = [tmp_path / name for name in ("step_00000001.pt.partial", "best.pt.partial", "best.pt.sha256.partial")]
    others = [tmp_path / "average.pt.partial", tmp_path / "average.pt.sha256.partial"]
    for file in (*left, *others):
        file.touch()
    Checkpoints(tmp_path, 3).save(checkpoint_content(step=2), 2)
    assert sorted(tmp_path.glob("*.partial")) == others


def test_trained_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(CifarResNet(depth=8), 10).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(SGD(lr=0.1, decay_norm=False), model)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    optimizer.step()
    state = {
        "position": {"epoch": 1, "batch": 2, "best_top1": 12.5},
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "scaler": build_scaler("fp16", torch.device("cpu")).state_dict(),
        "losses": torch.rand(20, dtype=torch.float64),
        "step": 7,
        "data": {"train": "sha256:0", "val": "sha256:1"},
        "data_folder": "digits",
    }
    write(tmp_path / "state.pt", state)
    found = read(tmp_path / "state.pt")
    found["model"] = dict(found["model"])
    assert_equal(found, state)
    assert_equal(dict(torch.load(tmp_path / "state.pt", weights_only=True)["model"]), state["model"])
    assert {path.name for path in tmp_path.iterdir()} == {"state.pt", "state.pt.sha256"}


def test_checksum_is_one_that_sha256sum_checks(tmp_path: Path) -> None:
    write(tmp_path / "state.pt", small(1))
    check = ["sha256sum", "--check", "state.pt.sha256"]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, text=True).stdout == "state.pt: OK\n"
    (tmp_path / "state.pt").write_bytes(b"other")
    assert subprocess.run(check, cwd=tmp_path, capture_output=True).returncode != 0


@pytest.mark.slow
def test_checkpoint_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    write(path, small(1))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"state\.pt: damaged"):
            read(path)
    path.write_bytes(content)
    assert mark_of(read(path)) == 1


@pytest.mark.slow
def test_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    write(path, small(1))
    content = bytearray(path.read_bytes())
    for position in range(0, len(content), 3):
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"state\.pt: damaged"):
            read(path)
        content[position] ^= 1 << position % 8
    path.write_bytes(content)
    assert mark_of(read(path)) == 1


@pytest.mark.parametrize("length", [0, 1, 63, 64])
def test_checksum_that_is_cut_or_of_a_different_file_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    write(path, small(1))
    checksum = checksum_of(path).read_text()
    other = "0" if checksum[0] != "0" else "1"
    checksum_of(path).write_text((other + checksum[1:])[: length or None] if length == 64 else checksum[:length])
    with pytest.raises(UserError, match=r"state\.pt"):
        read(path)


@pytest.mark.parametrize("missing", ["state.pt", "state.pt.sha256"])
def test_checkpoint_missing_file_is_refused(missing: str, tmp_path: Path) -> None:
    write(tmp_path / "state.pt", small(1))
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=r"state\.pt: not a checkpoint that can be read: .*No such file") as caught:
        read(tmp_path / "state.pt")
    assert "\n" not in str(caught.value)


def test_checkpoint_what_is_whole_but_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    """Signed garbage: the checksum is right, and torch raises whatever it leads to."""
    path = tmp_path / "state.pt"
    write(path, small(1))
    content = path.read_bytes()
    for damaged in (b"", b"hello\n" * 100, *(content[:length] for length in range(1, len(content), 97))):
        path.write_bytes(damaged)
        sign(path)
        with pytest.raises(UserError, match=r"state\.pt: not a checkpoint that can be read: ") as caught:
            read(path)
        assert "\n" not in str(caught.value)


class Touch:
    """Unpickled, it runs a command: what a checkpoint from a stranger could do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_checkpoint_cannot_hold_objects_or_run_code(tmp_path: Path) -> None:
    path, victim = tmp_path / "state.pt", tmp_path / "was_here"
    for stranger in (argparse.Namespace(lr=0.1), Touch(victim), small):
        write(path, {"step": 1, "stranger": stranger})
        with pytest.raises(UserError, match=r"state\.pt: not a checkpoint that can be read: Weights only"):
            read(path)
    assert not victim.exists()
    torch.load(path.with_name("state.pt"), weights_only=False)  # the last one, small, is harmless
    write(path, {"stranger": Touch(victim)})
    torch.load(path, weights_only=False)
    assert victim.exists()  # it would have


# -------------------------------------------------------------------------------------------- a process that dies

OPERATIONS = {
    os: ("replace", "rename", "unlink", "remove", "link", "symlink", "mkdir", "fsync", "truncate", "open"),
    io: ("open",),
    builtins: ("open",),
    shutil: ("copyfile",),
    torch: ("save",),
}


class Killed(BaseException):
    """What kill -9 is like: no `except Exception` sees it, and no `finally` achieves anything any more."""


@contextmanager
def failing(at: int, error: BaseException | None = None) -> Iterator[list[str]]:
    """The file-system operation number `at` fails: with `error`, or as in a process that is killed before it.

    Yields the names of the operations, in order, of which reading is none.
    """
    done: list[str] = []

    def wrap(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*words: Any, **options: Any) -> Any:
            if name == "open":
                mode = words[1] if len(words) > 1 else options.get("mode", "r")
                writes = mode & os.O_CREAT if isinstance(mode, int) else set(mode) & set("wax+")
                if isinstance(words[0], int) or not writes:
                    return original(*words, **options)
            done.append(name)
            if len(done) == at or (len(done) > at and error is None):
                if name == "save" and len(done) == at:
                    words[1].write(b"half of it")
                if name == "copyfile" and len(done) == at:
                    Path(words[1]).write_bytes(Path(words[0]).read_bytes()[:10])
                raise error or Killed
            return original(*words, **options)

        return operation

    with pytest.MonkeyPatch.context() as patch:
        for module, names in OPERATIONS.items():
            for name in names:
                patch.setattr(module, name, wrap(name, getattr(module, name)))
        yield done


def operations(folder: Path, before: Action, action: Action, keep: int) -> list[str]:
    """What `action` does after `before`, each in a process of its own."""
    before(Checkpoints(folder, keep))
    with failing(at=10**9) as done:
        action(Checkpoints(folder, keep))
    return done


def nothing(checkpoints: Checkpoints) -> None:
    """The run is new."""


def save(*marks: int, step: int | None = None) -> Action:
    def action(checkpoints: Checkpoints) -> None:
        for mark in marks:
            checkpoints.save(small(mark), step or mark)

    return action


SAVES: dict[str, tuple[Action, Action, int, set[int | None]]] = {
    # what was saved before, what is saved now, how many are kept, which marks may be found
    "the first": (nothing, save(1), 3, {None, 1}),
    "the second": (save(1), save(2), 3, {1, 2}),
    "the fourth": (save(1, 2, 3), save(4), 3, {3, 4}),
    "the only one": (save(1), save(2), 1, {1, 2}),
    "the same step again": (save(1, 2), save(3, step=2), 3, {2, 3}),
    "the same step again, the only one": (save(1), save(2, step=1), 1, {1, 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAVES)
def test_save_that_is_killed_leaves_the_old_checkpoint_or_the_new(name: str, tmp_path: Path) -> None:
    """A run that was stopped in an epoch's evaluation starts by saving the same step again."""
    before, action, keep, allowed = SAVES[name]
    names = operations(tmp_path / "whole", before, action, keep)
    assert {"save", "fsync", "replace"} <= set(names)
    wrong = {}
    for number in range(1, len(names) + 1):
        folder = tmp_path / str(number)
        before(Checkpoints(folder, keep))
        with failing(number), pytest.raises(Killed):
            action(Checkpoints(folder, keep))
        if (found := newest_mark(folder)) not in allowed:
            wrong[f"before {number}: {names[number - 1]}"] = found
        action(Checkpoints(folder, keep))
        assert newest_mark(folder) == max(mark for mark in allowed if mark)  # the next attempt succeeds
    assert wrong == {}


def test_checkpoint_what_a_killed_save_left_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    """A run that is preempted a hundred times does not fill the disk with halves."""
    names = operations(tmp_path / "whole", save(1), save(2), 3)
    left = {}
    for number in range(1, len(names) + 1):
        folder = tmp_path / str(number)
        save(1)(Checkpoints(folder, 3))
        with failing(number), pytest.raises(Killed):
            save(2)(Checkpoints(folder, 3))
        save(3, 4, 5)(Checkpoints(folder, 3))
        expected = {f"step_{step:08d}.pt" for step in (3, 4, 5)}
        large = {path.name for path in folder.iterdir() if path.stat().st_size > 200}  # a checksum file is 90
        if large - expected:
            left[f"before {number}: {names[number - 1]}"] = large - expected
    assert left == {}


def best(step: int) -> Action:
    return lambda checkpoints: checkpoints.mark_best(step)


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize(("marked_before", "allowed"), [(False, {None, 2}), (True, {1, 2})])
def test_killed_mark_leaves_the_old_best_or_the_new(
    marked_before: bool, allowed: set[int | None], links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)

    def before(checkpoints: Checkpoints) -> None:
        save(1, 2)(checkpoints)
        if marked_before:
            checkpoints.mark_best(1)

    names = operations(tmp_path / "whole", before, best(2), 3)
    assert ("link" in names) and ("copyfile" in names) is not links and "replace" in names
    wrong = {}
    for number in range(1, len(names) + 1):
        checkpoints = Checkpoints(tmp_path / str(number), 3)
        before(checkpoints)
        with failing(number), pytest.raises(Killed):
            checkpoints.mark_best(2)
        try:
            found = mark_of(read(checkpoints.best)) if checkpoints.best.exists() else None
        except UserError as error:
            wrong[f"before {number}: {names[number - 1]}"] = str(error)
            continue
        assert found in allowed
        assert newest_mark(checkpoints.folder) == 2
        checkpoints.mark_best(2)
        assert mark_of(read(checkpoints.best)) == 2
    assert wrong == {}


def no_links(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


# -------------------------------------------------------------------------------------------------- a full disk


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes of a file fails, as on a full disk: a real error from a real write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("fits", [0, 1, 64, 1000, 50_000])
def test_full_disk_is_one_line_and_leaves_the_old_checkpoint_alone(fits: int, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(small(1), 1)
    files = sorted(tmp_path.iterdir())
    large = checkpoint_content(**{**small(2), "data": {"more": torch.zeros(25_000)}})
    answer = r"step_00000002\.pt: the checkpoint cannot be written: "
    with file_size_limit(fits), pytest.raises(UserError, match=answer) as caught:
        checkpoints.save(large, 2)
    assert "\n" not in str(caught.value)
    assert newest_mark(tmp_path) == 1
    assert sorted(tmp_path.iterdir()) == files  # no halves that fill the disk further
    checkpoints.save(large, 2)  # there is room again
    assert newest_mark(tmp_path) == 2


def test_device_that_is_full_says_so(tmp_path: Path) -> None:
    no_space_at(tmp_path / "step_00000001.pt.partial")
    with pytest.raises(UserError, match=r"step_00000001\.pt: .*No space left on device"):
        write(tmp_path / "step_00000001.pt", small(1))
    assert newest_mark(tmp_path) is None


@pytest.mark.parametrize("same_step", [False, True])
def test_error_of_any_operation_is_a_users_error(same_step: bool, tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    action = save(2, step=1) if same_step else save(2)
    names = operations(tmp_path / "whole", save(1), action, 1)
    tried = 0
    for number, name in enumerate(names, 1):
        if name in ("unlink", "remove", "mkdir"):  # they need no room, or the folder is there
            continue
        tried += 1
        folder = tmp_path / str(number)
        save(1)(Checkpoints(folder, 1))
        with failing(number, full), pytest.raises(UserError, match="No space left on device"):
            action(Checkpoints(folder, 1))
        assert newest_mark(folder) in (1, 2), f"{number}: {name}"
        assert not list(folder.glob("*.partial")), f"{number}: {name}"
    assert tried >= 5


def test_folder_that_cannot_be_made_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in its place")
    with pytest.raises(UserError, match=r"checkpoints"):
        Checkpoints(tmp_path / "checkpoints", keep=3).save(small(1), 1)


def test_checkpoint_no_room_for_the_best_is_a_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(small(1), 1)
    monkeypatch.setattr(os, "link", no_links)
    with file_size_limit(10), pytest.raises(UserError, match=r"best\.pt"):
        checkpoints.mark_best(1)


# ------------------------------------------------------------------------------------------ which ones there are


@pytest.mark.parametrize("keep", [1, 3])
def test_checkpoint_last_ones_are_kept_with_their_checksums(keep: int, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep)
    for step in (1, 2, 9, 10, 99, 100):
        assert checkpoints.save(small(step), step) == tmp_path / f"step_{step:08d}.pt"
    kept = (9, 10, 99, 100)[-keep:]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"step_{step:08d}.pt{end}" for step in kept for end in ("", ".sha256")
    }
    assert newest_mark(tmp_path) == 100


@pytest.mark.parametrize("links", [True, False])
def test_best_outlives_its_step(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(small(1), 1)
    checkpoints.mark_best(1)
    Checkpoints(tmp_path, keep=1).save(small(7), 1)  # the same step written again: the best is another file
    assert mark_of(read(checkpoints.best)) == 1
    checkpoints.save(small(2), 2)
    assert mark_of(read(checkpoints.best)) == 1
    checkpoints.mark_best(2)
    checkpoints.mark_best(2)
    checkpoints.save(small(3), 3)
    assert mark_of(read(checkpoints.best)) == 2
    assert newest_mark(tmp_path) == 3
    names = {f"{stem}.pt{end}" for stem in ("best", "step_00000003") for end in ("", ".sha256")}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_checkpoint_linked_best_takes_no_room(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.mark_best(checkpoints.save(small(1), 1) and 1)
    assert checkpoints.best.samefile(tmp_path / "step_00000001.pt")


def test_best_that_was_never_marked_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"best\.pt"):
        read(Checkpoints(tmp_path, keep=1).best)


def test_checkpoint_damaged_ones_are_skipped_and_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=4)
    save(1, 2, 3, 4)(checkpoints)
    with (tmp_path / "step_00000004.pt").open("r+b") as file:
        file.truncate(100)
    checksum_of(tmp_path / "step_00000003.pt").unlink()
    found = checkpoints.newest()
    assert found is not None
    assert (found[0].name, mark_of(found[1])) == ("step_00000002.pt", 2)
    assert len(checkpoints.damaged) == 2
    assert "step_00000004.pt: damaged: its SHA-256 is not the one in step_00000004.pt.sha256" in checkpoints.damaged[0]
    assert "step_00000003.pt" in checkpoints.damaged[1]


def test_checkpoint_where_none_is_whole_there_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "new", keep=3).newest() is None
    checkpoints = Checkpoints(tmp_path, keep=3)
    save(1, 2)(checkpoints)
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    assert checkpoints.newest() is None
    assert len(checkpoints.damaged) == 2


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_checkpoint_damaged_checkpoints_do_not_crowd_out_whole_ones(keep: int, tmp_path: Path) -> None:
    """A run that fell back behind damaged checkpoints goes on below their steps: what it saves must stay."""
    save(*range(5, 5 + keep))(Checkpoints(tmp_path, keep))
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    assert newest_mark(tmp_path) is None
    save(1)(Checkpoints(tmp_path, keep))
    assert newest_mark(tmp_path) == 1
    save(2)(Checkpoints(tmp_path, keep))
    assert newest_mark(tmp_path) == 2
    save(*range(5, 8))(Checkpoints(tmp_path, keep))  # it has come past them
    assert newest_mark(tmp_path) == 7
    assert len(list(tmp_path.glob("*.pt"))) == keep


# ---------------------------------------------------------------------------------------------------- the schema


@pytest.mark.parametrize("key", sorted(CheckpointContent.__required_keys__))
def test_checkpoint_without_a_key_or_with_a_different_type_is_refused(key: str, tmp_path: Path) -> None:
    whole: dict[str, Any] = {**small(1)}
    path = tmp_path / "step_00000001.pt"
    assert checked(whole, path) is whole
    with pytest.raises(UserError, match=rf"step_00000001\.pt has no {key}: it was not written by this version"):
        checked({name: value for name, value in whole.items() if name != key}, path)
    with pytest.raises(UserError, match=rf"step_00000001\.pt: {key} is of type tuple: it was not written by this"):
        checked({**whole, key: ()}, path)


@pytest.mark.parametrize("content", [None, [], small(1)["model"], {**small(1), "init_weights": {"kind": "x"}}])
def test_checkpoint_what_is_whole_but_of_a_different_program_is_refused_and_not_passed_over(
    content: Any, tmp_path: Path
) -> None:
    """An older checkpoint of the run would hide that; a damaged one is skipped."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(small(1), 1)
    write(tmp_path / "step_00000002.pt", content)
    with pytest.raises(UserError, match="not written by this version of the trainer, use another --run-dir"):
        checkpoints.newest()
    write(checkpoints.best, content)
    with pytest.raises(UserError, match="not written by this version of the trainer"):
        checkpoints.read_best()
