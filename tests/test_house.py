"""Who may import whom, and what a file of this house may hold: DESIGN.md's rules, read from the sources."""

import ast
import hashlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import LONGEST
from tests.support.processes import ROOT, TIMEOUT

TRAINER = sorted((ROOT / "trainer").rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
LAUNCH = sorted((ROOT / "launch").rglob("*.py"))
CODE = [*TRAINER, *RECIPES, *LAUNCH]
ROOT_FILES = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]  # .git: a file in a worktree
OTHER = [path for path in ROOT_FILES if path.suffix in ("", ".md", ".sh", ".toml", ".yml", ".yaml")]
TEXT = [*CODE, *sorted((ROOT / "tests").rglob("*.py")), *sorted(OTHER)]
MACHINE_PATH = re.compile(r"/(work|root|home)/")
HEAVY = ("torch", "torchvision", "timm", "numba", "ffcv", "tensorboard", "numpy")


def name_of(path: Path) -> str:
    """trainer/data/beton/source.py -> "trainer/data/beton/source.py", whatever the checkout is called."""
    return path.relative_to(ROOT).as_posix()


@cache
def imports(source: str) -> set[str]:
    """Every module that `source` may import, anywhere in it: `from a import b` counts as a and as a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def importers(package: str, paths: list[Path] = CODE) -> set[str]:
    """The files that import `package` or something of it."""
    return {name_of(path) for path in paths if any(is_within(m, package) for m in imports(path.read_text()))}


def test_sources_are_found() -> None:
    assert len(RECIPES) == 87  # with __init__.py
    assert len(TRAINER) >= 50
    rooms = {path.relative_to(ROOT / "trainer").parts[0] for path in TRAINER if path.parent.name != "trainer"}
    assert rooms == {
        "cli", "commands", "cpu", "data", "distributed", "evaluation", "log", "model", "optim", "process",
        "recipe", "run", "setup",
    }  # fmt: skip
    assert len(list((ROOT / "trainer").glob("*.py"))) <= 20, "a file of one subject belongs in its room"


@pytest.mark.parametrize(
    "source",
    [
        "import trainer.train",
        "import numpy, trainer.train as loop",
        "from trainer import train",
        "from trainer.train import Position",
        "def verb():\n    from trainer.train import train",
        "if TYPE_CHECKING:\n    import trainer.train",
        "try:\n    pass\nexcept ImportError:\n    from trainer import (\n        recipe,\n        train as t,\n    )",
    ],
)
def test_import_is_found_in_any_form(source: str) -> None:
    """The rules below are worth what this is worth."""
    assert any(is_within(module, "trainer.train") for module in imports(source))
    assert not any(is_within(module, "trainer.t") or is_within(module, "recipes") for module in imports(source))


def test_house_every_import_can_be_read_from_the_sources() -> None:
    """None relative, none by a string: else the rules would not see it."""
    for path in CODE:
        assert not [module for module in imports(path.read_text()) if module.startswith(".")], path
        called = {
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
        }
        assert not called & {"import_module", "__import__"}, path


def test_recipes_import_the_vocabulary_and_the_recipe_they_vary() -> None:
    recipes = [path for path in RECIPES if path.stem != "__init__"]
    assert len(recipes) == 86
    for path in recipes:
        for module in imports(path.read_text()):
            assert any(is_within(module, allowed) for allowed in ("trainer.recipe", "recipes", "dataclasses")), path


def test_vocabulary_imports_the_standard_library_only() -> None:
    files = [path for path in TRAINER if path.parent.name == "recipe"]
    assert len(files) == 14
    found = {
        module for path in files for module in imports(path.read_text()) if not is_within(module, "trainer.recipe")
    }
    assert "dataclasses" in found
    assert {module.partition(".")[0] for module in found} <= sys.stdlib_module_names


def test_recipes_load_where_nothing_is_installed() -> None:
    """-S: without site-packages. What the sources say, seen from outside."""
    code = (
        "import importlib, pathlib, sys\n"
        "sys.path.insert(0, '.')\n"
        "names = [path.stem for path in pathlib.Path('recipes').glob('*.py') if path.stem != '__init__']\n"
        "print(*sorted(importlib.import_module(f'recipes.{name}').recipe.name for name in names))\n"
        "try:\n"
        "    import numpy\n"
        "except ImportError:\n"
        "    print('no numpy')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT
    )
    recipes = [path.stem for path in RECIPES if path.stem != "__init__"]
    assert ended.stdout.splitlines() == [" ".join(recipes), "no numpy"], ended.stderr


def test_loop_is_imported_by_the_entry_point_alone() -> None:
    assert importers("trainer.train") == {"trainer/__main__.py"}


def test_loop_is_one_page_of_plain_statements() -> None:
    """No class, no decorator, and no more names than a reader can look up; the step is defined once, in step.py."""
    source = (ROOT / "trainer" / "train.py").read_text()
    tree = ast.parse(source)
    assert 50 < len(source.splitlines()) <= 110
    names = [
        alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import) for alias in node.names
    ]
    assert 10 < len(names) <= 25
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert importers("trainer.step") == {
        "trainer/setup/prepare.py",
        "trainer/commands/benchmark/repeated_step.py",
        "trainer/commands/step_memory.py",
    }
    updates = [name_of(path) for path in TRAINER if "scaler.step(" in path.read_text()]
    assert updates == ["trainer/step.py"]


def test_entry_point_is_imported_by_the_processes_of_a_launch_alone() -> None:
    assert importers("trainer.__main__") == {"launch/rank.py"}
    assert importers("launch.__main__") == set()


def test_trainer_knows_no_launcher_and_no_recipe() -> None:
    assert importers("launch", [*TRAINER, *RECIPES]) == set()
    assert importers("recipes", TRAINER) == set()


def test_commands_are_leaves() -> None:
    """Each knows the rooms below; only the entry point and the benchmarks know a command."""
    found = importers("trainer.commands")
    assert "trainer/__main__.py" in found
    assert {name for name in found if not name.startswith("trainer/commands/")} == {"trainer/__main__.py"}


def test_commands_do_not_import_one_another() -> None:
    """What several of them need is a file beside their folders, or lies in the rooms below."""
    commands = sorted(path for path in (ROOT / "trainer" / "commands").iterdir() if (path / "__init__.py").is_file())
    assert len(commands) == 7
    found = {command.name: importers(f"trainer.commands.{command.name}", TRAINER) for command in commands}
    others = {name: {path for path in paths if f"/{name}/" not in path} for name, paths in found.items()}
    assert {path for paths in others.values() for path in paths} == {"trainer/__main__.py"}


def test_cpu_kernels_are_added_in_setup_alone() -> None:
    """Models are plain PyTorch, and the commands get the kernels through trainer.setup.networks."""
    paths = [*CODE, *(ROOT / "benchmarks").glob("*.py")]
    found = importers("trainer.cpu", paths)
    assert {name for name in found if not name.startswith("trainer/cpu/")} == {
        "trainer/setup/networks.py",
        "trainer/setup/prepare.py",
        "benchmarks/loop.py",
    }
    model = [path for path in TRAINER if path.parent.name == "model"]
    assert len(model) >= 8
    assert [path.name for path in model if re.search("numba|llvmlite", path.read_text(), re.IGNORECASE)] == []
    allowed = ("trainer.model", "trainer.recipe", "trainer.errors")
    assert [
        (path.name, module)
        for path in model
        for module in imports(path.read_text())
        if is_within(module, "trainer") and module not in ("trainer", "trainer.recipe")
        if not any(is_within(module, package) for package in allowed)
    ] == []


def test_launcher_looks_into_no_recipe() -> None:
    assert importers("trainer.recipe", LAUNCH) == set()


def test_launcher_asks_about_slurm_in_one_room_only() -> None:
    """Everything else goes through launch.cluster.Cluster."""
    assert importers("launch.slurm") - {name for name in importers("launch.slurm") if "launch/slurm/" in name} == {
        "launch/cluster.py"
    }
    assert importers("launch.local") - {name for name in importers("launch.local") if "launch/local/" in name} == {
        "launch/cluster.py"
    }
    slurm = re.compile(r"SLURM|\b(sbatch|scontrol|scancel|sacct|squeue)\b|== .slurm")
    found = {name_of(path) for path in LAUNCH if slurm.search(path.read_text())}
    assert "launch/slurm/scontrol.py" in found
    assert {name for name in found if not name.startswith("launch/slurm/")} == set()


def test_launch_has_no_import_circle() -> None:
    """Imports inside functions count: they hide circles."""
    modules = {name_of(path).removesuffix(".py").replace("/", "."): path for path in LAUNCH}
    graph = {module: imports(path.read_text()) & set(modules) for module, path in modules.items()}
    assert sum(map(len, graph.values())) > 50
    while free := [module for module, needed in graph.items() if not needed & set(graph)]:
        for module in free:
            del graph[module]
    assert graph == {}


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        # peers.py measures FFCV's own Loader beside ours, in a process of its own
        ("ffcv", {"trainer/data/beton/native.py", "trainer/commands/benchmark/peers.py"}),
        (
            "numba",
            {
                "trainer/data/beton/decode.py",
                "trainer/data/beton/native.py",
                "trainer/cpu/amx.py",
                "trainer/cpu/conv_kernels.py",
                "trainer/cpu/norm_kernels.py",
                "trainer/cpu/openmp.py",
            },
        ),
        (
            "tyro",
            {
                "trainer/settings.py",
                "trainer/weights_settings.py",
                "trainer/cli/parse.py",
                "launch/settings.py",
                "launch/local/settings.py",
            },
        ),
        (
            "timm",
            {
                "trainer/model/library.py",
                "trainer/model/identify.py",
                "trainer/optim/optimizer.py",
                "trainer/optim/library_optimizer.py",
                "trainer/optim/layer_decay.py",
                "trainer/optim/clipping.py",
                "trainer/ema.py",
                "trainer/evaluation/imagenet.py",
                "trainer/commands/export/timm_folder.py",
            },
        ),
        ("torch.utils.tensorboard", {"trainer/log/tensorboard_log.py"}),
        ("plotly", {"trainer/commands/compare/report.py"}),
        ("matplotlib", {"trainer/commands/plan/curve.py"}),
        ("onnxruntime", {"trainer/commands/onnx_network.py"}),
        ("submitit", {"launch/slurm/script.py", "launch/local/background.py"}),
    ],
)
def test_library_is_imported_in_one_place(package: str, allowed: set[str]) -> None:
    found = importers(package)
    assert found, f"nobody imports {package}: is the rule still about something?"
    assert found <= allowed


def test_listing_recipes_and_reading_a_command_line_need_no_torch() -> None:
    """With imports of heavy libraries forbidden; evaluate shows that they are."""
    code = (
        "import contextlib, io, sys\n"
        "class Forbidden(ImportError): pass\n"
        "class Gate:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {HEAVY}:\n"
        "            raise Forbidden(name)\n"
        "sys.meta_path.insert(0, Gate())\n"
        "from trainer.__main__ import main\n"
        "from launch.__main__ import main as launch\n"
        "goyal = 'resnet50_goyal2017_8k'\n"
        "for words in ([], ['--help'], ['recipes'], ['train', '--help'], ['train', goyal, '--help'],\n"
        "              ['train', goyal, '--optimizer.lrr', '1'], ['evaluate', '--help'], ['evaluate', 'nowhere'],\n"
        "              ['evaluate', '.']):\n"
        "    try:\n"
        "        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "            ended = main(words)\n"
        "    except SystemExit as error:\n"
        "        ended = error.code\n"
        "    except Forbidden as error:\n"
        "        ended = f'needs {error}'\n"
        "    print(*words, '->', ended)\n"
        "with contextlib.redirect_stderr(io.StringIO()):\n"
        "    print('launch status ->', launch(['status', 'nowhere']))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert ended.stdout.splitlines() == [
        "-> 2",
        "--help -> 0",
        "recipes -> 0",
        "train --help -> 0",
        "train resnet50_goyal2017_8k --help -> 0",
        "train resnet50_goyal2017_8k --optimizer.lrr 1 -> 2",
        "evaluate --help -> 0",
        "evaluate nowhere -> 2",
        "evaluate . -> needs torch",
        "launch status -> 2",
    ], ended.stderr


# Left: a word that only this project used. Right: the field's term, or a plain one.
REPLACED = {
    "Told": "StepRecord", "Seen": "PeerStatus", "Standing": "RunProgress", "standing": "read_progress",
    "StepNumbers": "StepMetrics", "judge": "find_stalled_ranks", "Watch": "Watchdog", "Requests": "StopSignal",
    "agree": "all_reduce", "settle": "warm_up_buckets", "on_record": "dump_nonfinite_step",
    "TEMPORARY": "EXIT_RETRY", "end_with_launcher": "exit_when_parent_dies", "whole_file": "atomic_write",
    "Cuts": "CropBoxes", "cuts": "crops", "View": "CropFn", "Draw": "RandomStream", "open_anywhere": "open_dataset",
    "passport": "evaluation_record", "Reading": "EvalResult", "readings": "results", "read_all": "evaluate_protocols",
    "Board": "TensorBoardLog", "Screen": "ConsoleLog", "changes_to_named": "overrides_of",
    "started_from": "init_weights", "silent_minutes": "heartbeat_timeout_minutes",
    "fruitless": "restarts_without_progress",
    "unlike": "allow_different_protocols", "reach": "time_to_accuracy", "verb": "command", "verbs": "commands",
    "Verdict": "RestartDecision", "Average": "WeightAverage", "SplitNorm": "GhostBatchNorm2d",
    "split_norms": "convert_ghost_batchnorm", "Found": "DataFormat", "in_bytes": "format_bytes",
}  # fmt: skip


def names_in(source: str) -> set[str]:
    """Functions, classes, arguments, fields and variables that `source` defines."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def test_names_are_the_terms_of_the_field() -> None:
    assert names_in("class A:\n    keep: int = 1\n    def f(self, verb): readings = 2") == {
        "A", "keep", "f", "self", "verb", "readings"
    }  # fmt: skip
    found = {
        (name_of(path), name): REPLACED[name] for path in CODE for name in names_in(path.read_text()) & {*REPLACED}
    }
    assert found == {}


