"""What stands before the recipe is the launcher's, after it the job's; numbers that do not fit are refused."""

import itertools
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from launch import jobs
from launch.__main__ import main
from launch.command_line import parse, parse_launch, runs_of
from launch.habits import ANSWERS
from launch.layout import Layout, layout_of
from launch.local import launch as local
from launch.local.launch import Local
from launch.local.settings import LocalSettings
from launch.local.torchrun import Ended
from launch.settings import PreflightSettings, ProcessSettings
from launch.slurm import launch as slurm
from launch.slurm.launch import Slurm
from launch.slurm.settings import SlurmSettings
from launch.slurm.time import minutes_of
from trainer.cli.parse import parse_train, train_argv
from trainer.errors import UserError
from trainer.recipe_file import load_recipe, recipe_source

NEEDED = ["--data", "synthetic:64", "--run-dir", "runs"]


def test_options_recipes_and_words_of_the_job_are_distinguished() -> None:
    words = "--nodes 4 --gpus-per-node=8 --no-preflight --setup a --setup=b --seeds 0 1 2 one two.py --data D --seed 3"
    options, recipes, job = parse_launch(SlurmSettings, words.split(), "slurm")
    assert (options.nodes, options.gpus_per_node, options.preflight) == (4, 8, False)
    assert (options.setup, options.seeds) == (("a", "b"), (0, 1, 2))
    assert recipes == ["one", "two.py"]
    assert job == ["--data", "D", "--seed", "3"]


@pytest.mark.parametrize(("gpus", "device"), [(8, "cuda"), (0, None)])
def test_launch_local_holds_every_start_to_the_gpus_that_it_sees(
    gpus: int, device: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later start may see none of them."""
    monkeypatch.setattr(local, "_gpus", lambda: gpus)
    assert Local().train_options(LocalSettings(processes=2)).get("--device") == device


@pytest.mark.parametrize(
    ("gpus", "given", "processes"),
    [(8, {}, 8), (0, {}, 1), (8, {"gpus_per_node": 2}, 2), (8, {"processes_per_node": 3}, 3)],
)
def test_preflight_without_slurm_checks_all_gpus_of_this_machine(
    gpus: int, given: dict[str, int], processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    monkeypatch.setattr(local, "_gpus", lambda: gpus)
    monkeypatch.setattr(local, "torchrun", lambda count, *_, **__: started.append(count) or Ended())
    assert Local().run(PreflightSettings(**given), "launch.preflight", []) == 0
    assert started == [processes]


@pytest.mark.parametrize(("gpus", "device"), [(8, "cuda"), (0, "cpu"), (None, None)])
def test_launch_slurm_trains_on_what_the_job_asks_for(
    gpus: int | None, device: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on CPUs of nodes that have GPUs. None: the partition does not say whether it has any."""
    monkeypatch.setattr(slurm, "resolved", lambda options: options)
    assert Slurm().train_options(SlurmSettings(gpus_per_node=gpus)).get("--device") == device


@pytest.mark.parametrize(
    ("recipe", "options", "submitted"),
    [
        ("resnet20_digits", [], False),
        ("resnet20_digits", ["--initial-weights", "a.pt"], True),
        ("resnet50d_he2019_distilled", ["--teacher-weights", "a.pt"], True),
    ],
)
def test_finished_run_with_a_file_is_left_to_the_training_to_check(
    recipe: str,
    options: list[str],
    submitted: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The launcher cannot see whether the teacher's or the initial weights are still those of the run."""
    monkeypatch.chdir(tmp_path)
    sent: list[Any] = []
    monkeypatch.setattr(jobs, "finished", lambda *_: "it is finished")
    monkeypatch.setattr(Local, "submit", lambda self, options, runs: sent.extend(runs) or int)
    assert main(["local", "--processes", "1", recipe, *NEEDED, *options]) == 0
    assert len(sent) == submitted
    assert ("it is finished" in capsys.readouterr().out) != submitted


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (["-N", "4", "-p", "gpu"], ["-N: --nodes", "-p: --partition"]),
        (["--ntasks-per-node=8"], ["--ntasks-per-node: follows from --nodes with --gpus-per-node"]),
        (["--nproc_per_node", "8"], ["--nproc-per-node: --processes of launch local"]),
    ],
)
def test_options_of_sbatch_and_torchrun_are_answered_with_ours(words: list[str], answers: list[str]) -> None:
    with pytest.raises(UserError, match="Unrecognized options") as caught:
        parse_launch(SlurmSettings, [*words, "resnet20_digits"], "slurm")
    assert all(f"Instead of {answer}" in str(caught.value) for answer in answers)
    assert str(caught.value).count("Instead of") == len(answers)


