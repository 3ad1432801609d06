"""Finished runs side by side: what counts, what is compared with what, and what is refused. Real runs, and made-up ones
where the numbers matter."""

import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.made_up_runs import START, stop_early, write_run
from tests.support.processes import ROOT, SUPPORT, metrics, run
from trainer.__main__ import main
from trainer.commands.compare.published import compared_values, not_comparable
from trainer.commands.compare.run_record import FinishedRun, Unfinished, read_run
from trainer.recipe import EMA, SGD, CenterCrop, LibraryModel, LibraryOptimizer, Recipe
from trainer.recipe_file import load_recipe, recipe_names, recipe_source
from trainer.run.init_weights import InitWeights
from trainer.run.teacher import Teacher

SMALL = SUPPORT / "small_recipe.py"
CIFAR = load_recipe("resnet20_he2015")
GOYAL = load_recipe("resnet50_goyal2017_8k")
X_PTH = InitWeights(kind="file", file="x.pth", sha256="0123456789ab" + "0" * 52)
Captured = pytest.CaptureFixture[str]


def told(capsys: Captured, *words: object) -> str:
    """What compare prints, in one line where white space is any."""
    assert main(["compare", *map(str, words)]) == 0, capsys.readouterr().err
    return " ".join(capsys.readouterr().out.split())


