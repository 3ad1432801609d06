"""The recipe's training step, for measuring: what train.py's loop does between two batches, without log and files.

The loop is one page of plain statements and stays so; here the same statements can be called one micro-batch at a time,
by the benchmark. A test trains with both and asks for the same weights, bit for bit.
"""

from functools import partial

import torch
from torch import nn

from trainer.data.device import DeviceBatch
from trainer.data.mixing import mix
from trainer.data.random import torch_seed
from trainer.distributed import process_group
from trainer.distributed.process_group import World, gradient_sync
from trainer.ema import Average
from trainer.fine_tuning import train_mode
from trainer.loss import build_loss
from trainer.optimizer import build_optimizer
from trainer.precision import autocast, build_scaler
from trainer.recipe import Recipe
from trainer.run.state import Position
from trainer.schedule import lr_at


class TrainingStep:
    """Called with one micro-batch after the other; every `accumulation` of them the optimizer steps.

    `module`: on its device, trained in place. Called by all ranks together, as often on each. Nothing on the device is
    read, except what the recipe's own optimizer reads. Losses are computed and not looked at: on noise they mean
    nothing.
    """

    def __init__(
        self,
        recipe: Recipe,
        module: nn.Module,
        world: World,
        *,
        steps_per_epoch: int,
        compile: bool = False,
        compile_mode: str = "default",
    ) -> None:
        """`compile_mode`: of torch.compile; reduce-overhead replays CUDA graphs."""
        self.module = module
        self._recipe = recipe
        self._world = world
        self._accumulation = recipe.accumulation(world.size)
        self._at = Position(steps_per_epoch=steps_per_epoch)
        self._micro_step = 0
        self._optimizer = build_optimizer(recipe.optimizer, module, recipe.fine_tuning)
        self.average = Average(recipe.ema, module) if recipe.ema else None
        self._scaler = build_scaler(recipe.precision, world.device)
        self._loss_of = build_loss(recipe.loss)
        mixing, classes, seed = recipe.mixing, recipe.num_classes, recipe.seed
        self._mixed = partial(mix, mixing, num_classes=classes, seed=seed) if mixing else None
        self._model = process_group.wrap(module, world)
        if compile:
            self._model.compile(mode=compile_mode)
        train_mode(module, recipe.fine_tuning)
        example = torch.zeros(recipe.micro_batch_size, 3, *[recipe.train_crop.resolution] * 2, device=world.device)
        process_group.warm_up_ddp_buckets(self._model, example.to(memory_format=torch.channels_last), recipe.precision)

    def __call__(self, batch: DeviceBatch) -> None:
        """One micro-batch: mixing, forward, loss, backward; with the step's last one also optimizer and EMA."""
        recipe, at = self._recipe, self._at
        if self._micro_step == 0:
            lr = lr_at(recipe.schedule, peak=recipe.optimizer.lr, epoch=at.epochs, epochs=recipe.epochs)
            for group in self._optimizer.param_groups:
                group["lr"] = lr * group["lr_factor"]
        images, targets, _ = batch
        micro_batch = self._world.rank * self._accumulation + self._micro_step
        if self._mixed:
            images, targets = self._mixed(images, targets, step=at.step, micro_batch=micro_batch)
        torch.manual_seed(torch_seed(recipe.seed, at.step, micro_batch))
        with gradient_sync(self._model, self._micro_step == self._accumulation - 1):
            with autocast(recipe.precision, self._world.device):
                loss = self._loss_of(self._model(images), targets) / self._accumulation
            self._scaler.scale(loss).backward()
        self._micro_step = (self._micro_step + 1) % self._accumulation
        if self._micro_step == 0:
            self._finish_step()

    def _finish_step(self) -> None:
        recipe, at = self._recipe, self._at
        if recipe.clip_grad_norm is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), recipe.clip_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        at.batch += 1
        if self.average:
            self.average.update(self.module, at.step, at.epochs)
        if at.is_last(recipe.epochs):  # a measurement may be longer than the training of a few images
            at.batch = 0