def test_habits_name_options_that_there_are() -> None:
    known = {f"--{field.name.replace('_', '-')}" for kind in (SlurmSettings, LocalSettings) for field in fields(kind)}
    named = {option for answer in ANSWERS.values() for option in re.findall(r"--[\w-]+", answer)}
    assert len(ANSWERS) >= 17 and named <= known
    assert not known & ANSWERS.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nods", "4", "resnet20_digits"], "did you mean --nodes"),
        (["--nodes", "4"], "which recipe?"),
        (["--nodes", "four", "resnet20_digits"], "--nodes"),
        (["--nodes", "0", "resnet20_digits"], "nodes=0 is not a positive number"),
        (["--time", "soon", "resnet20_digits"], "time=soon is not MINUTES"),
        (["--time", "3", "resnet20_digits"], "--signal-seconds 120"),
        (
            ["--gpus", "12", "--gpus-per-node", "8", "resnet20_digits", *NEEDED],
            "12 do not fill nodes of 8: use 8 or 16",
        ),
        (["--nodes", "3", "resnet20_digits", *NEEDED], "3 processes cannot share global_batch_size"),
        (["resnet20_digits", *NEEDED, "--optimizer.lrr", "1"], "did you mean --optimizer.lr"),
        (["resnet20_digitz", *NEEDED], "did you mean resnet20_digits"),
        (["--seeds", "0", "1", "resnet20_digits", *NEEDED, "--seed", "4"], "use only one of them"),
        (["--seeds", "0", "0", "resnet20_digits", *NEEDED], "names one twice"),
        (["resnet20_digits", "resnet20_digits", *NEEDED], "two runs would be called resnet20_digits"),
        (["--vary", "optimizer.lr", "resnet20_digits", *NEEDED], "is not SETTING=VALUE,VALUE"),
        (["--vary", "optimizer.lr=0.1,,0.2", "resnet20_digits", *NEEDED], "is not SETTING=VALUE,VALUE"),
        (["--vary", "optimizer.lr=0.1,0.1", "resnet20_digits", *NEEDED], "names 0.1 twice"),
        (
            ["--vary", "epochs=2,4", "--vary", "optimizer.lr=0.1,0.10", "resnet20_digits", *NEEDED],
            "be the same training",
        ),
        (["--vary", "epochs=2", "--vary", "epochs=4", "resnet20_digits", *NEEDED], "--vary epochs is given twice"),
        (["--vary", "epochs=2,four", "resnet20_digits", *NEEDED], "--vary epochs=four: "),
        (["--vary", "optimizer.lr=0.1,-1", "resnet20_digits", *NEEDED], "--vary optimizer.lr=-1: "),
        (["--vary", "optimizer.lrr=0.1,1", "resnet20_digits", *NEEDED], "did you mean --optimizer.lr"),
        (["--vary", "global_batch_size=48,49", "resnet20_digits", *NEEDED], "--vary global_batch_size=49: "),
        (
            ["--vary", "initial_weights=bob's.pt,b.pt", "resnet20_digits", *NEEDED],
            "bob's.pt is not words (No closing quotation): write 'bob'\"'\"'s.pt' for all of it",
        ),
        (["--vary", "seed=0,1", "resnet20_digits", *NEEDED], "use --seeds 0 1 2"),
        (["--vary", "data=a,b", "resnet20_digits", *NEEDED], "launch once for each data set"),
        (["--vary", "epochs=2,4", "resnet20_digits", *NEEDED, "--epochs", "3"], "use only one of them"),
        (["--vary", "flip=True,False", "resnet20_digits", *NEEDED, "--no-flip"], "use only one of them"),
        (["resnet20_digits", "--data", "synthetic:64", "--run-dir", "run%j"], "run%j: a % would be replaced"),
        (["--plan", "resnet20_digits", "--data", "synthetic:64", "--run-dir", "run%j"], "run%j: a % would be replaced"),
        (
            ["resnet20_digits", "--data", "synthetic:64", "--run-dir", os.fsdecode(b"run\xff")],
            "or is not UTF-8: use an",
        ),
        (["resnet20_digits", "--data", "synthetic:64", "--run-dir", "run\nb"], "run\\nb: the name has a line end"),
        (["resnet20_digits", *NEEDED, "--vary", "epochs=2,4"], "write it before the recipe's name"),
        (["resnet20_digits", "--data", "", "--run-dir", "run"], "--data is empty: is a variable unset?"),
    ],
)
def test_launch_mistake_is_one_line_before_anything_is_submitted(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["slurm", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_launch_into_a_folder_that_training_would_refuse_is_refused_before_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished run whose checkpoints were removed, a run of another recipe, and a file of the user's own."""
    monkeypatch.setattr(Local, "submit", lambda *_: pytest.fail("it was submitted"))
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    words = ["local", "--processes", "1", "resnet20_digits", "--data", "synthetic:64", "--run-dir", str(folder)]

    def refusal(*more: str) -> str:
        assert main([*words, *more]) == 2
        return capsys.readouterr().err

    (folder / "recipe.py").write_text(recipe_source(load_recipe("resnet20_digits")))
    (folder / "result.json").write_text("{}")
    assert "holds a finished run without its checkpoints: use another --run-dir" in refusal()
    (folder / "checkpoints" / "step_00000007.pt").touch()
    assert "was started with another recipe: optimizer.lr: " in refusal("--optimizer.lr", "7")
    (folder / "recipe.py").write_text("recipe = None\n")
    assert "is somebody's own file: use another --run-dir" in refusal()


@pytest.mark.parametrize(
    ("options", "layout"),
    [
        ({}, (1, 1, 0)),
        ({"nodes": 4, "gpus_per_node": 8}, (4, 8, 8)),
        ({"gpus": 32, "gpus_per_node": 8}, (4, 8, 8)),
        ({"gpus": 4, "gpus_per_node": 8}, (1, 4, 4)),
        ({"gpus": 8, "gpus_per_node": 8, "nodes": 1}, (1, 8, 8)),
        ({"nodes": 2, "processes_per_node": 3}, (2, 3, 0)),
    ],
)
def test_nodes_and_processes_are_exact(options: dict, layout: tuple[int, int, int]) -> None:
    nodes, processes, gpus = layout
    expected = Layout(nodes=nodes, processes_per_node=processes, gpus_per_node=gpus)
    assert layout_of(ProcessSettings(**options)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 12, "gpus_per_node": 8}, "12 do not fill nodes of 8: use 8 or 16"),
        ({"gpus": 8}, "needs --gpus-per-node"),
        ({"gpus": 16, "gpus_per_node": 8, "nodes": 3}, "are 2 nodes, not --nodes 3"),
        ({"gpus_per_node": 8, "processes_per_node": 4}, "each process has one GPU"),
    ],
)
def test_launch_what_contradicts_itself_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        layout_of(ProcessSettings(**options))


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90", 90), ("90:30", 91), ("12:00:00", 720), ("0:05:30", 6), ("1-0", 1440), ("2-12", 3600), ("1-00:30:00", 1470)],
)
def test_times_are_those_of_slurm(time: str, minutes: int) -> None:
    assert minutes_of(time) == minutes