def refused(capsys: Captured, *words: object) -> str:
    assert main(["compare", *map(str, words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


# ---------------------------------------------------------------------------------------------------------- real runs


@pytest.fixture(scope="module")
def real(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two seeds of a small recipe, and one of them as if it had had another learning rate."""
    folder = tmp_path_factory.mktemp("real")
    for seed in (0, 1):
        where = ["--data", str(digits), "--run-dir", str(folder / f"s{seed}")]
        assert main(["train", str(SMALL), *where, "--seed", str(seed)]) == 0
    shutil.copytree(folder / "s0", folder / "slow")
    recipe = load_recipe(SMALL)
    slow = replace(recipe, optimizer=replace(recipe.optimizer, lr=0.02))
    (folder / "slow" / "recipe.py").write_text(recipe_source(slow))
    return folder


@pytest.mark.slow
def test_compare_real_runs_are_lined_up_by_recipe(real: Path, capsys: Captured) -> None:
    results = [json.loads((real / name / "result.json").read_text())["top1"] for name in ("s0", "s1", "slow")]
    text = told(capsys, real)
    mean, sd = statistics.fmean(results[:2]), statistics.stdev(results[:2])
    assert f"1 small 2 {mean:.2f} +- {sd:.2f} - - " in text  # two epochs have no median of five
    assert f"2 small (changed: optimizer.lr 0.02) 1 {results[2]:.2f} (one run: no sd) - - " in text
    assert "changed optimizer.lr: 0.05 -> 0.02" in text
    assert f"1 - 2: {mean - results[2]:+.2f} points; 2 is one run: noise unknown, so no conclusion" in text
    assert f"seeds 0 ({real / 's0'}), 1 ({real / 's1'}) published none" in text
    assert "protocol scikit-learn load_digits, val.beton: 360 of 360 images, 0 duplicates; 16 px" in text
    assert re.search(r"hardware 1 process on \d+ cores? of .*; torch [\d.]+\S*, commit ", text)


@pytest.mark.slow
def test_compare_images_and_time_come_from_the_metrics(real: Path, capsys: Captured) -> None:
    first = next(record for record in metrics(real / "s0") if record["kind"] == "eval")
    text = told(capsys, real / "s0", "--time-to-accuracy", 0.1, 100)
    assert f"to 0.1 % top-1 1: {first['step'] * 96:,} images, 1.0 epochs, " in text
    best = max(record["top1"] for record in metrics(real / "s0") if record["kind"] == "eval")
    assert f"to 100 % top-1 1: not reached, the best epoch has {best:.2f} %" in text


@pytest.mark.slow
def test_compare_it_works_in_a_pipe_without_torch(real: Path) -> None:
    ended = run(["compare", str(real)])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\x1b" not in ended.stdout and ended.stdout.isascii()
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["recipe", "1", "2"]
    hide = "import sys; sys.modules['torch'] = sys.modules['numpy'] = None"
    code = f"""{hide}
from pathlib import Path
from trainer.commands.compare.compare import compare
from trainer.settings import CompareSettings
compare(CompareSettings(runs=(Path({str(real)!r}),)))"""
    without = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (without.stdout, without.stderr) == (ended.stdout, "")


# ------------------------------------------------------------------------------------------------- what counts as a run


def test_compare_unfinished_runs_are_listed_and_do_not_count(tmp_path: Path, capsys: Captured) -> None:
    write_run(tmp_path / "a", CIFAR, [91.0])
    write_run(tmp_path / "b", CIFAR, [91.4], seed=1)
    stop_early(write_run(tmp_path / "c", CIFAR, [91.4], seed=2), lines=7)
    stop_early(write_run(tmp_path / "d", CIFAR, [91.4], seed=3), lines=0)
    text = told(capsys, tmp_path)
    assert "1 resnet20_he2015 2 91.20 +- 0.28" in text
    c = f"{tmp_path}/c: step 1,560 of 63,960, epoch 4.00 of 164; preliminary top-1 "
    assert f"not counted {c}" in text and f" {tmp_path}/d: no step of 164 epochs logged yet" in text
    assert "no finished run: " in refused(capsys, tmp_path / "c", tmp_path / "d")
    alone = refused(capsys, tmp_path / "c")
    assert f"python -m trainer train {tmp_path}/c/recipe.py --data DIR --run-dir {tmp_path}/c" in alone


def test_compare_unfinished_run_shows_its_last_accuracy_as_preliminary(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", CIFAR, [91.0, 91.4])
    stop_early(folder, lines=2 * CIFAR.epochs - 1)
    found = read_run(folder)
    assert isinstance(found, Unfinished)
    assert found.state == "step 63,960 of 63,960, epoch 164.00 of 164; preliminary top-1 91.00 % after epoch 163"


def test_run_started_over_does_not_count_by_its_old_result(tmp_path: Path, capsys: Captured) -> None:
    folder = write_run(tmp_path / "a", CIFAR, [91.0])
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:4]))
    state = "step 780 of 63,960, epoch 2.00 of 164; preliminary top-1 0.00 % after epoch 2"
    assert f"a ({state})" in refused(capsys, folder)


def test_compare_first_steps_of_a_long_epoch_do_not_give_the_total(tmp_path: Path, capsys: Captured) -> None:
    """Epochs are rounded to six digits: step 20 of 5,004 would be 5,003 or 5,004 an epoch."""
    folder = write_run(tmp_path / "a", load_recipe("resnet50_goyal2017"), [76.0])
    record = {"kind": "train", "step": 20, "epoch": 0.003997, "lr": 0.1, "loss": 7.0, "images_per_second": 100.0}
    (folder / "result.json").unlink()
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    assert "a (step 20, epoch 0.004 of 90)" in refused(capsys, folder)


def test_seed_counts_once(tmp_path: Path, capsys: Captured) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, CIFAR, [91.0])
    text = told(capsys, tmp_path, tmp_path / "a")
    assert "1 resnet20_he2015 1 91.00 (one run: no sd)" in text
    assert f"{tmp_path}/b: the same recipe and seed as {tmp_path}/a" in text


def test_runs_from_other_weights_are_a_different_row(tmp_path: Path, capsys: Captured) -> None:
    write_run(tmp_path / "a", CIFAR, [91.0])
    write_run(tmp_path / "b", CIFAR, [93.0], seed=1, init_weights=X_PTH)
    text = told(capsys, tmp_path)
    assert "2 resnet20_he2015 (changed: initial_weights x.pth (sha256:0123456789...) 1 93.00" in text
    assert "not compared, ours started from x.pth (sha256:0123456789ab)" in text


def test_rows_differ_by_the_weights_within_a_file_and_not_by_its_name(tmp_path: Path, capsys: Captured) -> None:
    ema = replace(X_PTH, key="state_dict_ema")
    starts = (replace(X_PTH, key="state_dict"), ema, replace(ema, file="renamed.pth"))
    for seed, start in enumerate(starts):
        write_run(tmp_path / str(seed), CIFAR, [91.0 + seed], seed=seed, init_weights=start)
    text = told(capsys, tmp_path)
    assert re.search(r"initial_weights state_dict in x\.pth [^ ]*\.\.\.\) 1 91\.00", text)
    assert re.search(r"initial_weights state_dict_ema in x\.pth [^ ]*\.\.\.\) 2 92\.50 \+- 0\.71", text)


@pytest.mark.parametrize(
    "start",
    [
        InitWeights(kind="recipe"),
        InitWeights(kind="pretrained"),
        InitWeights(kind="file", file="x, no averaging.pth (sha256:1)", sha256="0" * 64),
        replace(X_PTH, key="state_dict"),
    ],
)
def test_initial_weights_of_a_run_are_read_from_fields(start: InitWeights, tmp_path: Path) -> None:
    found = read_run(write_run(tmp_path / "a", CIFAR, [91.0], init_weights=start))
    assert isinstance(found, FinishedRun)
    assert found.init_weights == start


def blank(folder: Path, names: tuple[str, ...]) -> None:
    """Empties the sentences in result.json: a program that reads one would answer differently."""
    result = json.loads((folder / "result.json").read_text())
    assert set(names) <= result.keys()
    (folder / "result.json").write_text(json.dumps({**result, **dict.fromkeys(names, "")}))


@pytest.mark.slow
def test_compare_reads_no_sentence(real: Path, tmp_path: Path, capsys: Captured) -> None:
    """The same output from records whose sentences are blank, of real runs and of runs with initial weights."""
    shutil.copytree(real, tmp_path / "real")
    for seed, start in enumerate((None, X_PTH, InitWeights(kind="pretrained"))):
        write_run(tmp_path / f"a{seed}", GOYAL, [76.0] * 5, seed=seed, init_weights=start)
    folders = [path.parent for path in sorted(tmp_path.rglob("result.json"))]
    assert len(folders) == 6
    before = told(capsys, *folders, "--allow-different-protocols")
    for folder in folders:
        blank(folder, ("protocol_text", "changed", "published") if "real" in str(folder) else ("protocol_text",))
    assert told(capsys, *folders, "--allow-different-protocols") == before


def test_compare_no_published_sentence_decides_a_comparison(tmp_path: Path) -> None:
    """What was once found in the text of the protocol: statistic, number of runs, comparability, data set."""
    assert GOYAL.published
    blanked = replace(GOYAL.published, protocol="", source="")
    runs = []
    for seed in range(3):
        run = read_run(write_run(tmp_path / str(seed), GOYAL, [76.0 + seed, 76.0, 76.0, 76.0, 70.0], seed=seed))
        assert isinstance(run, FinishedRun)
        runs.append(run)
    assert not_comparable(runs[0], blanked) is None
    assert not_comparable(runs[0], replace(blanked, incomparable="ten crops")) == "the protocols differ: ten crops"
    assert compared_values(runs, blanked) == [76.0, 76.0, 76.0]
    assert compared_values(runs, replace(blanked, statistic="best")) == [76.0, 77.0, 78.0]
    assert compared_values(runs, replace(blanked, statistic="final")) == [70.0] * 3
    assert compared_values(runs, replace(blanked, statistic=None)) == [70.0] * 3


def test_compare_lines_up_a_sweep_by_its_values_as_numbers(tmp_path: Path, capsys: Captured) -> None:
    for lr, top1 in ((0.2, 91.0), (0.05, 90.0), (1.0, 88.0)):
        for seed in (0, 1):
            swept = replace(CIFAR, optimizer=replace(CIFAR.optimizer, lr=lr), flip=lr < 1)
            write_run(tmp_path / f"lr={lr}_seed{seed}", swept, [top1 + seed], seed=seed)
    assert main(["compare", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    section = out.split("\nby varied values\n")[1].split("\n\n")[0]
    assert [line.split() for line in section.splitlines()] == [
        ["flip", "optimizer.lr", "n", "top-1,", "%", "row"],
        ["False", "1.0", "2", "88.50", "+-", "0.71", "3"],
        ["True", "0.05", "2", "90.50", "+-", "0.71", "1"],
        ["True", "0.2", "2", "91.50", "+-", "0.71", "2"],
    ]


def test_compare_rows_differ_by_the_options_of_a_library_optimizer(tmp_path: Path, capsys: Captured) -> None:
    for number, betas in enumerate([(0.9, 0.99), (0.9, 0.99), (0.95, 0.98)]):
        lion = LibraryOptimizer(lr=1e-3, name="timm/lion", options={"betas": betas})
        write_run(tmp_path / str(number), replace(CIFAR, optimizer=lion), [91.0 + number], seed=number)
    text = told(capsys, tmp_path)
    assert " 2 91.50 +- 0.71 " in text and " 1 93.00 (one run: no sd) " in text
    assert "optimizer.options.betas n top-1, % row (0.9, 0.99) 2 91.50 +- 0.71 1 (0.95, 0.98) 1 93.00 2" in text


def test_compare_has_no_varied_values_where_recipes_differ_in_nothing(tmp_path: Path, capsys: Captured) -> None:
    write_run(tmp_path / "a", CIFAR, [91.0])
    write_run(tmp_path / "b", CIFAR, [91.0], seed=1)
    assert "by varied values" not in told(capsys, tmp_path)


def test_result_of_a_different_version_is_refused(tmp_path: Path, capsys: Captured) -> None:
    """Before protocols were fields, result.json had a sentence under the same name."""
    folder = write_run(tmp_path / "a", CIFAR, [91.0])
    result = json.loads((folder / "result.json").read_text())
    old = {**result, "protocol": result["protocol_text"], "seen": 10_000, "duplicates": 0, "total": 10_000}
    (folder / "result.json").write_text(json.dumps(old))
    assert "result.json has no protocol as fields: another version of the trainer wrote it" in refused(capsys, folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"resolution": "32"}, "protocol: resolution='32' is not of type int"),
        ({"views": 3}, "protocol: views=3 is not one of 1, 2"),
        ({"weights": None}, "protocol: WeightsFile needs exactly file, sha256"),
        ({"weights": {"file": "x.pth", "sha256": "0", "key": ""}}, "protocol: its weights are not those of a run"),
        ({"more": 1}, "protocol: Protocol needs exactly dataset, split, "),
    ],
)
def test_protocol_of_other_fields_is_refused(tmp_path: Path, capsys: Captured, change: dict, says: str) -> None:
    assert says in refused(capsys, write_run(tmp_path / "a", CIFAR, [91.0], protocol=change))


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("result.json", "{", "result.json is damaged or cannot be read"),
        ("result.json", "[]", "result.json is damaged: it is no JSON object"),
        ("result.json", "[" * 100_000, "result.json is damaged or cannot be read: maximum recursion depth exceeded"),
        ("result.json", '{"top1": 91.0}', "result.json is damaged: seed is None"),
        ("metrics.jsonl", '{"kind": "train"}\n' * 2, "metrics.jsonl is damaged, line 1"),
        ("metrics.jsonl", "no\n" * 3, "metrics.jsonl is damaged, line 1"),
        ("metrics.jsonl", "", "has a result.json, but no metrics.jsonl"),
        ("metrics.jsonl", b"\xff\xfe", "metrics.jsonl is damaged, line 1"),
        ("starts.json", "[1]", "starts.json is damaged: remove it, result.json has a copy"),
        ("starts.json", "{}", "starts.json is damaged: remove it, result.json has a copy"),
        ("recipe.py", '"""The resolved recipe of a run', "recipe.py: not a recipe: SyntaxError"),
    ],
)
def test_compare_damaged_run_is_one_line(
    tmp_path: Path, capsys: Captured, file: str, content: str | bytes, says: str
) -> None:
    """An error where it was named, a line of the table where it was found beside others."""
    write_run(tmp_path / "good", CIFAR, [91.0])
    bad = write_run(tmp_path / "bad", CIFAR, [91.0], seed=1)
    (bad / file).write_bytes(content.encode() if isinstance(content, str) else content)
    assert says in refused(capsys, tmp_path / "good", bad)
    text = told(capsys, tmp_path)
    assert "1 resnet20_he2015 1 91.00" in text and says in text.partition("not counted")[2]


def test_result_that_the_metrics_do_not_hold_is_refused(tmp_path: Path, capsys: Captured) -> None:
    folder = write_run(tmp_path / "a", CIFAR, [91.0])
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "top1": 95.0}))
    assert "ends with 91.0 % after epoch 164.0, result.json has 95.0 %" in refused(capsys, folder)


