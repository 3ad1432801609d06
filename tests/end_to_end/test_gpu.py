"""What a CPU can know of a GPU: on which device a step's tensors are, and that nothing there is read in it.

The GPU here computes nothing. Its tensors are fake: they have a device, a type and a shape, but no values, so that
torch refuses whatever would read one, and whatever would mix devices. Autograd itself wants a real GPU: gradients come
from nowhere, and what a backward pass does is not seen here.
"""

import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import timm.utils.model_ema
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from trainer.commands.benchmark import fit_trial
from trainer.commands.benchmark.repeated_step import RepeatedStep
from trainer.data import device
from trainer.data.augment import Augmenter
from trainer.data.device import DeviceBatch, device_batches
from trainer.data.loader import Batch
from trainer.distributed import process_group
from trainer.distributed.process_group import World
from trainer.distributed.run_ahead import RunAhead
from trainer.log.cadence import Cadence
from trainer.log.lines import LogLines
from trainer.model import build_model
from trainer.recipe import (
    EMA,
    LAMB,
    LARS,
    SGD,
    AdamW,
    AutoAugment,
    BinaryCrossEntropy,
    CifarResNet,
    ColorJitter,
    DecoupledSGD,
    Linear,
    Mixing,
    Optimizer,
    PcaLighting,
    RandAugment,
    RandomErasing,
    Recipe,
    TrivialAugmentWide,
)
from trainer.recipe_file import load_recipe
from trainer.run.state import Position
from trainer.step import compile_static
from trainer.step_metrics import StepMetrics

GPU = torch.device("cuda", 0)
RECIPE = replace(
    load_recipe("resnet20_he2015"),
    model=CifarResNet(depth=8),
    global_batch_size=16,
    micro_batch_size=8,
    clip_grad_norm=1.0,
    mixing=Mixing(mixup_alpha=0.2, cutmix_alpha=1.0),
    ema=EMA(decay=0.9),
    erasing=RandomErasing(probability=0.5),
)
PLAIN = replace(
    RECIPE, clip_grad_norm=None, mixing=None, ema=None, erasing=None, global_batch_size=128, micro_batch_size=128
)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The world of one process on such a GPU."""
    for name in ("Stream", "current_stream", "Event"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch, "Generator", MagicMock())
    device._copy_stream.cache_clear()
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _tensor, _stream: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda _tensor: pytest.fail("copied from the device"))
    monkeypatch.setattr(torch.Tensor, "numpy", _values)
    monkeypatch.setattr(torch, "_fused_sgd_", _same_device)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield World(rank=0, size=1, local_rank=0, local_size=1, device=GPU, gloo=MagicMock())
    device._copy_stream.cache_clear()


def _same_device(*lists: list[torch.Tensor], **_: object) -> None:
    """Of torch.optim's fused step, which has no form for fake tensors."""
    assert {tensor.device for tensors in lists for tensor in tensors} == {GPU}


def _values(tensor: torch.Tensor) -> np.ndarray:
    """A fake tensor of the host has none either: 0, 1, 2, ..., as the numbers of samples are."""
    assert tensor.device.type == "cpu", "read from the device"
    return np.arange(tensor.numel()).reshape(tensor.shape)


def batches(recipe: Recipe, count: int) -> list[Batch]:
    """As a loader gives them, on the host."""
    size, side = recipe.micro_batch_size, recipe.train_crop.resolution
    images, labels = torch.zeros(size, side, side, 3, dtype=torch.uint8), torch.zeros(size, dtype=torch.int64)
    return [Batch(images.permute(0, 3, 1, 2), labels, torch.arange(size)) for _ in range(count)]


def on_gpu(recipe: Recipe, count: int) -> list[DeviceBatch]:
    return list(device_batches(batches(recipe, count), GPU, recipe.mean, recipe.std, Augmenter(recipe, 0)))


AUGMENTED = {
    "as they are": PLAIN,
    "TrivialAugment, jitter": replace(
        PLAIN,
        augmentation=TrivialAugmentWide(),
        color=ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
    ),
    "AutoAugment": replace(PLAIN, augmentation=AutoAugment()),
    "RandAugment, lighting, erasing": replace(
        PLAIN,
        augmentation=RandAugment(operations=2, magnitude=7, probability=0.9),
        color=PcaLighting(std=0.1),
        erasing=RandomErasing(probability=0.5),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", AUGMENTED)
def test_step_images_are_prepared_on_the_gpu_and_nothing_is_read_from_it(name: str, gpu: World) -> None:
    """128 images: each of the operations is among them."""
    for batch in on_gpu(AUGMENTED[name], 2):
        assert {tensor.device for tensor in batch} == {GPU}
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_copy_stream_is_one_for_the_life_of_the_process(gpu: World) -> None:
    """torch caches freed memory by stream: with a new stream each epoch it kept growing."""
    for _epoch in range(3):
        on_gpu(PLAIN, 2)
    assert isinstance(torch.cuda.Stream, MagicMock)
    assert torch.cuda.Stream.call_count == 1


@pytest.mark.parametrize(("ready", "read"), [(True, [2, 3, 4, 4]), (False, [1, 2, 3, 4])])
def test_batch_is_prepared_ahead_but_never_held_back_for_the_next(ready: bool, read: list[int], gpu: World) -> None:
    taken = 0

    def loader() -> Iterator[Batch]:
        nonlocal taken
        for batch in batches(PLAIN, 4):
            taken += 1
            yield batch

    found = []
    for _batch in device_batches(loader(), GPU, PLAIN.mean, PLAIN.std, is_ready=lambda: ready):
        found.append(taken)
    assert found == read


def test_batches_in_memory_are_those_that_fit_counts(gpu: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is as far behind as RunAhead lets it, and needs the images of a step until it has done it."""
    made: list[weakref.ref[torch.Tensor]] = []
    needed: deque[torch.Tensor] = deque()
    most = 0

    def device_batch(images: torch.Tensor, labels: torch.Tensor, samples: torch.Tensor) -> DeviceBatch:
        nonlocal most
        made.append(weakref.ref(images))
        most = max(most, sum(image() is not None for image in made))
        return DeviceBatch(images, labels, samples)

    monkeypatch.setattr(device, "DeviceBatch", device_batch)
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: MagicMock(synchronize=needed.popleft))
    run_ahead = RunAhead(GPU)
    for batch in device_batches(batches(PLAIN, 20), GPU, PLAIN.mean, PLAIN.std):
        needed.append(batch.images)
        run_ahead.after_batch()
    counted = fit_trial._batch_bytes(PLAIN, GPU) / fit_trial._batch_bytes(PLAIN, torch.device("cpu"))
    assert 3 * counted == most


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", [SGD(lr=0.1), DecoupledSGD(lr=0.1), AdamW(lr=0.1), LAMB(lr=0.1), LARS(lr=0.1)], ids=str
)
def test_step_reads_nothing_from_the_gpu(spec: Optimizer, gpu: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that a recipe can ask for: accumulation, mixing, clipping, EMA, and the metrics of each step."""
    recipe = replace(RECIPE, optimizer=spec, loss=BinaryCrossEntropy())
    module = network(monkeypatch)
    step = RepeatedStep(recipe, module, gpu, steps_per_epoch=4)
    for batch in on_gpu(recipe, 4):
        step(batch)
    average = step.state.average
    assert average and step.state.position.step == 2
    for tensor in (*module.state_dict().values(), *average.state_dict().values()):
        assert tensor.device == GPU


def test_line_of_metrics_reads_nothing_from_the_gpu_until_the_next(gpu: World, monkeypatch: pytest.MonkeyPatch) -> None:
    events = MagicMock()
    monkeypatch.setattr(torch.cuda, "Event", events)
    log, at = MagicMock(), Position(steps_per_epoch=100, batch=1)
    metrics = StepMetrics(20, gpu, scaled=False)
    metrics.start(0)
    metrics.add_loss(0, torch.ones((), device=GPU))
    lines = LogLines(log, Cadence(20), metrics, gpu)
    lines.after_step(at, lr=0.1)
    assert not log.steps.called
    assert events.return_value.record.called and not events.return_value.synchronize.called
    with pytest.raises(DataDependentOutputException):  # fake tensors have no values: this is where it is read
        lines.flush()
    assert events.return_value.synchronize.called


def test_step_whoever_reads_or_mixes_devices_is_found(gpu: World) -> None:
    """The tests above are worth what this is worth."""
    there, here = torch.ones(3, device=GPU), torch.ones(3)
    for read in (torch.Tensor.item, bool, torch.Tensor.__float__):
        with pytest.raises(DataDependentOutputException):
            read(there.sum())
    with pytest.raises(DynamicOutputShapeException):
        there[there > 0]
    with pytest.raises(RuntimeError, match="device"):
        there + here


def network(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """On the GPU; backward() gives each of its parameters a gradient, and EMA's copy of it is another one like it."""
    with GPU:
        module, copied = (build_model(RECIPE.model, RECIPE.num_classes) for _ in range(2))
    monkeypatch.setattr(torch.Tensor, "backward", lambda _loss: give_gradients(module))
    monkeypatch.setattr(timm.utils.model_ema, "deepcopy", lambda _module: copied)  # it would copy storages
    return module


def give_gradients(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad = torch.empty_like(parameter)


@pytest.mark.slow
def test_step_one_compilation_is_for_all_steps() -> None:
    """Neither the rate nor the seed of a step is part of the graph: on a GPU each compilation costs a minute."""
    from torch._dynamo.testing import CompileCounter  # takes a second

    module, compiled = build_model(RECIPE.model, RECIPE.num_classes), CompileCounter()
    module.compile(backend=compiled)
    recipe = replace(RECIPE, schedule=Linear(final_lr=0.0), precision="bf16")
    with process_group.initialize("cpu", timeout_minutes=1) as world:
        step = RepeatedStep(recipe, module, world, steps_per_epoch=4)
        assert compiled.frame_count == 1  # before the first step
        for batch in device_batches(batches(recipe, 6), world.device, recipe.mean, recipe.std, Augmenter(recipe, 0)):
            step(batch)
    assert compiled.frame_count == 1


@pytest.mark.slow
def test_step_has_a_graph_for_each_resolution_of_its_images_and_none_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch would make one graph for all sizes after the second, and none beyond its limit of eight."""
    seen: list[int | torch.SymInt] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        seen.extend(each.shape[2] for each in inputs if each.ndim == 4 and len(each) == 1)
        return graph.forward

    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1))
    compile_really = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **given: compile_really(self, backend=backend, **given))
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    sizes = range(16, 16 + 12)
    with torch._dynamo.config.patch(recompile_limit=8), torch._inductor.config.patch(compile_threads=1):
        compile_static(module, "default", resolutions=len(sizes), threads=3)
        assert torch._inductor.config.compile_threads == 3
        for _ in range(2):
            for size in sizes:
                module(torch.zeros(1, 3, size, size))
    assert seen == [*sizes]
