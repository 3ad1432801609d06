"""A user's mistake gives one line and exit code 2, with and without torchrun; no hang, no traceback."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from torch import nn

from tests.support.processes import ROOT, SUPPORT, TIMEOUT, command, ranks_of, run, run_new, start_new, wait_for_step
from trainer.__main__ import main
from trainer.cli.parse import parse
from trainer.distributed.process_group import World
from trainer.errors import UserError
from trainer.recipe import SWA, FineTuning, LibraryModel
from trainer.recipe_file import load_recipe, recipe_source
from trainer.settings import TrainSettings
from trainer.setup.checks import check_batch_norm, check_norm_images, slow_start

RECIPE = str(SUPPORT / "small_recipe.py")
Mistake = tuple[list[str], str]


def with_train_file(digits: Path, folder: Path, change: Callable[[Path], None]) -> list[str]:
    """The command line of a training on a copy of the digits with a changed train.beton."""
    shutil.copytree(digits, folder / "data")
    change(folder / "data" / "train.beton")
    return ["train", RECIPE, "--data", str(folder / "data"), "--run-dir", str(folder / "run")]


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # of an image: most of the file is padding
    path.write_bytes(content)


def mistakes(digits: Path, tmp_path: Path) -> dict[str, Mistake]:
    """Command lines, each with a pattern of the line that has to answer it."""
    good = ["train", RECIPE, "--data", str(digits), "--run-dir", str(tmp_path / "run")]
    (tmp_path / "a_file").write_text("in the way")
    squeeze = replace(load_recipe(RECIPE), model=LibraryModel(name="torchvision/squeezenet1_1"), precise_norm_images=96)
    (tmp_path / "squeeze.py").write_text(recipe_source(squeeze))
    folders = [tmp_path / name for name in ("cut", "foreign", "flipped", "no_manifest")]
    return {
        "no data": (
            [*good[:3], str(tmp_path / "nowhere"), *good[4:]],
            r"has neither train.beton nor the folder train/: write it",
        ),
        "wrong class count": (
            [*good, "--num-classes", "7"],
            r"num_classes=7, but .* has 10 classes: use --num-classes 10",
        ),
        "misspelt setting": ([*good, "--optimiser.lr", "1"], r"--optimiser.lr.*did you mean --optimizer.lr"),
        "batch does not divide": (
            [*good, "--global-batch-size", "100"],
            r"global_batch_size=100 is not a multiple of micro_batch_size=16",
        ),
        "batch above the data": (
            [*good, "--global-batch-size", "1600"],
            r"global_batch_size=1600 is more than the 1437 training images",
        ),
        "unknown recipe": (["train", "resnet20_digit", *good[2:]], r"did you mean resnet20_digits\?"),
        "no data given": (good[:2] + good[4:], r"--data"),
        "no recipe": (["train"], r"which recipe\?"),
        "unknown command": (["trian"], r"there is no command 'trian': did you mean train\?"),
        "run directory is a file": ([*good[:5], str(tmp_path / "a_file")], r"a_file: cannot be written"),
        "truncated beton": (with_train_file(digits, folders[0], truncate), r"train.beton"),
        "not a beton": (
            with_train_file(digits, folders[1], lambda path: (path.write_text("hello\n" * 1000), None)[1]),
            r"train.beton",
        ),
        "flipped byte": (with_train_file(digits, folders[2], flip_a_byte), r"train.beton"),
        "no manifest": (
            with_train_file(digits, folders[3], lambda path: path.with_name("train.beton.json").unlink()),
            r"train.beton.json",
        ),
        "norms over too many images": (
            [*good, "--precise-norm-images", "1440"],
            r"precise_norm_images=1440 is more than the 1437 training images: use .* a multiple of 16, or None",
        ),
        "fine-tuning of nothing": (
            ["train", "resnet50_finetune", *good[2:], "--num-classes", "10", "--model.no-pretrained"],
            r"fine_tuning needs weights to start from: add --initial-weights FILE",
        ),
        "norms of a network without": (
            ["train", str(tmp_path / "squeeze.py"), *good[2:]],
            r"precise_norm_images=96 measures the statistics of batch norm, and SqueezeNet has none: use --precise-",
        ),
        "norms that see one value": (
            [
                "train",
                "resnet18_torchvision_v1",
                "--data",
                "synthetic:64",
                *good[4:],
                "--num-classes",
                "10",
                *["--global-batch-size", "8", "--micro-batch-size", "1", "--train-crop.resolution", "32"],
            ],
            r"1 images of 32 px cannot pass the network: .* use a larger --micro-batch-size",
        ),
        "no run": (["evaluate", str(tmp_path / "nowhere")], r"nowhere does not exist"),
    }


CASES = (
    "no data",
    "wrong class count",
    "misspelt setting",
    "batch does not divide",
    "batch above the data",
    "unknown recipe",
    "no data given",
    "no recipe",
    "unknown command",
    "run directory is a file",
    "truncated beton",
    "not a beton",
    "flipped byte",
    "no manifest",
    "norms over too many images",
    "fine-tuning of nothing",
    "norms of a network without",
    "norms that see one value",
    "no run",
)


def test_cli_every_mistake_is_tried(digits: Path, tmp_path: Path) -> None:
    assert tuple(mistakes(digits, tmp_path)) == CASES


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_cli_one_process_says_one_line_and_exits_with_2(
    name: str, digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words, answer = mistakes(digits, tmp_path)[name]
    assert main(words) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", said.err), said.err
    assert re.search(answer, said.err), said.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["no data", "wrong class count", "misspelt setting", "truncated beton", "run directory is a file"]
)
def test_cli_two_processes_say_one_line_and_exit_with_2(name: str, digits: Path, tmp_path: Path) -> None:
    words, answer = mistakes(digits, tmp_path)[name]
    ended = run(words, processes=2)
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ended.stderr
    assert re.search(answer, lines[0]), lines
    assert ended.returncode == 2


@pytest.mark.slow
def test_number_of_processes_that_does_not_fit_names_those_that_do(digits: Path, tmp_path: Path) -> None:
    words = ["train", RECIPE, "--data", str(digits), "--run-dir", str(tmp_path), "--global-batch-size", "48"]
    ended = run(words, processes=2)
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert "2 processes cannot share global_batch_size=48 in micro-batches of 16: use 1, 3 processes" in line
    assert ended.returncode == 2


@pytest.mark.slow
def test_torchrun_lets_rank_0_say_what_is_wrong(digits: Path, tmp_path: Path) -> None:
    """It ends all ranks as soon as one has exited: the silent ones wait for rank 0.

    Here for as long as a busy machine may need: on it rank 0 may begin many seconds after the others.
    """
    words, answer = mistakes(digits, tmp_path)["wrong class count"]
    (tmp_path / "patient.py").write_text(
        f"from trainer import __main__ as trainer\ntrainer._EXIT_DELAY = {TIMEOUT}\ntrainer.run()\n"
    )
    torchrun = command([], processes=2)[: -len(["-m", "trainer"])]
    ended = subprocess.run(
        [*torchrun, str(tmp_path / "patient.py"), *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(answer, line), line
    first = re.search(r"Root Cause .*?rank +: (\d+).*?exitcode +: (-?\d+)", ended.stderr, re.DOTALL)
    assert first and first.groups() == ("0", "2"), ended.stderr


@pytest.mark.slow
def test_cli_one_process_from_the_shell_exits_with_2(tmp_path: Path) -> None:
    ended = run_new(["train", RECIPE, "--data", str(tmp_path), "--run-dir", str(tmp_path / "run")])
    assert ended.returncode == 2
    assert re.fullmatch(r"error: [^\n]+\n", ended.stderr)


@pytest.mark.slow
def test_changed_recipe_is_refused_with_the_difference_and_the_run_is_untouched(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["train", RECIPE, "--data", str(digits), "--run-dir", str(tmp_path / "run"), "--epochs", "1"]
    assert main(words) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capfd.readouterr()
    assert main([*words, "--optimizer.lr", "0.2", "--model.zero-init-residual"]) == 2
    said = capfd.readouterr().err
    assert "model.zero_init_residual: False -> True; optimizer.lr: 0.05 -> 0.2" in said
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_finished_run_says_so_and_how_its_weights_are_trained_further(
    digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train", RECIPE, "--data", str(digits), "--run-dir", str(tmp_path / "run"), "--no-pictures"]
    assert main([*words, "--epochs", "1"]) == 0
    assert "is finished" not in capfd.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr("trainer.train.train", None)  # neither torch nor the data is needed to say it
        assert main([*words, "--epochs", "1"]) == 0
    said = capfd.readouterr().out
    (advice,) = re.findall(
        r"run is finished: top-1 [\d.]+ % after \d+ steps. To measure it again: python -m trainer evaluate \S+. "
        r"To train its weights further: (.*)",
        said,
    )
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    assert main([*words, "--epochs", "2"]) == 2
    error = capfd.readouterr().err
    assert "epochs: 1 -> 2. Use another --run-dir, or the recipe as it was. To train its weights further: " in error
    assert advice in error
    weights = advice.partition("--initial-weights ")[2]
    words[words.index("--run-dir") + 1] = str(tmp_path / "second")
    assert main([*words, "--epochs", "1", "--initial-weights", weights]) == 0
    assert f"started from model in {Path(weights).name}" in capfd.readouterr().out


@pytest.mark.parametrize("task", [0, 1])
def test_copies_that_srun_started_are_refused_with_one_line(
    task: int, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["train", RECIPE, "--data", str(digits), "--run-dir", str(tmp_path / "run")]
    for name, value in {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": str(task), "RANK": "of no rank"}.items():
        monkeypatch.setenv(name, value)  # and what main sets is undone
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert main(words) == 2
    said = capfd.readouterr().err
    if task == 0:
        assert re.fullmatch(r"error: srun started 2 independent copies .* python -m launch slurm [^\n]*\n", said)
    else:
        assert said == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["1", "4", "20"])
def test_help_returns_in_the_narrowest_window(columns: str) -> None:
    environment = {**os.environ, "COLUMNS": columns}
    line = [sys.executable, "-m", "trainer", "compare", "--help"]
    ended = subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert ended.returncode == 0
    assert "--html" in ended.stdout


@pytest.mark.parametrize(
    ("images", "processes", "answer"),
    [
        (96, 2, "=48 cannot be shared by 2 processes in micro-batches of 16: use a multiple of 32, or None"),
        (47, 1, "=48 is more than the 47 training images: use a smaller --precise-norm-images, a multiple of 16, or"),
        (48, 3, None),
    ],
)
def test_norm_images_that_processes_cannot_share_are_refused(images: int, processes: int, answer: str | None) -> None:
    recipe, world = replace(load_recipe(RECIPE), precise_norm_images=48), cast(World, SimpleNamespace(size=processes))
    with pytest.raises(UserError, match=f"^precise_norm_images{answer}") if answer else nullcontext():
        check_norm_images(recipe, images, world)


def test_norms_are_measured_if_and_only_if_the_network_has_them() -> None:
    """SWA needs that, unless fine-tuning keeps the statistics; a library's network may have other norms."""
    small = load_recipe(RECIPE)
    plain, measured = replace(small, model=LibraryModel(name="timm/resnet18")), replace(small, precise_norm_images=96)
    averaged = replace(plain, swa=SWA(start_epoch=1))
    with_norms, without = nn.BatchNorm2d(3), nn.GroupNorm(1, 3)
    for recipe, module in (
        (small, with_norms),
        (small, without),
        (measured, with_norms),
        (averaged, without),
        (replace(averaged, precise_norm_images=96), with_norms),
        (replace(averaged, fine_tuning=FineTuning(freeze_norms=True)), with_norms),
    ):
        check_batch_norm(recipe, module)
    with pytest.raises(UserError, match=r"precise_norm_images=96 measures .* GroupNorm has none: use --precise-norm"):
        check_batch_norm(measured, without)
    with pytest.raises(UserError, match=r"BatchNorm2d has batch norm: set precise_norm_images, e.g. to 1024"):
        check_batch_norm(averaged, with_norms)


