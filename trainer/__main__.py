"""The door: python -m trainer VERB, and what each verb answers to mistakes."""

import errno
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from trainer import __version__, cli, recipe_file, settings
from trainer.atomic import MAKE_ROOM
from trainer.distributed.parent import EXIT_RETRY, exit_when_parent_dies
from trainer.errors import LocalError, SharedError, UnreachableError, UserError, first_line, one_line

USAGE = """usage: python -m trainer VERB ...

before
  recipes [WORD ...]                   list the recipes: paper, published result, what was measured here
  prepare folder | cifar10 | digits    write images as .beton files
  look DATA                            a sheet of images as a recipe sees them, sizes, class balance
  plan RECIPE                          steps, rates, batches, memory and time of a recipe; nothing is trained
  benchmark RECIPE --data DIR          what limits training here: loader, copy or compute
during
  train RECIPE --data DIR --run-dir DIR [--optimizer.lr 1.6 ...]
                                       train, or continue a run that was stopped
after
  evaluate RUN | FILE                  top-1, top-5 and loss of weights, every image once
  compare RUN ...                      recipes side by side, over seeds, with their published results
  export RUN --to torchvision | onnx | safetensors

python -m trainer VERB --help shows the options of one verb; train RECIPE --help the recipe's own values.
python -m trainer --version shows the version.
On several GPUs: python -m launch local RECIPE ...; on a cluster: python -m launch slurm RECIPE ..."""


_PATIENCE = 10.0  # s that a silent rank waits: torchrun ends all ranks with the first, also the one that has to speak


def main(words: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code: 0, 2 for input that cannot be used, 128 + n after signal n."""
    exit_when_parent_dies()
    os.umask(os.umask(0o022) | 0o002)  # whatever the system's says, nothing that is written may be written to by all
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words == ["--version"]:
        print(f"shortcut-trainer {__version__}")
        return 0
    verbs: dict[str, Callable[[list[str]], int]] = {
        "recipes": _recipes,
        "prepare": _prepare,
        "look": _look,
        "plan": _plan,
        "benchmark": _benchmark,
        "train": _train,
        "evaluate": _evaluate,
        "compare": _compare,
        "export": _export,
    }
    try:
        if words[0] not in verbs:
            raise UserError(f"there is no verb {words[0]!r}: use {', '.join(verbs)}")
        return verbs[words[0]](words[1:])
    except UserError as error:
        if _speaks(error):
            _say(str(error))
        else:
            time.sleep(_PATIENCE)
        return EXIT_RETRY if isinstance(error, UnreachableError) else 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _expected(error)


def _speaks(error: UserError) -> bool:
    """One line for an error of all ranks, one per machine for what may be this machine's alone, such as a file."""
    if isinstance(error, LocalError):
        return True
    return os.environ.get("RANK" if isinstance(error, SharedError) else "LOCAL_RANK", "0") == "0"


def _expected(error: Exception) -> int:
    """Answers what no check can foresee, and returns its exit code; raises again what it does not know."""
    if isinstance(error, BrokenPipeError):  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more when it ends
        return 128 + signal.SIGPIPE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
        _say(f"{error.filename or 'a file of the run'}: {error.strerror}: {MAKE_ROOM}")
        return 2
    if type(error).__name__ == "OutOfMemoryError":
        _say(f"the GPU's memory is exhausted, use a smaller --micro-batch-size: {first_line(error)}")
        return 2
    if type(error).__name__.startswith("Dist") or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        _say(f"another process of this run has ended, its own message says why: {first_line(error)}")
        return EXIT_RETRY
    raise error


def _ended(thread: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread, whose OSError the main thread raises again: once is enough."""
    if not issubclass(thread.exc_type, OSError):
        threading.__excepthook__(thread)


def _say(text: str) -> None:
    print(f"error: {one_line(text)}", file=sys.stderr, flush=True)


# On a CPU, OpenMP's threads wait for one another by spinning. Where loader threads or other processes need the cores
# too, everybody waits for the spinning: 15 images/s instead of 655 were measured with one busy neighbour on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Python looks for cycles after every 700 new objects, 830 times while torch and what its optimizers import are loaded.
# After every 10,000 it does so 72 times: docs/performance.md has what that saves.
gc.set_threshold(10_000)

# torch is imported below, inside the verbs: --help, recipes and a misspelt option answer at once


def _train(words: list[str]) -> int:
    recipe, options = cli.parse_train(words)
    from trainer.distributed.stop import Stopped
    from trainer.train import train

    try:
        train(recipe, options)
    except Stopped as stopped:
        return 128 + stopped.signal
    return 0


def _evaluate(words: list[str]) -> int:
    options = cli.parse(settings.EvaluateSettings, words, "evaluate")
    from trainer.commands.evaluate.evaluate import evaluate_weights

    evaluate_weights(options)
    return 0


def _look(words: list[str]) -> int:
    options = cli.parse(settings.LookSettings, words, "look")
    from trainer.commands.look.look import look

    look(options)
    return 0


def _plan(words: list[str]) -> int:
    recipe, options = cli.parse_with_recipe(settings.PlanSettings, words, "plan")
    from trainer.commands.plan.plan import plan

    plan(recipe, options)
    return 0


def _benchmark(words: list[str]) -> int:
    recipe, options = cli.parse_with_recipe(settings.BenchmarkSettings, words, "benchmark")
    from trainer.commands.benchmark.benchmark import benchmark

    benchmark(recipe, options)
    return 0


def _compare(words: list[str]) -> int:
    options = cli.parse(settings.CompareSettings, words, "compare")
    from trainer.commands.compare.compare import compare

    compare(options)
    return 0


def _export(words: list[str]) -> int:
    options = cli.parse(settings.ExportSettings, words, "export")
    from trainer.commands.export import export

    export(options)
    return 0


def _prepare(words: list[str]) -> int:
    kind, source, out, options = cli.parse_prepare(words)
    from trainer.data.beton import prepare

    if kind == "digits":
        prepare.prepare_digits(out, options)
    else:
        assert source is not None
        (prepare.prepare_folder if kind == "folder" else prepare.prepare_cifar10)(source, out, options)
    return 0


def _recipes(words: list[str]) -> int:
    wanted = cli.parse(settings.RecipesSettings, words, "recipes").words
    names = [name for name in recipe_file.recipe_names() if not wanted or any(word in name for word in wanted)]
    if not names:
        raise UserError(f"no recipe's name holds {' or '.join(wanted)}: {recipe_file.known_recipes()}")
    for name in names:
        published = recipe_file.load_recipe(name).published
        result = "none"
        if published:
            sd = f" +- {published.sd:g}" if published.sd is not None else ""
            result = f"{published.top1:g}{sd} % top-1 ({published.protocol}; {published.source})"
        print(f"{name}: {recipe_file.first_sentence(name)}")
        print(f"    published: {result}\n    measured:  {recipe_file.measured(name)}")
    return 0


def run() -> NoReturn:
    """Ends the process with the command's exit code: what `python -m trainer` and the script `shortcut` call."""
    threading.excepthook = _ended
    sys.exit(main())


if __name__ == "__main__":
    run()
