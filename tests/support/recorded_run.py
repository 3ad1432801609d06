"""Steps of a recipe, recorded as a CUDA graph would be and replayed, beside the same steps without.

Usage: python -m tests.support.recorded_run [FAULT]: compares both on several ranks. FAULT: see main.
"""

import sys
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tests.support.processes import different, flat
from tests.support.recorder import Recording, recorder
from tests.support.small_recipe import recipe as small
from trainer import step
from trainer.cuda_graph import WARM_UP, Computed
from trainer.data.device import DeviceBatch
from trainer.distributed import process_group
from trainer.distributed.parent import end_process
from trainer.distributed.process_group import World, gather
from trainer.errors import LocalError, SharedError
from trainer.model import build_model
from trainer.process.unforeseen import exit_code_of
from trainer.recipe import EMA, SGD, CifarResNet, Cosine, Mixing, Recipe, Warmup
from trainer.setup.networks import build_state
from trainer.step import TrainingStep

RECIPE = replace(
    small,
    model=CifarResNet(depth=8),
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True, decay_norm=False),
    schedule=Cosine(warmup=Warmup(epochs=1, lr=0.01)),
    mixing=Mixing(mixup_alpha=0.2, cutmix_alpha=1.0),
    ema=EMA(decay=0.9),
    clip_grad_norm=1.0,
    global_batch_size=8,
    micro_batch_size=8,
)
SIZES = [16] * 6 + [8] * 6 + [16] * 4  # px of the steps' images, as in progressive resizing
REPLAYS = len(SIZES) - len(set(SIZES)) * (WARM_UP - 1)  # one more for each size, to check it
NEVER = len(SIZES) + 1


class Run:
    """As many steps as SIZES has, on this rank's own images."""

    def __init__(
        self, world: World, recipe: Recipe = RECIPE, *, graph: bool = True, warm_up: int = WARM_UP, without: str = ""
    ) -> None:
        """`warm_up`: plain steps before a recording, or NEVER. `without`: see recorder."""
        torch.manual_seed(0)
        module = build_model(recipe.model, recipe.num_classes)
        module.fc = nn.Sequential(nn.Dropout(0.5), module.fc)
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.world = world
        self.recordings: list[Recording] = []
        self.state = build_state(recipe, module, world, steps_per_epoch=10, log_every=len(SIZES))
        with patch.multiple(
            step,
            leave_default_stream=lambda _device: None,
            cuda_recorder=lambda: recorder(self.changed, self.recordings, without),
            WARM_UP=warm_up,
            DDP_WARM_UP=warm_up,
        ):
            self.step = TrainingStep(recipe, self.state, world, accumulation=1, cuda_graph=graph)

    @property
    def replays(self) -> int:
        return sum(recording.replays for recording in self.recordings)

    def changed(self) -> list[Tensor]:
        kept = [tensor for values in self.state.optimizer.state.values() for tensor in values.values()]
        return [*self.state.module.parameters(), *self.state.module.buffers(), *kept]

    def saved(self) -> dict[str, Tensor]:
        """A copy of the checkpoint, flat."""
        return {name: tensor.clone() for name, tensor in flat(self.state.save())}

    def train(self) -> "Run":
        generator = torch.Generator().manual_seed(self.world.rank)
        for size in SIZES:
            images = torch.randn(8, 3, size, size, generator=generator).to(memory_format=torch.channels_last)
            self.step(DeviceBatch(images, torch.randint(10, (8,), generator=generator), torch.arange(8)), 0)
        return self


def full(*_given: object) -> Computed:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def main(fault: str = "") -> None:
    """Prints the replays of every rank, and what is different, also from rank to rank.

    `fault`: of rank 1 alone: an operation that its recording lacks, or `memory`, which its first replay lacks.
    """
    with process_group.initialize("cpu", timeout_minutes=15) as world:
        recipe = replace(RECIPE, global_batch_size=8 * world.size)
        if fault == "memory":
            run = Run(world, recipe)
            if world.rank == 1 and run.step._recorded:
                run.step._recorded._replay = full  # type: ignore[method-assign]
            run.train()
        if fault:
            try:
                Run(world, recipe, without=fault if world.rank == 1 else "").train()
            except SharedError as error:
                print(error)
            return
        recorded, plain = (Run(world, recipe, warm_up=warm_up).train() for warm_up in (WARM_UP, NEVER))
        wrong = different(recorded.saved(), plain.saved())
        weights = gather(world, [weight.tolist() for weight in recorded.state.module.parameters()])
        replays = gather(world, recorded.replays)
        if world.is_main:
            print(f"{replays} replays, different: {wrong}, same on all ranks: {weights[1:] == weights[:-1]}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:  # as trainer.__main__ ends a rank
        code = exit_code_of(error) if not isinstance(error, LocalError) else 2
        print(error)
        end_process(code)
