"""The command line's entry point: runs python -m trainer COMMAND and turns errors into messages and exit codes."""

import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import trainer.process.library_defaults  # first: for their effect
import trainer.process.streams  # noqa: F401
from trainer import __version__, settings, weights_settings
from trainer.cli.parse import parse, parse_prepare, parse_train, parse_with_recipe
from trainer.cli.suggestions import unknown_command
from trainer.distributed.faulty_node import report_faulty_node
from trainer.distributed.parent import end_process, exit_when_parent_dies
from trainer.errors import LocalError, NodeError, SharedError, UserError
from trainer.process.huge_pages import restart_with_huge_pages
from trainer.process.importing import announce
from trainer.process.limits import raise_open_file_limit
from trainer.process.unforeseen import exit_code_of, print_error
from trainer.recipe_file import recipe_source
from trainer.run.progress import finished, names_a_file

USAGE = """usage: python -m trainer COMMAND ...

before training
  recipes [WORD ...]                   list the recipes: paper, published result, our result
  prepare folder | csv | imagenet | webdataset | parquet | torchvision | cifar10 | digits
                                       convert images to .beton files
  prepare adopt FILE ...               use .beton files written by FFCV itself
  look DATA                            draw a grid of images as a recipe sees them; print sizes and class balance
  plan RECIPE                          show steps, learning rates, memory and time without training
  benchmark RECIPE --data DIR          find the bottleneck here: loader, copy or compute
  benchmark RECIPE --fit               find the largest micro-batch that fits into memory
training
  train RECIPE --data DIR --run-dir DIR [--optimizer.lr 1.6 ...]
                                       train, or resume a run that was stopped
after training
  evaluate RUN | FILE                  top-1, top-5 and loss of weights, each image counted once
  average RUN | FILE FILE ...          mean of several checkpoints' weights, evaluated
  predict RUN | FILE IMAGE ...         name the most probable classes of images
  compare RUN ...                      compare recipes over seeds, beside their published results
  export RUN --to torchvision | timm | onnx | safetensors | torch-export

python -m trainer COMMAND --help shows the options of a command; train RECIPE --help adds the recipe's own values.
python -m trainer --version shows the version.
On several GPUs: python -m launch local RECIPE ...; on a cluster: python -m launch slurm RECIPE ..."""


# Seconds that a silent rank waits before it exits. torchrun stops all ranks as soon as one has exited, and rank 0 may
# not have printed the message yet.
_EXIT_DELAY = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code.

    0; 2 for invalid input; 75 where starting again may help; 128 + n after signal n.
    """
    exit_when_parent_dies()
    raise_open_file_limit()
    os.umask(os.umask(0o022) | 0o002)  # nothing we write may be world-writable, whatever the system's umask is
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if argv == ["--version"]:
        print(f"shortcut-trainer {__version__}")
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {
        "recipes": _recipes,
        "prepare": _prepare,
        "look": _look,
        "plan": _plan,
        "benchmark": _benchmark,
        "train": _train,
        "evaluate": _evaluate,
        "average": _average,
        "predict": _predict,
        "compare": _compare,
        "export": _export,
    }
    try:
        if argv[0] not in commands:
            raise UserError(unknown_command(argv[0], list(commands)))
        return commands[argv[0]](argv[1:])
    except UserError as error:
        if isinstance(error, NodeError):
            report_faulty_node(str(error))
        if _should_print(error):
            print_error(str(error))
        else:
            time.sleep(_EXIT_DELAY)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return exit_code_of(error)


def _should_print(error: UserError) -> bool:
    """Whether this rank prints the error: each one its own LocalError, rank 0 a shared one, else one rank per node."""
    if isinstance(error, LocalError):
        return True
    return os.environ.get("RANK" if isinstance(error, SharedError) else "LOCAL_RANK", "0") in ("", "0")


def _on_thread_error(thread: threading.ExceptHookArgs) -> None:
    """Keeps an OSError of TensorBoard's writer thread quiet: the main thread raises it again, and once is enough."""
    if not issubclass(thread.exc_type, OSError):
        threading.__excepthook__(thread)


# Python's garbage collector runs after every 700 new objects: 830 times while torch and its optimizers are imported.
# After every 10,000 objects it runs 72 times. docs/experiments.md has the time that this saves.
gc.set_threshold(10_000)

# The commands import torch inside their functions, so that --help, recipes and a misspelt option answer at once.


def _train(argv: list[str]) -> int:
    recipe, options = parse_train(argv)
    _refuse_bare_srun()
    alone = os.environ.get("WORLD_SIZE", "1") == "1"  # several processes have to agree: they do in trainer/train.py
    may_be_finished = alone and not names_a_file(recipe, options)
    if may_be_finished and (note := finished(options.run_dir, recipe_source(recipe), options.data_folder)):
        print(note)
        return 0
    if alone:
        from trainer.data.formats import find_split

        find_split(options.data, "train")  # what is missing is an error that need not wait for torch
        find_split(options.data, "val")
    announce(f"{recipe.name} on {options.data} -> {options.run_dir}")
    from trainer.errors import Stopped
    from trainer.process import compile_cache
    from trainer.train import train

    compile_cache.offer(options.run_dir)

    try:
        train(recipe, options)
    except Stopped as stopped:
        return 128 + stopped.signal
    except OSError as error:
        return exit_code_of(error, options.run_dir)
    return 0