def test_house_no_program_reads_the_sentence_of_a_protocol() -> None:
    """It is written for people, beside the fields it is made from."""
    found = {
        name_of(path) for path in [*CODE, *(ROOT / "benchmarks").glob("*.py")] if "protocol_text" in path.read_text()
    }
    assert found == {"trainer/evaluation/result.py"}


def test_file_holds_one_thought() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in [*TRAINER, *LAUNCH]}
    assert max(lengths.values()) > 200  # lines were counted
    assert {name: lines for name, lines in lengths.items() if lines > 320} == {}


@pytest.mark.parametrize(
    ("kernels", "inlined"),
    [("norm_kernels.py", {"openmp.py"}), ("conv_kernels.py", {"amx.py", "openmp.py"})],
)
def test_kernels_are_compiled_anew_where_what_they_take_in_has_changed(kernels: str, inlined: set[str]) -> None:
    """Numba's cache looks at the age of a function's own file only, so that file holds the others' digests."""
    folder = ROOT / "trainer" / "cpu"
    tree = ast.parse((folder / kernels).read_text())
    written = [node.value for node in tree.body if isinstance(node, ast.Assign) and "_INLINED" in ast.dump(node)]
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16] for name in inlined}
    assert [ast.literal_eval(value) for value in written] == [digests]


def test_house_every_file_begins_with_what_it_is() -> None:
    assert [name_of(path) for path in CODE if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_names_of_tests_begin_with_the_unit() -> None:
    """So that a red line says which part it is about: test_recipe_rejects_..., not test_what_is_wrong_is_..."""
    names = [
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def test_(\w+)", path.read_text(), re.MULTILINE)
    ]
    assert len(names) > 800
    assert [name for name in names if re.match(r"(a|an|the|what|where|every|any|no|nothing|without|with)_", name)] == []


def test_house_no_file_names_a_path_of_somebodys_machine() -> None:
    assert {"pyproject.toml", "Makefile", "trainer/recipe/recipe.py", "tests/conftest.py"} <= {
        name_of(path) for path in TEXT
    }
    assert MACHINE_PATH.search("data = '/" + "home/me/imagenet'")
    found = {name_of(path): hit.group() for path in TEXT if (hit := MACHINE_PATH.search(path.read_text()))}
    assert found == {}


def test_house_files_that_start_first_are_there() -> None:
    """A name that no file has any more would order nothing, silently."""
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []
