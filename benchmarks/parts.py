"""What AdamW, AutoAugment and distillation add to a step, beside their own arithmetic. Part of docs/performance.md.

    python -m benchmarks.parts [--rounds 20]

Steps of one process with one thread, from uint8 images in memory to updated weights, in fp32. Each round calls every
program once, in turn, and takes the process's CPU time, to which others on the machine add little. A ratio is that of a
step with a part to the plain step plus what the part computes alone, within one round. At 1.00 a part costs what it
computes and nothing else.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from trainer.commands.benchmark.repeated_step import RepeatedStep
from trainer.data.augment import Augmenter
from trainer.data.device import device_batches
from trainer.data.loader import Batch
from trainer.distillation import build_distilled_loss, untrained_teacher
from trainer.distributed import process_group
from trainer.distributed.process_group import World
from trainer.model import build_model
from trainer.optim.optimizer import build_optimizer
from trainer.recipe import SGD, AdamW, AutoAugment, CifarResNet, Distillation, Recipe
from trainer.recipe_file import load_recipe

COUNT = 32  # images of a step
WARM_UP = 3  # rounds that are not counted
Program = Callable[[], object]


def base_recipe() -> Recipe:
    """ResNet-20 for CIFAR-10, one micro-batch a step, without a change of the images beyond normalisation."""
    recipe = load_recipe("resnet20_he2015")
    return replace(recipe, global_batch_size=COUNT, micro_batch_size=COUNT, precision="fp32", optimizer=SGD(lr=1e-4))


PARTS: dict[str, dict[str, Any]] = {
    "AdamW": {"optimizer": AdamW(lr=1e-4)},
    "AutoAugment": {"augmentation": AutoAugment(policy="cifar10")},
    "distillation": {"distillation": Distillation(teacher=CifarResNet(depth=56))},
}


def step_of(recipe: Recipe, world: World) -> Program:
    """A training step of the recipe on images of noise."""
    torch.manual_seed(0)
    module = build_model(recipe.model, recipe.num_classes).to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = RepeatedStep(recipe, module, world, steps_per_epoch=10**6)
    images, augmenter = noise(), Augmenter(recipe, 0)

    def run() -> None:
        for batch in device_batches([images], world.device, recipe.mean, recipe.std, augmenter):
            step(batch)

    return run


def noise() -> Batch:
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (COUNT, 32, 32, 3), np.uint8)).permute(0, 3, 1, 2)
    return Batch(images, torch.arange(COUNT) % 10, torch.arange(COUNT))


def own_arithmetic(base: Recipe, world: World) -> dict[str, tuple[Program, Program | None]]:
    """What each part computes alone, and what it takes the place of in the plain step."""

    def update(recipe: Recipe) -> Program:
        module: nn.Module = build_model(recipe.model, recipe.num_classes)
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        return build_optimizer(recipe.optimizer, module).step

    def loss(recipe: Recipe) -> Program:
        teacher, loss_of = untrained_teacher(recipe, world.device), build_distilled_loss(recipe)
        images = torch.randn(COUNT, 3, 32, 32).to(memory_format=torch.channels_last)
        logits, labels = torch.randn(COUNT, 10, requires_grad=True), torch.arange(COUNT) % 10

        def run() -> None:
            with torch.no_grad():
                targets = teacher(images) if teacher is not None else None
            loss_of(logits, labels, targets).backward()

        return run

    with_augment, with_teacher = replace(base, **PARTS["AutoAugment"]), replace(base, **PARTS["distillation"])
    batch, augmenter = noise(), Augmenter(with_augment, 0)
    return {
        "AdamW": (update(replace(base, **PARTS["AdamW"])), update(base)),
        "AutoAugment": (lambda: augmenter.pixels(batch.images, batch.samples.numpy()), None),
        "distillation": (loss(with_teacher), loss(base)),
    }


def measure(rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each program in each round."""
    torch.set_num_threads(1)
    with process_group.initialize("cpu", timeout_minutes=5) as world:
        base = base_recipe()
        programs: dict[str, Program] = {"plain": step_of(base, world)}
        for name, part in PARTS.items():
            programs[name] = step_of(replace(base, **part), world)
        everything = {key: value for part in PARTS.values() for key, value in part.items()}
        programs["all three"] = step_of(replace(base, **everything), world)
        for name, (alone, replaced) in own_arithmetic(base, world).items():
            programs[f"{name} alone"] = alone
            if replaced:
                programs[f"{name} replaces"] = replaced
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(WARM_UP + rounds):
            for name, program in programs.items():
                since = time.process_time()
                program()
                seconds[name].append(time.process_time() - since)
    return {name: found[WARM_UP:] for name, found in seconds.items()}


def ratios(seconds: dict[str, list[float]]) -> dict[str, np.ndarray]:
    """Step with a part / (plain step + the part alone - what it replaces), for each round."""
    found = {name: np.array(values) for name, values in seconds.items()}
    own = {name: found[f"{name} alone"] - found.get(f"{name} replaces", 0.0) for name in PARTS}
    own["all three"] = sum(own.values(), np.zeros(1))
    return {name: found[name] / (found["plain"] + added) for name, added in own.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds that are counted")
    rounds = parser.parse_args().rounds
    seconds = measure(rounds)
    print(f"n = {rounds} rounds, load average {os.getloadavg()[0]:.1f}")
    print("| a step with | CPU ms | of which the part's own arithmetic | ratio: median, quartiles |\n|---|---|---|---|")
    plain = np.median(seconds["plain"])
    print(f"| none of them | {1000 * plain:.0f} | | |")
    for name, ratio in ratios(seconds).items():
        first, middle, third = np.quantile(ratio, [0.25, 0.5, 0.75])
        step = np.median(seconds[name])
        own = np.median(np.array(seconds[name]) / ratio) - plain
        print(f"| {name} | {1000 * step:.0f} | {1000 * own:.0f} | {middle:.3f}, {first:.3f} to {third:.3f} |")


if __name__ == "__main__":
    main()
