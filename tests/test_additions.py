"""What an addition costs: an optimizer, a schedule, an augmentation and a data format, each in two files.

Each is added to a copy of the package by edits of exactly these files. The copy then plans and trains a recipe that
uses all four, stores it as Python and reads it again.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.support.processes import ROOT, TIMEOUT

pytestmark = pytest.mark.slow


class Edit(NamedTuple):
    """`new` comes before the one place of `old` in a file; without `old` it is the whole of a new file."""

    file: str
    old: str | None
    new: str


IMPORT = "from trainer.recipe import "
OPTIMIZER = [
    Edit("trainer/recipe/optimizer.py", '"AdamW", ', '"Adagrad", '),
    Edit(
        "trainer/recipe/optimizer.py",
        "Optimizer = SGD | ",
        '@dataclass(frozen=True, kw_only=True)\nclass Adagrad(_Decay):\n    """torch\'s."""\n\n'
        "    eps: float = 1e-10\n\n\n",
    ),
    Edit("trainer/recipe/optimizer.py", "AdamW | LAMB | LARS", "Adagrad | "),
    Edit("trainer/optim/optimizer.py", IMPORT, "from trainer.recipe import Adagrad\n"),
    Edit(
        "trainer/optim/optimizer.py",
        "        case AdamW():  # fused",
        "        case Adagrad():\n            return torch.optim.Adagrad(groups, lr=spec.lr, eps=spec.eps)\n",
    ),
    Edit(
        "trainer/optim/optimizer.py",
        "        case AdamW() | LAMB():",
        "        case Adagrad():\n            return 1\n",
    ),
    Edit(
        "trainer/optim/optimizer.py",
        "        case AdamW():\n            return BatchScaling",
        '        case Adagrad():\n            return BatchScaling(0.5, "square-root scaling")\n',
    ),
]
SCHEDULE = [
    Edit("trainer/recipe/schedule.py", '"Linear", ', '"Exponential", '),
    Edit(
        "trainer/recipe/schedule.py",
        "Schedule = Steps | ",
        "@dataclass(frozen=True, kw_only=True)\nclass Exponential(_Schedule):\n"
        '    """The peak rate times a factor for each epoch."""\n\n    per_epoch: float\n\n\n',
    ),
    Edit("trainer/recipe/schedule.py", "Linear | Constant", "Exponential | "),
    Edit("trainer/schedule.py", IMPORT, "from trainer.recipe import Exponential\n"),
    Edit(
        "trainer/schedule.py",
        "        case Constant():",
        "        case Exponential(per_epoch=factor):\n            return peak * factor ** (epoch - start)\n",
    ),
]
AUGMENTATION = [
    Edit("trainer/recipe/augmentation.py", '    "RandAugment",', '    "Negative",\n'),
    Edit(
        "trainer/recipe/augmentation.py",
        "Color = ",
        '@dataclass(frozen=True, kw_only=True)\nclass Negative:\n    """Some images inverted."""\n\n'
        '    probability: float = 0.5\n    fill: ClassVar[Literal["black", "mean"]] = "black"\n'
        '    interpolation: ClassVar[Literal["nearest", "bilinear"]] = "nearest"\n\n\n',
    ),
    Edit("trainer/recipe/augmentation.py", "RandAugment | AutoAugment", "Negative | "),
    Edit("trainer/data/policies.py", IMPORT, "from trainer.recipe import Negative\n"),
    Edit(
        "trainer/data/policies.py",
        "        case AutoAugment():",
        "        case Negative():\n            draws = draw(1)[:, 0]\n"
        "            chosen = np.where(draws < policy.probability, Operation.INVERT, Operation.IDENTITY)\n"
        "            yield chosen, np.zeros(len(draws))\n",
    ),
]
DATA_FORMAT = [
    Edit(
        "trainer/data/arrays.py",
        None,
        '"""Images from one array: SPLIT.npz with images and labels."""\n\n'
        "import io\n\nimport numpy as np\nfrom PIL import Image\n\nfrom trainer.data.encoded import EncodedSource\n\n\n"
        "class ArraySource(EncodedSource):\n    def __init__(self, path):\n"
        "        self._path, stored = path, np.load(path)\n"
        "        self._images, labels = stored['images'], stored['labels']\n"
        "        classes = [str(label) for label in range(labels.max() + 1)]\n"
        "        super().__init__(labels, classes, path.name, f'bytes:{path.stat().st_size}')\n\n"
        "    def encoded(self, image):\n        stored = io.BytesIO()\n"
        "        Image.fromarray(self._images[image]).save(stored, 'PNG')\n        return stored.getvalue()\n\n"
        "    def where(self, image):\n        return str(self._path)\n",
    ),
    Edit(
        "trainer/data/formats.py",
        "DataFormat = Synthetic | ",
        "@dataclass(frozen=True)\nclass Arrays:\n    file: Path\n\n\n",
    ),
    Edit("trainer/data/formats.py", "Beton | WebDataset | ClassFolders", "Arrays | "),
    Edit(
        "trainer/data/formats.py",
        "    if found := _shards(",
        '    if (folder / f"{split}.npz").exists():\n        return Arrays(folder / f"{split}.npz")\n',
    ),
    Edit(
        "trainer/data/formats.py",
        "        case WebDataset(shards, notes):",
        "        case Arrays(file):\n            from trainer.data.arrays import ArraySource\n\n"
        "            return ArraySource(file)\n",
    ),
]
ADDITIONS = {"optimizer": OPTIMIZER, "schedule": SCHEDULE, "augmentation": AUGMENTATION, "data format": DATA_FORMAT}
FILES_AT_MOST = {"optimizer": 3, "schedule": 2, "augmentation": 2, "data format": 2}