def test_compare_what_is_no_run_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    assert "there is no such folder" in refused(capsys, tmp_path / "nowhere")
    assert "is not the folder of a run" in refused(capsys, tmp_path)
    (tmp_path / "recipe.py").write_text("raise SystemExit('somebody else's code was run')")  # a person's own file
    assert "is not the folder of a run" in refused(capsys, tmp_path)
    assert "which runs?" in refused(capsys)
    assert "is not an accuracy" in refused(capsys, tmp_path, "--time-to-accuracy", "0")


# -------------------------------------------------------------------------------------------- different protocols


@pytest.mark.parametrize(
    ("recipe", "more", "first", "second"),
    [
        (
            replace(CIFAR, eval_crop=CenterCrop(resolution=40, crop_ratio=1.0)),
            {},
            "resolution 32 px",
            "resolution 40 px",
        ),
        (
            replace(CIFAR, eval_crop=CenterCrop(resolution=32, crop_ratio=0.875)),
            {},
            "crop 1.000 x short side",
            "crop 0.875 x short side",
        ),
        (
            replace(CIFAR, eval_crop=CenterCrop(resolution=32, crop_ratio=1.0, flip_tta=True)),
            {},
            "views one view",
            "views two views",
        ),
        (
            replace(CIFAR, eval_crop=CenterCrop(resolution=32, crop_ratio=1.0, scaled_decoding=True)),
            {},
            "decoding full",
            "decoding scaled",
        ),
        (replace(CIFAR, precise_norm_images=640), {}, "norms running averages", "norms measured over 640 images"),
        (
            CIFAR,
            {"val": "sha256:" + "2" * 64},
            "validation data sha256:111111111111",
            "validation data sha256:222222222222",
        ),
        (
            CIFAR,
            {"data": {"train": "sha256:" + "3" * 64, "val": "sha256:" + "1" * 64}},
            "training data sha256:000000000000",
            "training data sha256:333333333333",
        ),
        (
            CIFAR,
            {"protocol": {"images_total": 9999}},
            "images 10,000 of 10,000, 0 duplicates",
            "images 10,000 of 9,999, 0 duplicates",
        ),
    ],
)
def test_compare_different_protocols_are_refused_and_named(
    tmp_path: Path, capsys: Captured, recipe: Recipe, more: dict, first: str, second: str
) -> None:
    a, b = write_run(tmp_path / "a", CIFAR, [91.0]), write_run(tmp_path / "b", recipe, [91.0], seed=1, **more)
    remedy = "Compare such runs apart, or add --allow-different-protocols"
    assert f"protocols or data differ: {first} ({a}); {second} ({b}). {remedy}" in refused(capsys, a, b)
    text = told(capsys, a, b, "--allow-different-protocols")
    assert f" differ {first} ({a}) {second} ({b}) " in text
    name = next(name for name in ("validation data", "training data", first.split()[0]) if first.startswith(name))
    no_conclusion = f"different protocols ({name}): not of the recipes alone, so no conclusion"
    assert f" 1 - 2: +0.00 points; {no_conclusion} " in text


