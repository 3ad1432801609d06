"""Distillation: the loss as in its papers, a step beside a plain loop, and a teacher that is refused in one line."""

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.small_checkpoint import checkpoint_content
from tests.test_step import ACCUMULATION, RECIPE, micro_batches, network
from trainer.data.mixing import mix
from trainer.distillation import build_distilled_loss, build_teacher, frozen, require_resolutions, teacher_loss
from trainer.distributed import process_group
from trainer.distributed.process_group import World
from trainer.errors import UserError
from trainer.model import build_model
from trainer.recipe import (
    CifarResNet,
    CrossEntropy,
    Distillation,
    LibraryModel,
    Mixing,
    ProgressiveResizing,
    RandomResizedCrop,
    Recipe,
)
from trainer.run.teacher import Teacher
from trainer.setup.networks import build_state
from trainer.step import TrainingStep

TEACHER = CifarResNet(depth=14)
CLASSES = [str(digit) for digit in range(10)]
DISTILLED = replace(
    RECIPE,
    distillation=Distillation(teacher=TEACHER, temperature=2.0, weight=0.7),
    mixing=Mixing(mixup_alpha=1.0, cutmix_alpha=1.0),
)


@pytest.fixture
def world() -> Iterator[World]:
    with process_group.initialize("cpu", timeout_minutes=1) as world:
        yield world


