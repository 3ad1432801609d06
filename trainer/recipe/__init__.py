"""The vocabulary of a recipe: every setting that a paper could name, with its type, unit, default and source.

A recipe says what is trained, never where: no path, no number of processes. Time is counted in epochs, which may be
fractional; images are counted per optimizer step. Nothing is derived behind the reader's back: overriding the batch
does not move the learning rate. Standard library only, so that recipes can be listed and checked without torch.

Reading order: recipe.py (the whole), model.py, order.py, crop.py, augmentation.py, loss.py, distillation.py,
optimizer.py, schedule.py, ema.py, fine_tuning.py. Each lists in `__all__` what a recipe imports. Where there are
several kinds of a part, the file ends with their union. check.py and datasets.py serve the others.
"""
# ruff: noqa: F403

from trainer.recipe.augmentation import *
from trainer.recipe.crop import *
from trainer.recipe.distillation import *
from trainer.recipe.ema import *
from trainer.recipe.fine_tuning import *
from trainer.recipe.loss import *
from trainer.recipe.model import *
from trainer.recipe.optimizer import *
from trainer.recipe.order import *
from trainer.recipe.recipe import *
from trainer.recipe.schedule import *