def test_compare_averages_no_runs_on_other_images_or_of_other_teachers(tmp_path: Path, capsys: Captured) -> None:
    """Each run is a row, with the others' recipe and a seed of its own."""
    whole = {"images_total": 10_000, "images_seen": 10_000, "duplicates": 0}
    for number, protocol in enumerate(({}, {"images_total": 9_999}, {"images_seen": 9_999}, {"duplicates": 1})):
        write_run(tmp_path / f"images/{number}", CIFAR, [91.0 + number], seed=number, protocol={**whole, **protocol})
    (tmp_path / "images/3/starts.json").write_text(json.dumps([{**START, "cpu": "Another CPU"}]))
    text = told(capsys, tmp_path / "images", "--allow-different-protocols")
    images = ("10,000 of 10,000, 0", "10,000 of 9,999, 0", "9,999 of 10,000, 0", "10,000 of 10,000, 1")
    for row, counts in enumerate(images, 1):
        label = f"resnet20_he2015 (images {counts} duplicates)"
        assert f" {row} {label} 1 {90 + row}.00 (one run: no sd) " in f" {text}"
    assert text.count("points; different protocols (images): not of the recipes alone, so no conclusion") == 6
    assert " hardware or versions differ between rows, so images/s and times are not of the recipes alone " in text
    for number, sha256 in enumerate("ab"):
        teacher = Teacher(network="resnet50", file=None, sha256=sha256 * 64)
        write_run(tmp_path / f"teachers/{number}", CIFAR, [91.0 + number], seed=number, teacher=teacher)
    text = told(capsys, tmp_path / "teachers")
    for row, sha256 in enumerate("ab", 1):
        label = f"resnet20_he2015 (teacher resnet50 (published weights, sha256:{sha256 * 12}))"
        assert f" {row} {label} 1 {90 + row}.00 " in f" {text}"
    assert "hardware or versions differ" not in text and "different protocols" not in text