def logits(seed: int) -> Tensor:
    return 3 * torch.randn(6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_teachers_part_is_hintons_divergence_times_the_squared_temperature(temperature: float) -> None:
    """Hinton et al. 2015, section 2; its gradient is then T * (q - p) / n, about as large as that of the labels."""
    ours, theirs = logits(0).requires_grad_(), logits(1)
    loss = teacher_loss(Distillation(teacher=TEACHER, temperature=temperature), ours, theirs)
    p, q = (theirs / temperature).softmax(1), (ours / temperature).softmax(1)
    torch.testing.assert_close(loss, temperature**2 * (p * (p / q).log()).sum(1).mean())
    (gradient,) = torch.autograd.grad(loss, ours)
    torch.testing.assert_close(gradient, temperature * (q - p).detach() / len(p))


def test_hard_distillation_learns_the_teachers_class() -> None:
    """Touvron et al. 2020, equation 3."""
    loss = teacher_loss(Distillation(teacher=TEACHER, hard=True), logits(0), logits(1))
    best = logits(1).argmax(1)
    torch.testing.assert_close(loss, -logits(0).log_softmax(1)[range(6), best].mean())


@pytest.mark.parametrize(
    ("spec", "of_labels", "of_teacher"),
    [
        (Distillation(teacher=TEACHER), 0.5, 0.5),
        (Distillation(teacher=TEACHER, weight=0.9), 0.1, 0.9),
        (Distillation(teacher=TEACHER, weight=1.0, label_weight=1.0), 1.0, 1.0),
        (Distillation(teacher=TEACHER, weight=1.0), 0.0, 1.0),
    ],
    ids=str,
)
def test_distilled_loss_is_the_weighted_sum_of_both(spec: Distillation, of_labels: float, of_teacher: float) -> None:
    labels = torch.arange(6)
    recipe = replace(RECIPE, distillation=spec, loss=CrossEntropy(label_smoothing=0.1))
    ours, theirs = logits(0).float(), logits(1).float()
    expected = of_labels * cross_entropy(ours, labels, label_smoothing=0.1)
    expected = expected + of_teacher * teacher_loss(spec, ours, theirs)
    torch.testing.assert_close(build_distilled_loss(recipe)(ours, labels, theirs), expected)


def test_distilled_loss_reads_nothing_from_the_device() -> None:
    class Reads(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.found += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    for hard in (False, True):
        spec = Distillation(teacher=TEACHER, hard=hard)
        loss = build_distilled_loss(replace(RECIPE, distillation=spec))
        with Reads() as reads:
            loss(logits(0).float(), torch.arange(6), logits(1).float())
        assert reads.found == 0


# ------------------------------------------------------------------------------------------------------------- step


def test_distilled_step_is_a_plain_loop_bit_for_bit(world: World) -> None:
    """Two steps of two micro-batches: teacher and student see the same mixed images."""
    torch.manual_seed(5)
    teacher = frozen(build_model(TEACHER, 10)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = copy.deepcopy(teacher.state_dict())
    module, plain = network(), network()
    state = build_state(DISTILLED, module, world, steps_per_epoch=10)
    step = TrainingStep(DISTILLED, state, world, accumulation=ACCUMULATION, teacher=teacher)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True, fused=True)
    for number, batch in enumerate(micro_batches(4)):
        step(batch, number % ACCUMULATION)
        assert DISTILLED.mixing
        place = {"num_classes": 10, "seed": 0, "step": number // 2, "micro_batch": number % 2}
        images, targets = mix(DISTILLED.mixing, batch.images, batch.labels, **place)
        with torch.no_grad():
            p = (teacher(images) / 2).log_softmax(1)
        student = plain(images)
        of_teacher = 4 * torch.nn.functional.kl_div((student / 2).log_softmax(1), p, None, None, "batchmean", True)
        of_labels = cross_entropy(student, targets, label_smoothing=0.1)
        (((1 - 0.7) * of_labels + 0.7 * of_teacher) / ACCUMULATION).backward()
        if number % ACCUMULATION == ACCUMULATION - 1:
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    ours, theirs = module.state_dict(), plain.state_dict()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert [name for name, tensor in teacher.state_dict().items() if not torch.equal(tensor, before[name])] == []
    assert not teacher.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


def test_students_network_may_overwrite_what_the_teachers_has_returned(world: World) -> None:
    """As networks do whose CUDA graphs torch.compile has made: they share their memory."""

    class Shared(torch.nn.Module):
        answer = torch.zeros(8, 10)

        def forward(self, images: Tensor) -> Tensor:
            return self.answer.copy_(images.flatten(1)[:, :10])

    def overwrite(*_given: object) -> None:
        Shared.answer.fill_(9.0)

    losses = []
    for overwrites in (False, True):
        module = network()
        if overwrites:
            module.register_forward_pre_hook(overwrite)
        state = build_state(DISTILLED, module, world, steps_per_epoch=10)
        step = TrainingStep(DISTILLED, state, world, accumulation=ACCUMULATION, teacher=Shared())
        losses.append(step._accumulate(micro_batches(1)[0].images, torch.full((8, 10), 0.1), is_last=False))
    assert torch.equal(*losses)


def test_step_without_its_teacher_is_refused(world: World) -> None:
    state = build_state(DISTILLED, network(), world, steps_per_epoch=10)
    with pytest.raises(ValueError, match="if and only if"):
        TrainingStep(DISTILLED, state, world, accumulation=ACCUMULATION)


# ---------------------------------------------------------------------------------------------------------- teacher


def saved(file: Path, model: CifarResNet = TEACHER, classes: int = 10, **more: Any) -> Path:
    torch.manual_seed(1)
    torch.save({"model": build_model(model, classes).state_dict(), **more}, file)
    return file


def test_teacher_of_a_file_is_frozen_in_evaluation_mode_and_named_by_the_files_checksum(tmp_path: Path) -> None:
    file = saved(tmp_path / "teacher.pt")
    module, found = build_teacher(DISTILLED, file, CLASSES)
    assert (found.network, found.file) == ("CifarResNet-14", "teacher.pt")
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert str(found) == f"CifarResNet-14 (teacher.pt, sha256:{found.sha256[:12]})"
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    state = torch.load(file, weights_only=True)["model"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


def test_teacher_of_one_resolution_is_refused_where_the_crops_grow() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert images.shape[2] == 32, f"it has {images.shape[2]} px"
            return images

    growing = ProgressiveResizing(start_resolution=24, start_epoch=0, end_epoch=1, multiple=8)
    recipe = replace(DISTILLED, train_crop=RandomResizedCrop(resolution=32))
    teacher = Teacher(network="fixed", file=None, sha256="0")
    require_resolutions(Fixed(), teacher, recipe, torch.device("cpu"))
    with pytest.raises(UserError, match=r"the teacher fixed does not take images of 24 px: it has 24 px"):
        require_resolutions(Fixed(), teacher, replace(recipe, progressive=growing), torch.device("cpu"))


def with_teacher(teacher: CifarResNet | LibraryModel) -> Recipe:
    return replace(DISTILLED, distillation=Distillation(teacher=teacher))


def test_teacher_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    other_classes = checkpoint_content(model=build_model(TEACHER, 10).state_dict(), classes=[*"abcdefghij"])
    torch.save(other_classes, tmp_path / "named.pt")
    other_order = {"classes": json.dumps(CLASSES[::-1])}  # as export writes it
    save_file(build_model(TEACHER, 10).state_dict(), tmp_path / "named.safetensors", other_order)
    cases: list[tuple[Recipe, Path | None, str]] = [
        (DISTILLED, None, "distillation needs the teacher's weights: add --teacher-weights FILE"),
        (DISTILLED, tmp_path / "none.pt", "the teacher's weights: there is no file"),
        (DISTILLED, saved(tmp_path / "8.pt", CifarResNet(depth=8)), "8.pt is of another network: "),
        (DISTILLED, saved(tmp_path / "5.pt", classes=5), "5.pt is for 5 classes, and the data has 10"),
        (DISTILLED, tmp_path / "named.pt", "named.pt was trained on other classes than the data has"),
        (DISTILLED, tmp_path / "named.safetensors", "named.safetensors was trained on other classes than the data has"),
    ]
    for name in ("timm/resnet18", "torchvision/resnet18"):
        published = LibraryModel(name=name, pretrained=True)
        cases.append((with_teacher(published), None, f"{name} was published for 1000 classes, and the data has 10"))
    cases.append((with_teacher(LibraryModel(name="timm/resnet_18", pretrained=True)), None, "did you mean"))
    gray = replace(with_teacher(LibraryModel(name="torchvision/resnet18", pretrained=True)), mean=(0.5, 0.5, 0.5))
    cases.append((replace(gray, num_classes=1000), None, "the teacher torchvision/resnet18 expects mean=(0.485, "))
    for recipe, file, answer in cases:
        with pytest.raises(UserError) as caught:
            build_teacher(recipe, file, CLASSES if recipe.num_classes == 10 else [*map(str, range(1000))])
        assert answer in str(caught.value)
        assert "\n" not in str(caught.value)