RECIPE = """
from trainer.recipe import (Adagrad, CenterCrop, CifarResNet, Exponential, Negative, RandomResizedCrop, Recipe, Warmup)

recipe = Recipe(
    name="additions", dataset="noise", model=CifarResNet(depth=8), num_classes=3, flip=True, precision="fp32",
    train_crop=RandomResizedCrop(resolution=16), eval_crop=CenterCrop(resolution=16, crop_ratio=1.0),
    augmentation=Negative(), optimizer=Adagrad(lr=0.1), epochs=2, global_batch_size=16, micro_batch_size=8,
    schedule=Exponential(per_epoch=0.5, warmup=Warmup(epochs=0.5, lr=0.01)),
)
"""
CHECK = """
import sys, torch, trainer
from pathlib import Path
import numpy as np
from trainer.commands.plan.warnings import override_warnings
from trainer.data.augment import Augmenter
from trainer.data.formats import open_source
from trainer.optim.optimizer import build_optimizer, state_tensors
from trainer.recipe_file import load_recipe
from trainer.schedule import lr_at

assert Path(trainer.__file__).is_relative_to(Path.cwd()), trainer.__file__
recipe = load_recipe(sys.argv[1])
assert type(build_optimizer(recipe.optimizer, torch.nn.Linear(2, 2))) is torch.optim.Adagrad
assert state_tensors(recipe.optimizer) == 1
assert lr_at(recipe.schedule, peak=0.1, epoch=1.5, epochs=2) == 0.05
black = torch.zeros(64, 3, 4, 4, dtype=torch.uint8)
assert set(Augmenter(recipe, 0).pixels(black, np.arange(64)).unique().tolist()) == {0, 255}
assert len(open_source(sys.argv[2], "train", num_classes=3, resolution=16).labels) == 64
"""


def test_additions_touch_the_files_that_the_design_allows() -> None:
    for name, edits in ADDITIONS.items():
        assert len({edit.file for edit in edits}) == 2 <= FILES_AT_MOST[name], name


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the four additions, a recipe that uses them and data in the new format."""
    folder = tmp_path_factory.mktemp("extended")
    for package in ("trainer", "recipes"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in (edit for edits in ADDITIONS.values() for edit in edits):
        path = folder / edit.file
        if edit.old is None:
            path.write_text(edit.new)
            continue
        text = path.read_text()
        assert text.count(edit.old) == 1, (edit.file, edit.old)
        path.write_text(text.replace(edit.old, edit.new + edit.old))
    (folder / "additions.py").write_text(RECIPE)
    (folder / "data").mkdir()
    for split, count in (("train", 64), ("val", 16)):
        images = np.random.default_rng(0).integers(0, 256, (count, 20, 20, 3), np.uint8)
        np.savez(folder / "data" / f"{split}.npz", images=images, labels=np.arange(count) % 3)
    return folder


def python(extended: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=extended,
        env={**os.environ, "PYTHONPATH": str(extended)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


def test_additions_are_built_drawn_and_read(extended: Path) -> None:
    ended = python(extended, "-c", CHECK, "additions.py", "data")
    assert ended.returncode == 0, ended.stderr


def test_additions_are_on_the_command_line_and_in_the_stored_recipe(extended: Path) -> None:
    options = ["additions.py", "--data", "data", "--optimizer.eps", "1e-9", "--schedule.per-epoch", "0.25"]
    planned = python(extended, "-m", "trainer", "plan", *options, "--augmentation.probability", "0.75")
    assert planned.returncode == 0, planned.stderr
    trained = python(extended, "-m", "trainer", "train", *options, "--run-dir", "run")
    assert trained.returncode == 0, trained.stderr
    stored = (extended / "run" / "recipe.py").read_text()
    assert "Adagrad(" in stored and "eps=1e-09" in stored
    assert "Exponential(" in stored and "per_epoch=0.25" in stored
    again = python(extended, "-m", "trainer", "train", "run/recipe.py", "--data", "data", "--run-dir", "run")
    assert again.returncode == 0, again.stderr