def _refuse_bare_srun() -> None:
    """Raises UserError if srun started several processes that do not know of each other: they would all be rank 0."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or "1"
    if tasks == "1" or "WORLD_SIZE" in os.environ:
        return
    os.environ.setdefault("RANK", os.environ.get("SLURM_PROCID", "0"))  # the first copy prints the error
    raise SharedError(
        f"srun started {tasks} independent copies of this command: use python -m launch slurm RECIPE "
        f"..., which submits the job, or srun one torchrun per node"
    )


def _require_there(*paths: Path) -> None:
    """Raises UserError for a run or a file of weights that does not exist, before torch is imported."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist: give the folder of a run or a file of weights")


def _evaluate(argv: list[str]) -> int:
    options = parse(weights_settings.EvaluateSettings, argv, "evaluate")
    _require_there(options.weights)
    announce(f"evaluation of {options.weights}")
    from trainer.commands.evaluate.evaluate import evaluate_weights

    evaluate_weights(options)
    return 0


def _average(argv: list[str]) -> int:
    options = parse(weights_settings.AverageSettings, argv, "average")
    _require_there(*options.checkpoints)
    announce(f"mean of checkpoints of {options.checkpoints[0]}")
    from trainer.commands.average.average import average_weights
    from trainer.commands.evaluate.evaluate import evaluate_in

    average_weights(options, evaluate_in)
    return 0


def _predict(argv: list[str]) -> int:
    options = parse(weights_settings.PredictSettings, argv, "predict")
    _require_there(options.weights)
    announce(f"predictions of {options.weights}")
    from trainer.commands.predict import predict_images

    return predict_images(options)


def _look(argv: list[str]) -> int:
    options = parse(settings.LookSettings, argv, "look")
    announce(f"a sheet of {options.data}")
    from trainer.commands.look.look import look

    look(options)
    return 0


def _plan(argv: list[str]) -> int:
    recipe, options = parse_with_recipe(settings.PlanSettings, argv, "plan")
    announce(f"plan of {recipe.name}")
    from trainer.commands.plan.plan import plan

    plan(recipe, options)
    return 0


def _benchmark(argv: list[str]) -> int:
    recipe, options = parse_with_recipe(settings.BenchmarkSettings, argv, "benchmark")
    announce(f"benchmark of {recipe.name}")
    if options.fit:
        from trainer.commands.benchmark.fit import fit

        fit(recipe, options)
        return 0
    from trainer.commands.benchmark.benchmark import benchmark

    benchmark(recipe, options)
    return 0


def _compare(argv: list[str]) -> int:
    options = parse(settings.CompareSettings, argv, "compare")
    from trainer.commands.compare.compare import compare

    compare(options)
    return 0


def _export(argv: list[str]) -> int:
    options = parse(weights_settings.ExportSettings, argv, "export")
    _require_there(options.run_dir)
    announce(f"export of {options.run_dir}")
    from trainer.commands.export.export import export

    export(options)
    return 0


def _prepare(argv: list[str]) -> int:
    if argv[:1] == ["adopt"]:
        adopted = parse(settings.AdoptSettings, argv[1:], "prepare adopt")
        from trainer.data.beton.adopt import adopt

        adopt(adopted)
        return 0
    command = parse_prepare(argv)
    from trainer.data.sources.kinds import KINDS

    KINDS[command.kind].prepare(command.source, command.out, command.options)
    return 0


def _recipes(argv: list[str]) -> int:
    words = parse(settings.RecipesSettings, argv, "recipes").words
    from trainer.commands.recipes import list_recipes

    list_recipes(words)
    return 0


def _takes_steps(argv: list[str]) -> bool:
    """Whether the command trains, or measures training."""
    if {"-h", "--help"} & {*argv}:
        return False
    return argv[:1] in (["train"], ["benchmark"]) or (argv[:1] == ["plan"] and "--measure" in argv)


def run() -> NoReturn:
    """Ends the process with the command's exit code: what `python -m trainer` and the script `shortcut` call.

    A rank skips Python's own end: it takes seconds, for which peers wait, and aborts the process (exit code 134) where
    the store answers a thread meanwhile.
    """
    if _takes_steps(sys.argv[1:]):
        restart_with_huge_pages()
    threading.excepthook = _on_thread_error
    is_rank = "RANK" in os.environ
    try:
        exit_code = main()
    except Exception:
        if not is_rank:
            raise
        traceback.print_exc()
        exit_code = 1
    if is_rank:
        end_process(exit_code)
    sys.exit(exit_code)


if __name__ == "__main__":
    run()