@pytest.mark.parametrize("time", ["", "12h", "0", "1:2:3:4", "-5", "1-", "0:00:00"])
def test_launch_different_time_is_refused(time: str) -> None:
    with pytest.raises(ValueError, match="time="):
        minutes_of(time)


def test_launch_words_of_the_job_are_read_back_as_they_were() -> None:
    words = (
        "resnet20_digits --data synthetic:64 --run-dir r --no-pictures --compile --workers 3 --checkpoint-minutes 2.5"
    )
    _, settings = parse_train(words.split())
    assert "--no-pictures" in train_argv(settings)
    assert parse_train(["resnet20_digits", *train_argv(settings)])[1] == settings


@pytest.mark.slow
def test_run_for_each_recipe_and_seed_has_a_folder_of_its_own() -> None:
    one = runs_of((), ["resnet20_digits"], NEEDED, 1)
    assert [run.run_dir for run in one] == [Path("runs").absolute()]
    four = runs_of((0, 1), ["resnet20_digits", "resnet20_he2015"], NEEDED, 1)
    assert [run.run_dir.name for run in four] == [
        f"{recipe}_seed{seed}" for recipe in ("resnet20_digits", "resnet20_he2015") for seed in (0, 1)
    ]
    assert "seed=1" in four[1].recipe