def test_compare_concludes_nothing_across_validation_sets(tmp_path: Path, capsys: Captured) -> None:
    """However many seeds there are: easier images are no better recipe."""
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", CIFAR, [81.0 + seed / 10], seed=seed)
        write_run(tmp_path / f"b{seed}", CIFAR, [91.0 + seed / 10], seed=seed, val="sha256:" + "2" * 64)
    text = told(capsys, tmp_path, "--allow-different-protocols", "--html", tmp_path / "report.html")
    for row, top1, digit in ((1, 81, "1"), (2, 91, "2")):
        label = f"resnet20_he2015 (validation data sha256:{digit * 12})"
        assert f" {row} {label} 3 {top1}.10 +- 0.10 " in f" {text}"
    assert (
        " 1 - 2: -10.00 points; different protocols (validation data): not of the recipes alone, so no conclusion "
        in text
    )
    assert "is better" not in text and "enough to tell" not in text
    html = (tmp_path / "report.html").read_text()
    assert html.index("81.10 +- 0.10") < html.index("91.10 +- 0.10")  # not ranked


def write_at(commit: str | None, folder: Path, top1: float, *, seed: int, then: str | None = None) -> Path:
    """A run at a commit, `then` continued at another."""
    write_run(folder, CIFAR, [top1], seed=seed)
    starts = [{**START, "commit": one} for one in (commit, then) if one]
    (folder / "starts.json").write_text(json.dumps(starts))
    return folder


def test_compare_names_the_commits_of_a_row(tmp_path: Path, capsys: Captured) -> None:
    for seed, commit in enumerate(("aaaa", "aaaa", "bbbb+", None)):
        write_at(commit, tmp_path / str(seed), 91.0 + seed, seed=seed)
    text = told(capsys, tmp_path)
    assert "1 resnet20_he2015 4 92.50 +- 1.29" in text
    commits = "commits differ within this row: aaaa (seeds 0, 1); bbbb+ (seed 2); not recorded (seed 3)"
    assert f" {commits} hardware " in text
    assert "differ within" not in told(capsys, tmp_path / "0", tmp_path / "1", tmp_path / "3")


def test_compare_commits_that_share_a_seed_are_rows(tmp_path: Path, capsys: Captured) -> None:
    """Old code against new code; a run that continued at the new commit is neither."""
    for seed in range(3):
        write_at("aaaa", tmp_path / f"a{seed}", 91.0 + seed / 10, seed=seed)
        write_at("bbbb", tmp_path / f"b{seed}", 92.0 + seed / 10, seed=seed)
    write_at("aaaa", tmp_path / "c", 90.0, seed=3, then="bbbb")
    write_at("bbbb", tmp_path / "d", 95.0, seed=0)
    text = told(capsys, tmp_path)
    assert " 1 resnet20_he2015 (commit aaaa) 3 91.10 +- 0.10 " in f" {text}"
    assert " 2 resnet20_he2015 (commit bbbb) 3 92.10 +- 0.10 " in text
    assert " 3 resnet20_he2015 (commit aaaa then bbbb) 1 90.00 (one run: no sd) " in text
    assert " 1 - 2: -1.00 points, 95 % interval -1.23 to -0.77: 2 is better; " in text
    repeated = f"{tmp_path}/d: the same recipe and seed as {tmp_path}/b0 at commit bbbb: not an independent run"
    assert f"not counted {repeated} " in text


