"""One optimizer step: the only definition of it. train, benchmark and plan --measure all call this one."""

import os
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from trainer.cuda_graph import DDP_WARM_UP, WARM_UP, Computed, RecordedStep, cuda_recorder, leave_default_stream
from trainer.data.device import DeviceBatch
from trainer.data.mixing import mix
from trainer.data.random import torch_seed
from trainer.data.resolution import resolutions
from trainer.distillation import build_distilled_loss
from trainer.distributed import ddp
from trainer.distributed.process_group import World
from trainer.distributed.run_ahead import RunAhead
from trainer.distributed.watchdog import COMPUTING, EXCHANGING
from trainer.fine_tuning import train_mode
from trainer.optim.clipping import build_clipping
from trainer.precision import autocast
from trainer.process.garbage import collect_garbage
from trainer.recipe import Recipe
from trainer.run.state import TrainingState
from trainer.schedule import lr_of

_SPARE_GRAPHS = 8  # torch's own limit, for what is not a resolution


def compile_static(module: nn.Module, mode: str, *, resolutions: int, threads: int) -> None:
    """Compiles a network in place, on this many threads, with a graph for each resolution of its images.

    After a second size torch would make one graph for all sizes, which is slower for each of them. Beyond the limit of
    its recompilations it would go back to eager mode. With deterministic kernels no measured time chooses between
    kernels that round differently.
    """
    import torch._dynamo  # takes a second
    import torch._inductor.config  # has read the environment by now

    if torch.are_deterministic_algorithms_enabled() and hasattr(torch._inductor.config, "deterministic"):
        torch._inductor.config.deterministic = True
    torch._dynamo.config.recompile_limit = resolutions + _SPARE_GRAPHS
    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
        torch._inductor.config.compile_threads = threads
    module.compile(mode=mode, dynamic=False)