def test_compile_gets_a_note(tmp_path: Path) -> None:
    settings = TrainSettings(data="synthetic:2", run_dir=tmp_path)
    assert slow_start(settings) == []
    assert slow_start(replace(settings, compile=True)) == [
        "--compile: the first step compiles the model, which can take minutes"
    ]


@pytest.mark.slow
def test_cli_other_data_on_resume_is_refused(digits: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["train", RECIPE, "--run-dir", str(tmp_path / "run"), "--epochs", "1"]
    assert main([*words, "--data", str(digits)]) == 0
    assert main([*words, "--data", "synthetic:1437"]) == 2
    assert "was trained on other data" in capfd.readouterr().err


@pytest.mark.slow
def test_rank_that_dies_ends_the_run_in_bounded_time(digits: Path, tmp_path: Path) -> None:
    long = ["--epochs", "500", "--log-every", "2"]
    words = ["train", RECIPE, "--data", str(digits), "--run-dir", str(tmp_path), *long]
    process = start_new(words, 2)
    wait_for_step(process, tmp_path, 2)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode != 0
    # from torchrun's report, which may list rank 0's own end too
    assert re.search(r"rank +: 1 \(local_rank: 1\)\s+exitcode +: -9", said), said


@pytest.mark.slow
def test_image_that_one_rank_cannot_read_is_named_and_ends_the_run(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "data")
    bad = tmp_path / "data" / "train" / "class1" / "001.jpg"
    bad.write_bytes(bad.read_bytes()[:500])
    crop = ["--eval-crop.resolution", "48", "--train-crop.resolution", "48", "--num-classes", "4"]
    words = ["train", "resnet50_torchvision_v1", "--data", str(tmp_path / "data"), "--run-dir", str(tmp_path / "run")]
    small = ["--global-batch-size", "64", "--micro-batch-size", "32", "--epochs", "1", "--model.depth", "18"]
    ended = run([*words, *crop, *small], processes=2)
    (line,) = [line for line in ended.stderr.splitlines() if "001.jpg" in line]
    assert re.fullmatch(r"error: .*class1/001.jpg: image \d+ cannot be (opened|decoded): .*", line)
    assert ended.returncode != 0


def test_line_ends_and_terminal_codes_in_a_name_are_shown_not_sent(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "no\nsuch\x1b[31m", "--data", "d", "--run-dir", "r"]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "\x1b" not in said


def test_help_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "recipes" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["average", "compare", "predict", "look", "prepare parquet", "prepare adopt"])
def test_help_says_of_every_needed_argument_that_it_is_required(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert "(required)" in shown.partition("positional arguments")[2].partition("options")[0]
    assert "(default: )" not in shown


@dataclass(frozen=True, kw_only=True)
class Described:
    """Options with a text of two lines."""

    number: int = 0
    """the first line
    and the second"""


def test_help_breaks_no_line_where_the_docstring_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Described, ["--help"], "described")
    assert "the first line and the second (default: 0)" in capsys.readouterr().out