def test_compare_seed_of_an_unknown_commit_is_no_other_code(tmp_path: Path, capsys: Captured) -> None:
    a, b = write_at("aaaa", tmp_path / "a", 91.0, seed=0), write_at(None, tmp_path / "b", 92.0, seed=0)
    text = told(capsys, a, b)
    assert "1 resnet20_he2015 1 91.00 (one run: no sd)" in text
    assert f"{b}: the same recipe and seed as {a}: not an independent run" in text


def test_compare_hardware_of_a_run_without_starts_is_that_of_its_result(tmp_path: Path, capsys: Captured) -> None:
    """The error of a damaged starts.json says to remove it. What no file records is not different hardware."""
    deep = load_recipe("resnet32_he2015")
    write_run(tmp_path / "a", CIFAR, [91.0])
    copied, lost = (write_run(tmp_path / name, deep, [92.0], seed=seed) for seed, name in enumerate("bc"))
    for folder, starts in ((copied, [{**START, "cpu": "Another CPU"}]), (lost, [])):
        (folder / "starts.json").unlink()
        result = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps({**result, "starts": starts}))
    text = told(capsys, tmp_path)
    assert "cores of Another CPU; torch 2.10.0, commit 0123456789ab hardware not recorded protocol" in text
    assert "hardware or versions differ between rows" in text
    text = told(capsys, tmp_path / "a", lost)
    assert "hardware not recorded" in text and "hardware or versions differ" not in text
    (lost / "result.json").write_text(json.dumps({**result, "starts": [1]}))
    assert f"{lost}/result.json is damaged: starts is [1]" in refused(capsys, lost)


def test_compare_hardware_is_the_same_in_any_order_of_the_seeds(tmp_path: Path, capsys: Captured) -> None:
    for name, recipe in (("a", CIFAR), ("b", load_recipe("resnet32_he2015"))):
        for seed in (0, 1):
            folder = write_run(tmp_path / f"{name}{seed}", recipe, [91.0 + seed], seed=seed)
            (folder / "starts.json").write_text(json.dumps([{**START, "cpu": f"CPU {seed ^ (name == 'a')}"}]))
    text = told(capsys, tmp_path)
    assert text.count("of CPU 0;") == text.count("of CPU 1;") == 2 and "hardware or versions differ" not in text


@pytest.mark.slow
def test_averaged_weights_differ_from_the_last_ones(real: Path, tmp_path: Path, capsys: Captured) -> None:
    small = load_recipe(SMALL)
    averaged = write_run(tmp_path / "a", replace(small, ema=EMA(decay=0.9)), [91.0])
    text = (averaged / "metrics.jsonl").read_text()
    (averaged / "metrics.jsonl").write_text(text + text.splitlines()[-1].replace('"eval"', '"eval_ema"') + "\n")
    error = refused(capsys, real, averaged)
    assert "weights last, " in error and f"({real}/s0, {real}/s1, {real}/slow)" in error
    assert "weights averaged, " in error and f"({averaged})" in error


# ------------------------------------------------------------------------------------------------- published, and pairs


def test_compare_ours_is_held_against_the_published_number_with_the_noise_of_both(
    tmp_path: Path, capsys: Captured
) -> None:
    """Goyal's 8k: the median of the last five epochs, 5 runs with a deviation of 0.09."""
    assert GOYAL.published and GOYAL.published.sd == 0.09
    top1 = GOYAL.published.top1
    for seed, delta in enumerate((-0.1, 0.0, 0.1)):
        write_run(tmp_path / f"s{seed}", GOYAL, [top1 + delta + offset for offset in (0.5, 0, 0, 0, -0.5)], seed=seed)
    text = told(capsys, tmp_path)
    assert (
        f"{top1 - 0.5:.2f} +- 0.10 {top1:.2f} +- 0.10 +0.00, within noise 1,000 31.95 h" in text
    )  # 156 x 8192 x 90 images
    assert "ours, median of the last 5 epochs, +0.00 points (95 % interval -0.20 to +0.20): within the noise" in text


def lose_evaluations(folder: Path, *epochs: float) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["kind"] == "train" or json.loads(line)["epoch"] not in epochs]
    (folder / "metrics.jsonl").write_text("".join(kept))