@pytest.mark.slow
def test_sweep_is_the_product_of_values_and_seeds_named_by_what_varies() -> None:
    vary = ("optimizer.lr=0.05,0.1", "schedule.warmup.epochs=0,1.5", "flip=True,False")
    runs = runs_of((0, 1), ["resnet20_digits"], NEEDED, 1, vary)
    names = [run.name for run in runs]
    assert len(names) == 16
    assert names[:3] == [
        "resnet20_digits_lr=0.05_epochs=0_flip=True_seed0",
        "resnet20_digits_lr=0.05_epochs=0_flip=True_seed1",
        "resnet20_digits_lr=0.05_epochs=0_flip=False_seed0",
    ]
    assert [run.run_dir for run in runs] == [Path("runs").absolute() / name for name in names]
    for run, values in zip(runs, itertools.product((0.05, 0.1), (0.0, 1.5), (True, False), (0, 1)), strict=True):
        found: dict[str, Any] = {}
        exec(run.recipe, found)
        recipe = found["recipe"]
        assert (recipe.optimizer.lr, recipe.schedule.warmup.epochs, recipe.flip, recipe.seed) == values
        _, settings = parse_train(["resnet20_digits", *run.options])
        assert settings.hparams == ("optimizer.lr", "schedule.warmup.epochs", "flip")


@pytest.mark.slow
def test_sweep_values_may_be_tuples_options_of_train_and_settings_of_the_same_last_word() -> None:
    vary = ("mean=0 0 0,0.5 0.5 0.5", "workers=1,2")
    runs = runs_of((), ["resnet20_digits"], NEEDED, 1, vary)
    assert [run.name.removeprefix("resnet20_digits_") for run in runs] == [
        "mean=0-0-0_workers=1", "mean=0-0-0_workers=2", "mean=0.5-0.5-0.5_workers=1", "mean=0.5-0.5-0.5_workers=2",
    ]  # fmt: skip
    assert "mean=(0.5, 0.5, 0.5)" in runs[3].recipe
    assert parse_train(["resnet20_digits", *runs[3].options])[1].workers == 2
    (first, _) = runs_of((), ["resnet20_digits"], NEEDED, 1, ("epochs=4", "schedule.warmup.epochs=1,2"))
    assert first.name == "resnet20_digits_epochs=4_schedule.warmup.epochs=1"


@pytest.mark.parametrize(
    ("words", "vary", "minutes"),
    [
        ([], (), [10]),
        (["--timeout-minutes", "60"], (), [60]),
        (["--timeout_minutes", "60"], (), [60]),
        (["--timeout_minutes=60"], (), [60]),
        ([], ("timeout-minutes=5,20",), [5, 20]),
    ],
)
def test_option_that_follows_from_the_cluster_replaces_none_of_the_users(
    words: list[str], vary: tuple[str, ...], minutes: list[float]
) -> None:
    runs = runs_of((), ["resnet20_digits"], [*NEEDED, *words], 1, vary, {"--timeout-minutes": "10"})
    assert [parse_train(["resnet20_digits", *run.options])[1].timeout_minutes for run in runs] == minutes


