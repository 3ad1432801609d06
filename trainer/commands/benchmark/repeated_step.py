"""The training step as a benchmark calls it: with one micro-batch after another, for as long as it likes."""

from itertools import cycle

from torch import nn

from trainer.data.device import DeviceBatch
from trainer.distillation import untrained_teacher
from trainer.distributed.process_group import World
from trainer.recipe import Recipe
from trainer.setup.networks import build_state
from trainer.step import TrainingStep


class RepeatedStep:
    """Trains `module` in place, as `trainer train` does, but never ends.

    Losses and gradient norms are computed and not read: on noise they mean nothing.
    """

    def __init__(
        self,
        recipe: Recipe,
        module: nn.Module,
        world: World,
        *,
        steps_per_epoch: int,
        compile_mode: str | None = None,
        cuda_graph: bool = False,
    ) -> None:
        """`module`: on its device. `compile_mode`: None for eager mode, or that of torch.compile. `cuda_graph`: see
        check_recordable.
        """
        accumulation = recipe.accumulation(world.size)
        self.state = build_state(recipe, module, world, steps_per_epoch=steps_per_epoch)
        teacher = untrained_teacher(recipe, world.device)
        self._step = TrainingStep(
            recipe,
            self.state,
            world,
            accumulation=accumulation,
            teacher=teacher,
            compile_mode=compile_mode,
            cuda_graph=cuda_graph,
        )
        self._micro_steps = cycle(range(accumulation))
        self._epochs = recipe.epochs

    def close(self) -> None:
        """See TrainingStep.close."""
        self._step.close()

    def __call__(self, batch: DeviceBatch) -> None:
        """Trains on the next micro-batch. Called by all ranks together."""
        self._step(batch, next(self._micro_steps))
        if self.state.position.is_last(self._epochs):  # a benchmark may take longer than training on a few images
            self.state.position.batch = 0