@pytest.mark.slow
def test_list_of_recipes_is_the_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    rows = [line for line in (ROOT / "recipes" / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == 86
    for row in rows:
        name, _, published, measured = (cell.strip(" `") for cell in row.split("|")[1:-1])
        (entry,) = re.findall(rf"^{name}: .*\n    published: (.*)\n    measured:  (.*)$", listed, re.MULTILINE)
        assert entry[0] == published or float(entry[0].split()[0]) == float(published.split()[0])
        assert entry[1] == measured


@pytest.mark.slow
def test_list_of_recipes_can_be_cut_to_some(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "goyal", "digits"]) == 0
    listed = capsys.readouterr().out
    assert "resnet50_goyal2017_8k: ResNet-50 on ImageNet" in listed
    assert "published: 76.26 +- 0.09 % top-1 (ImageNet val, 224 px centre crop" in listed
    assert "resnet20_digits: " in listed
    assert listed.count("published: ") == 7
    assert main(["recipes", "vit"]) == 2
    assert capsys.readouterr().err == "error: no recipe contains vit: python -m trainer recipes lists all 86\n"


@pytest.mark.slow
def test_reader_that_has_seen_enough_is_no_traceback() -> None:
    line = f"{sys.executable} -m trainer recipes | head -c 1 && exit ${{PIPESTATUS[0]}}"
    for _ in range(5):  # the pipe may close before or after the last line
        ended = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        assert ended.returncode in (0, 141)
        assert ended.stderr == ""