def test_compare_last_five_are_epochs_and_not_records(tmp_path: Path, capsys: Captured) -> None:
    """A run without one of them has no median, and is not held against a published one."""
    top1 = [60.0, 60.0, 76.0, 76.1, 76.2, 76.3, 76.4]
    folders = [write_run(tmp_path / str(seed), GOYAL, top1, seed=seed) for seed in range(3)]
    lose_evaluations(folders[0], GOYAL.epochs - 3)
    lose_evaluations(folders[1], GOYAL.epochs - 5)  # the sixth from the end
    text = told(capsys, tmp_path)
    assert "1 resnet50_goyal2017_8k 3 76.40 +- 0.00 76.20 +- 0.00 (2 of 3 runs) -0.06, within noise" in text
    assert "ours, median of the last 5 epochs, -0.06 points (2 of 3 runs) (95 % interval " in text
    alone = told(capsys, folders[0])
    assert "1 resnet50_goyal2017_8k 1 76.40 (one run: no sd) - - 1,000" in alone
    assert "not compared, no run of ours has an evaluation of each of its last 5 epochs" in alone


@pytest.mark.parametrize(
    ("top1", "says"),
    [
        ([91.15, 91.45], "ours +0.05 points (95 % interval -3.25 to +3.35): within the noise, published without dev"),
        ([91.5, 91.6, 91.7], "ours +0.35 points (95 % interval -0.15 to +0.85): within the noise, published without"),
        ([91.8, 91.9, 92.0], "ours +0.65 points (95 % interval +0.15 to +1.15): outside the noise, published without"),
        ([91.5], "ours +0.25 points; one run: noise unknown"),
        ([91.5, 91.5], "ours +0.25 points; 2 equal results, published without deviation: noise unknown"),
    ],
)
def test_compare_where_no_deviation_was_published_theirs_is_ours(
    tmp_path: Path, capsys: Captured, top1: list[float], says: str
) -> None:
    for seed, value in enumerate(top1):
        write_run(tmp_path / f"s{seed}", CIFAR, [value], seed=seed)
    assert says in told(capsys, tmp_path)


def test_number_of_runs_that_is_not_stated_is_one(tmp_path: Path, capsys: Captured) -> None:
    recipe = load_recipe("resnet50_nvidia_90ep")
    for seed in range(3):
        write_run(tmp_path / f"s{seed}", recipe, [77.0 + seed / 100], seed=seed)
    half = statistics.NormalDist().inv_cdf(0.975) * math.hypot(0.11, 0.01 / math.sqrt(3))
    found = re.search(
        r"95 % interval (\S+) to (\S+)\): within the noise, published without number of runs", told(capsys, tmp_path)
    )
    assert found and float(found[1]) == pytest.approx(-0.11 - half, abs=0.006)


def test_compare_what_is_not_the_published_experiment_is_not_compared(tmp_path: Path) -> None:
    def reason(name: str, recipe: Recipe = CIFAR, **more: object) -> str | None:
        found = read_run(write_run(tmp_path / name, recipe, [70.0], **more))  # type: ignore[arg-type]
        assert isinstance(found, FinishedRun) and recipe.published
        return not_comparable(found, recipe.published)

    assert reason("as it is") is None
    assert reason("changed", replace(CIFAR, optimizer=SGD(lr=0.2))) == "the recipe was changed"
    assert "a recipe of your own" in str(reason("own", replace(CIFAR, name="mine")))
    assert reason("ten crops", load_recipe("resnet18_he2015")) == "the protocols differ: ours is one centre crop"
    assert "not on the 10,000 of CIFAR-10" in str(reason("subset", protocol={"images_total": 360, "images_seen": 360}))
    assert "9,999 of 10,000 images" in str(reason("left out", protocol={"images_seen": 9_999}))
    assert reason("noise", val="synthetic:10000") == "ours is on labelled noise"
    small = write_run(tmp_path / "part", replace(CIFAR, global_batch_size=128), [70.0])
    text = (small / "metrics.jsonl").read_text()
    steps = re.sub(r'"step": (\d+)', lambda found: f'"step": {int(found[1]) // 390 * 11}', text)
    (small / "metrics.jsonl").write_text(steps)
    found = read_run(small)
    assert isinstance(found, FinishedRun) and CIFAR.published
    assert "ours has 11 steps in an epoch: not the 50,000 images" in str(not_comparable(found, CIFAR.published))


@pytest.mark.parametrize("name", ["resnet50_beyer2022", "resnet50d_he2019_distilled"])
def test_compare_teacher_from_a_file_is_not_the_published_one(tmp_path: Path, capsys: Captured, name: str) -> None:
    """Whether its network is published by a library or, as He et al.'s, is always a file."""
    weak = Teacher(network="a network", file="weak.pth", sha256="f" * 64)
    text = told(capsys, write_run(tmp_path / "a", load_recipe(name), [70.0], teacher=weak))
    assert f"1 {name} (changed) 1 70.00 (one run: no sd) 0.00 (one run: no sd) - 1,000 " in text
    assert "not compared, ours was distilled from a network (weak.pth, sha256:ffffffffffff), which nothing" in text