def test_cluster_is_a_file_and_the_command_line_has_the_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("launch.toml").write_text('partition = "gpu"\ngpus-per-node = 8\nsetup = ["module load cuda"]\ntime = "2-0"\n')
    Path("other.toml").write_text('partition = "other"\n')
    here = parse(SlurmSettings, ["--gpus-per-node", "4"], "slurm")
    assert (here.partition, here.gpus_per_node, here.setup, here.time) == ("gpu", 4, ("module load cuda",), "2-0")
    assert parse(SlurmSettings, ["--cluster", "other.toml"], "slurm").partition == "other"
    Path("launch.toml").write_text("signal_seconds = 20\n" + Path("launch.toml").read_text())
    assert parse(SlurmSettings, ["--time", "3"], "slurm").signal_seconds == 20  # both are checked together
    kind = parse(SlurmSettings, ["--gres", "gpu:a100:4"], "slurm")
    assert (kind.gres, kind.gpus_per_node) == ("gpu:a100:4", None)
    Path("kind.toml").write_text('gres = "gpu:a100:4"\n')
    count = parse(SlurmSettings, ["--cluster", "kind.toml", "--gpus_per_node=2"], "slurm")
    assert (count.gres, count.gpus_per_node) == (None, 2)
    checked = parse(PreflightSettings, [], "preflight")
    assert (checked.partition, checked.time) == ("gpu", "00:10:00")  # a check is not a training


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin = 'gpu'", "did you mean partition"),
        ("gpus_per_node = 'eight'", "gpus_per_node = 'eight' is not int"),
        ("setup = 'module load cuda'", "is not a list of strings"),
        ("preflight = 1", "preflight = 1 is not bool"),
        ("partition = [", "cannot be read as TOML"),
        ("seeds = [1]", "'seeds' is an option of the command line only"),
    ],
)
def test_launch_mistake_in_a_clusters_file_names_the_file(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UserError, match=f"(?i){message}") as error:
        parse(SlurmSettings, ["--cluster", str(tmp_path / "c.toml")], "slurm")
    assert "c.toml" in str(error.value)


def test_launch_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    for verb in ("local", "slurm", "status", "logs", "cancel", "preflight"):
        assert f"  {verb} " in overview
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0
        assert "python -m launch" in capsys.readouterr().out
    assert main(["launch"]) == 2


@pytest.mark.slow
def test_launch_without_slurm_a_plan_is_shown_and_a_job_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["--nodes", "2", "--gres", "gpu:a100:4", "--time", "12:00:00", "--mail-type", "END"]
    words += ["--sbatch", "licenses=disk:1", "--sbatch=exclusive", "resnet20_digits"]
    words += ["--data", "synthetic:640", "--run-dir", str(tmp_path / "run")]
    assert main(["slurm", *words, "--global-batch-size", "384"]) == 2
    assert "python -m launch local --background" in capfd.readouterr().err
    assert main(["slurm", "--plan", *words, "--global-batch-size", "384"]) == 0
    shown = capfd.readouterr().out
    assert "#SBATCH --ntasks-per-node=4" in shown
    assert "#SBATCH --requeue" in shown
    assert "8 processes on 2 nodes" in shown
    assert "#SBATCH --time=12:00:00" in shown
    assert {f"#SBATCH --{line}" for line in ("gres=gpu:a100:4", "mail-type=END", "licenses=disk:1", "exclusive")} <= {
        *shown.splitlines()
    }
    assert "--gpus-per-node" not in shown
    assert "Plan of resnet20_digits" in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["cancel", ""], ["status", "a", ""], ["logs", "", "--rank", "1"]])
def test_launch_empty_word_is_no_folder(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`cancel "$RUN"` without RUN would cancel the runs of the current folder."""
    assert main(words) == 2
    assert f"the word after {words[words.index('') - 1]} is empty: is a variable unset?" in capsys.readouterr().err


def test_launch_empty_text_replaces_that_of_the_clusters_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "launch.toml").write_text('container = "srun-container"\naccount = ""\n')
    found = parse(SlurmSettings, ["--container", ""], "slurm")
    assert (found.container, found.account) == ("", "")
    with pytest.raises(UserError, match="--data is empty"):
        parse(PreflightSettings, ["--data="], "preflight")


@pytest.mark.parametrize("verb", ["status", "logs", "cancel"])
def test_folder_that_was_not_launched_is_reported(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, str(tmp_path)]) == 2
    assert "launched by python -m launch" in capsys.readouterr().err