class TrainingStep:
    """A recipe's optimizer step, called with one micro-batch at a time.

    The last micro-batch of a step updates the weights and their average, and advances the position. All ranks call it
    together. It reads nothing from the device, but for some of timm's optimizers (optim.build_optimizer) and the one
    check of a CUDA graph. It lets the device fall a few micro-batches behind at most.
    """

    def __init__(
        self,
        recipe: Recipe,
        state: TrainingState,
        world: World,
        *,
        accumulation: int,
        teacher: nn.Module | None = None,
        compile_mode: str | None = None,
        cuda_graph: bool = False,
        bucket_mb: float = 25.0,
    ) -> None:
        """Puts the network of `state` into training mode, on all ranks together.

        `accumulation`: micro-batches of each process in one step. `teacher`: that of recipe.distillation, on the
        device, frozen and in evaluation mode. `compile_mode`: that of torch.compile, None for eager mode.
        `cuda_graph`: record the step and replay it; check_recordable says where. `bucket_mb`: MiB of gradients in one
        message between processes. Raises SharedError if the network cannot run a micro-batch.
        """
        self.accumulation = accumulation
        self.lr = 0.0
        """learning rate of the current step, before the factors of the parameter groups"""
        self._recipe, self._state, self._world = recipe, state, world
        if (teacher is None) != (recipe.distillation is None):
            raise ValueError("a step has a teacher if and only if its recipe has a distillation")
        self._loss_of, self._teacher = build_distilled_loss(recipe), teacher
        mixing, classes = recipe.mixing, recipe.num_classes
        self._mixed = partial(mix, mixing, num_classes=classes, seed=recipe.seed) if mixing else None
        self._clip = build_clipping(recipe, state.module)
        self._one = torch.ones((), device=world.device)
        self._run_ahead = RunAhead(world.device)
        if cuda_graph:
            leave_default_stream(world.device)
        if compile_mode is not None:  # before DDP, whose own forward pass breaks the graph
            for network in filter(None, (state.module, teacher)):
                compile_static(network, compile_mode, resolutions=len(resolutions(recipe)), threads=world.cpus)
        self._model = ddp.wrap(state.module, world, recipe.gradient_compression, bucket_mb)
        train_mode(state.module, recipe.fine_tuning)
        example = torch.zeros(recipe.micro_batch_size, 3, *[recipe.train_crop.resolution] * 2, device=world.device)
        ddp.warm_up_buckets(self._model, example.to(memory_format=torch.channels_last), recipe.precision)
        self._recorded = None
        if cuda_graph:
            warm_up = WARM_UP if world.size == 1 else DDP_WARM_UP
            self._recorded = RecordedStep(self._whole_step, state, world, cuda_recorder(), warm_up=warm_up)

    def __call__(self, batch: DeviceBatch, micro_step: int, enter: Callable[[str], None] = lambda _phase: None) -> None:
        """Trains on micro-batch number `micro_step` of the current step, counted from 0.

        `enter` is called with the phase that begins: COMPUTING, which a rank does alone, or EXCHANGING, which includes
        waiting for the other ranks.
        """
        enter(COMPUTING)
        recipe, state, at = self._recipe, self._state, self._state.position
        is_last = micro_step == self.accumulation - 1
        if micro_step == 0:
            self.lr = lr_of(recipe, at.epochs)
            for group in state.optimizer.param_groups:
                group["lr"] = self.lr * group["lr_factor"]
            state.metrics.start(at.step)
        images, targets, _ = batch
        micro_batch = self._world.rank * self.accumulation + micro_step
        if self._mixed:
            images, targets = self._mixed(images, targets, step=at.step, micro_batch=micro_batch)
        seed = torch_seed(recipe.seed, at.step, micro_batch)  # for drop path and dropout
        if self._recorded:
            enter(EXCHANGING)
            loss, *update = self._recorded(images, targets, seed)
        else:
            torch.manual_seed(seed)
            loss = self._accumulate(images, targets, is_last, enter)
            update = list(self._update_weights()) if is_last else []
        state.metrics.add_loss(at.step, loss)
        if is_last:
            state.metrics.add_gradient(at.step, *update)
            at.batch += 1
            if state.average:
                state.average.update(state.module, at.step, at.epochs)
            collect_garbage(at.step)
        self._run_ahead.after_batch()

    def close(self) -> None:
        """Frees a recorded step. Call it before the process group ends: NCCL waits while a graph exists."""
        if self._recorded:
            self._recorded.close()

    def _whole_step(self, images: torch.Tensor, targets: torch.Tensor) -> Computed:
        """The part of a step of one micro-batch that a CUDA graph can record."""
        loss = self._accumulate(images, targets, is_last=True)
        return Computed(loss, *self._update_weights())

    def _accumulate(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        is_last: bool,
        enter: Callable[[str], None] = lambda _phase: None,
    ) -> torch.Tensor:
        """Adds a micro-batch's gradient, exchanged between the ranks with the last one; returns its share of the loss.

        `targets` are those of mixed images, if the recipe mixes any.
        """
        teacher_logits = self._teacher_logits(images)
        with ddp.gradient_sync(self._model, is_last):
            with autocast(self._recipe.precision, self._world.device):
                loss = self._loss_of(self._model(images), targets, teacher_logits) / self.accumulation
            enter(EXCHANGING)
            self._state.scaler.scale(loss).backward()
        return loss.detach()

    def _teacher_logits(self, images: torch.Tensor) -> torch.Tensor | None:
        """What the teacher answers for images that are already mixed; None without one."""
        if self._teacher is None:
            return None
        with torch.no_grad(), autocast(self._recipe.precision, self._world.device):
            logits: torch.Tensor = self._teacher(images)
        return logits.clone()  # torch.compile's CUDA graphs would free them before the loss reads them

    def _update_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes the optimizer's step; returns the norm of the gradient before clipping, and the loss scale."""
        optimizer, scaler = self._state.optimizer, self._state.scaler
        scaler.unscale_(optimizer)
        norm, scale = self._clip(), scaler.scale(self._one)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return norm, scale