@pytest.mark.slow
def test_compare_every_published_result_is_compared_but_those_of_ten_crops_and_of_a_file(tmp_path: Path) -> None:
    """The teacher of a run is a file where its recipe names no published weights."""
    refused_names = []
    recipes = [load_recipe(name) for name in recipe_names()]
    published = [recipe for recipe in recipes if recipe.published and recipe.ema is None]
    assert len(published) >= 50
    for recipe in published:
        spec = recipe.distillation and recipe.distillation.teacher
        file = None if isinstance(spec, LibraryModel) else "teacher.pt"
        teacher = Teacher(network="any", file=file, sha256="f" * 64) if spec else None
        found = read_run(write_run(tmp_path / recipe.name, recipe, [70.0], teacher=teacher))
        assert isinstance(found, FinishedRun) and recipe.published
        if not_comparable(found, recipe.published):
            refused_names.append(recipe.name)
    ten_crops = ["plain18_he2015", "plain34_he2015", "resnet18_he2015", "resnet34_he2015"]
    assert refused_names == [*ten_crops, "resnet50d_he2019_200ep_distilled", "resnet50d_he2019_distilled"]


def test_report_says_whether_the_seeds_are_enough(tmp_path: Path, capsys: Captured) -> None:
    deep = load_recipe("resnet32_he2015")
    for seed, (first, second) in enumerate(((91.1, 92.4), (91.3, 92.5), (91.2, 92.6))):
        write_run(tmp_path / f"few/a{seed}", CIFAR, [first], seed=seed)
        write_run(tmp_path / f"few/b{seed}", deep, [second], seed=seed)
    assert (
        "1 - 2: -1.30 points, 95 % interval -1.53 to -1.07: 2 is better; 3 seeds and 3 seeds are enough to tell"
        in told(capsys, tmp_path)
    )
    other_way_round = told(capsys, *sorted((tmp_path / "few").iterdir(), reverse=True))
    assert "1 - 2: +1.30 points, 95 % interval +1.07 to +1.53: 1 is better; 3 seeds and" in other_way_round
    assert "would still be called better" not in other_way_round
    write_run(tmp_path / "few/b3", deep, [88.0], seed=3)
    assert "3 seeds and 4 seeds are not enough to tell them apart" in told(capsys, tmp_path)


def test_compare_several_intervals_say_how_often_one_is_wrong(tmp_path: Path, capsys: Captured) -> None:
    """Three pairs with an interval; those with the row of one run have none."""
    for number, name in enumerate(("resnet20_he2015", "resnet32_he2015", "resnet44_he2015")):
        for seed in (0, 1):
            write_run(tmp_path / f"{number}{seed}", load_recipe(name), [91.0 + number + seed / 10], seed=seed)
    write_run(tmp_path / "3", load_recipe("resnet56_he2015"), [94.0])
    chance = (
        "3 intervals: if all these rows were equally good, one or more would still be called better in up to 14 of 100"
    )
    assert chance in told(capsys, tmp_path)


def test_mean_of_reaching_is_of_the_runs_that_do(tmp_path: Path, capsys: Captured) -> None:
    write_run(tmp_path / "a", CIFAR, [80.0, 90.0], rate=500)
    write_run(tmp_path / "b", CIFAR, [90.0, 90.0], seed=1, rate=1000)
    write_run(tmp_path / "c", CIFAR, [80.0, 89.9], seed=2)
    images = 390 * 128 * 163.5
    seconds = (390 * 128 * 164 / 500 + 390 * 128 * 163 / 1000) / 2
    expected = f"1: {images:,.0f} images, 163.5 epochs, {seconds / 3600:.2f} h of training (2 of 3 runs, the mean is of"
    assert expected in told(capsys, tmp_path, "--time-to-accuracy", 90)


def test_compare_time_is_the_sum_of_each_records_own(tmp_path: Path) -> None:
    """A rate holds for the steps since the record before, and the last one for those that come after it."""
    folder = write_run(tmp_path / "a", CIFAR, [91.0])
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = {390: 128.0, 780: 256.0, 1170: 64.0}
    kept = [
        {**record, "images_per_second": rates[record["step"]]} if record["kind"] == "train" else record
        for record in records
        if record["kind"] == "eval" or record["step"] in rates
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    found = read_run(folder)
    assert isinstance(found, FinishedRun)
    expected = {100: 100.0, 390: 390.0, 400: 395.0, 780: 585.0, 1170: 1365.0, 1270: 1565.0}
    assert {step: found.seconds(step) for step in expected} == expected


def test_compare_many_rows_are_each_compared_with_the_first(tmp_path: Path, capsys: Captured) -> None:
    for number in range(8):
        write_run(tmp_path / str(number), replace(CIFAR, optimizer=SGD(lr=0.1 + number)), [91.0])
    text = told(capsys, tmp_path)
    assert "of 8 rows, each against the first only" in text
    assert text.count("both are one run") == 7
