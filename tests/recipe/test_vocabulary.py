"""What a recipe cannot mean is refused where it is written, naming the setting, its value and the way out."""

import importlib
import math
import re
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import pytest

import trainer.recipe
from trainer.recipe import (
    EMA,
    LAMB,
    LARS,
    SGD,
    SWA,
    AdamW,
    AugMix,
    BinaryCrossEntropy,
    CifarResNet,
    ColorJitter,
    Cosine,
    DecoupledSGD,
    Distillation,
    FineTuning,
    LibraryOptimizer,
    Linear,
    Mixing,
    Optimizer,
    PaddedCrop,
    PcaLighting,
    ProgressiveResizing,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    ResNet,
    ScaleJitterCrop,
    Steps,
    WideResNet,
)
from trainer.recipe_file import load_recipe
from trainer.setup.checks import likely_mistakes

GOYAL = load_recipe("resnet50_goyal2017_8k")
RESNET = ResNet(depth=18)
MIXED = Mixing(mixup_alpha=0.2)
GROWING = ProgressiveResizing(start_resolution=160, start_epoch=1, end_epoch=2)

REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: ResNet(depth=50, drop_path=1.0), r"model\.drop_path=1\.0 is not within \[0, 1\)"),
    (lambda: ResNet(depth=18, residual=False, drop_path=0.1), r"drop_path=0\.1 needs model\.residual=True"),
    (lambda: CifarResNet(depth=20, width=0), r"model\.width=0 is not a positive number"),
    (lambda: ResNet(depth=50, groups=0), r"model\.groups=0 is not a positive number"),
    (lambda: ResNet(depth=50, width_per_group=0), r"model\.width_per_group=0 is not a positive number"),
    (
        lambda: ResNet(depth=18, groups=32, width_per_group=4),
        r"are for bottlenecks, and model\.depth=18 has none: use 50",
    ),
    (lambda: ResNet(depth=34, width_per_group=128), r"width_per_group=128 are for bottlenecks"),
    (lambda: ResNet(depth=50, se_ratio=0.0), r"model\.se_ratio=0\.0 is not within \(0, 1\]; None leaves it out"),
    (lambda: ResNet(depth=50, dropout=1.0), r"model\.dropout=1\.0 is not within \[0, 1\)"),
    (lambda: ResNet(depth=50, variant="d", stem="cifar"), r"model\.variant='d' has a stem of its own"),
    (lambda: ResNet(depth=50, variant="d", residual=False), r"model\.variant='d' changes shortcuts, and"),
    (lambda: ResNet(depth=50, variant="rs", blur_pool="convs"), r"model\.variant='rs' has no max-pool for"),
    (lambda: CifarResNet(depth=28, preactivation=True), r"model\.depth=28 is not 6n \+ 2"),
    (lambda: CifarResNet(depth=50, preactivation=True, bottleneck=True), r"model\.depth=50 is not 9n \+ 2"),
    (lambda: CifarResNet(depth=164, bottleneck=True), r"bottleneck=True needs model\.preactivation=True"),
    (lambda: CifarResNet(depth=20, preactivation=True, residual=False), r"preactivation=True needs model\.residual"),
    (
        lambda: CifarResNet(depth=20, preactivation=True, zero_init_residual=True),
        r"zero_init_residual=True needs model\.preactivation=False: a last norm",
    ),
    (lambda: WideResNet(depth=26, width=10), r"model\.depth=26 is not 6n \+ 4: wide ResNets have 16, 22, 28"),
    (lambda: WideResNet(depth=28, width=0), r"model\.width=0 is not a positive number"),
    (lambda: WideResNet(depth=28, width=10, dropout=1.0), r"model\.dropout=1\.0 is not within"),
    (lambda: ScaleJitterCrop(resolution=224, short_side=(200, 480)), r"short_side=\(200, 480\) is not a range from"),
    (lambda: ProgressiveResizing(start_resolution=1, start_epoch=3, end_epoch=2), r"end_epoch=2 comes before"),
    (lambda: ColorJitter(contrast=1.5), r"color\.contrast=1\.5 is not within \[0, 1\]"),
    (lambda: PcaLighting(std=-0.1), r"color\.std=-0\.1 is negative"),
    (lambda: RandAugment(magnitude=11), r"augmentation\.magnitude=11 is not within \[0, 10\]"),
    (lambda: RandAugment(operations=0), r"augmentation\.operations=0 is not a positive number"),
    (lambda: AugMix(severity=0), r"augmentation\.severity=0 is not within 1 and 10"),
    (lambda: AugMix(depth=0), r"augmentation\.depth=0 is not a positive number"),
    (lambda: Distillation(teacher=RESNET, weight=0), r"weight=0 learns nothing from the teacher; distillation=None"),
    (lambda: Distillation(teacher=RESNET, weight=1.5), r"distillation\.weight=1\.5 is not within \[0, 1\]"),
    (lambda: Distillation(teacher=RESNET, temperature=0), r"distillation\.temperature=0 is not positive"),
    (lambda: Distillation(teacher=RESNET, label_weight=-1), r"distillation\.label_weight=-1 is negative"),
    (lambda: Distillation(teacher=RESNET, hard=True, temperature=2), r"distillation\.hard needs temperature=1"),
    (lambda: RandomErasing(probability=2), r"erasing\.probability=2 is not within"),
    (lambda: RandomErasing(probability=0.1, scale=(0.5, 0.1)), r"erasing\.scale=\(0\.5, 0\.1\) is not a range"),
    (lambda: Mixing(), r"mixing needs mixup_alpha or cutmix_alpha; mixing\.probability=0"),
    (lambda: Mixing(mixup_alpha=0), r"mixing\.mixup_alpha=0 is not positive"),
    (lambda: DecoupledSGD(lr=0.0), r"relative to optimizer\.lr, which is 0"),
    (lambda: AdamW(lr=1e-3, betas=(1.0, 0.9)), r"optimizer\.betas=1\.0 is not within \[0, 1\)"),
    (lambda: AdamW(lr=1e-3, eps=-1e-8), r"optimizer\.eps=-1e-08 is negative"),
    (lambda: AdamW(lr=1e-3, weight_decay=-0.1), r"optimizer\.weight_decay=-0\.1 is negative"),
    (lambda: AdamW(lr=-1e-3), r"optimizer\.lr=-0\.001 is negative"),
    (lambda: LibraryOptimizer(lr=0.1, name="lion"), r"optimizer\.name='lion' is not timm/NAME"),
    (lambda: LibraryOptimizer(lr=0.1, name="timm/lion", options={"lr": 1}), r"holds 'lr': set optimizer\.lr instead"),
    (lambda: LibraryOptimizer(lr=0.1, name="timm/lion", options={"eps": math.nan}), r"options: eps=nan is not finite"),
    (
        lambda: LibraryOptimizer(lr=0.1, name="timm/lion", options={"betas": [0.9]}),  # type: ignore[dict-item]
        r"options: betas=\[0\.9\] is not a number",
    ),
    (lambda: LAMB(lr=1e-3, betas=(0.9, 1.0)), r"optimizer\.betas=1\.0 is not within"),
    (lambda: LAMB(lr=1e-3, max_grad_norm=0), r"optimizer\.max_grad_norm=0 is not positive; None"),
    (lambda: LARS(lr=1.0, nesterov=True, momentum=0), r"nesterov needs optimizer\.momentum above 0"),
    (lambda: BinaryCrossEntropy(target_threshold=1), r"loss\.target_threshold=1 is not within"),
    (lambda: Steps(milestones=(1,), factor=-0.1), r"schedule\.factor=-0\.1 is negative"),
    (lambda: Cosine(final_lr=-1), r"schedule\.final_lr=-1 is negative"),
    (lambda: Linear(final_lr=-1), r"schedule\.final_lr=-1 is negative"),
    (lambda: EMA(decay=1.0), r"ema\.decay=1\.0 is not within \[0, 1\)"),
    (lambda: EMA(decay=0.9, every=0), r"ema\.every=0 is not a positive number"),
    (lambda: SWA(start_epoch=0), r"swa\.start_epoch=0 averages the initial weights too: use 1 or more"),
    (lambda: SWA(start_epoch=1, every=0), r"swa\.every=0 is not a positive number"),
    (lambda: replace(GOYAL, swa=SWA(start_epoch=75)), r"swa needs norms of its own: set precise_norm_images"),
    (
        lambda: replace(GOYAL, swa=SWA(start_epoch=75), precise_norm_images=128, ema=EMA(decay=0.9)),
        r"ema and swa both average the weights",
    ),
    (lambda: FineTuning(layer_decay=0), r"fine_tuning\.layer_decay=0 is not within \(0, 1\]; 1 switches it off"),
    (lambda: FineTuning(layer_decay=1.1), r"fine_tuning\.layer_decay=1\.1 is not within"),
    (lambda: FineTuning(layer_decay=0.5, backbone_lr=0), r"layer_decay sets rates of layers that .*backbone_lr=0"),
    (lambda: FineTuning(backbone_lr=-1), r"fine_tuning\.backbone_lr=-1 is negative"),
    (lambda: replace(GOYAL, clip_grad_value=0), r"clip_grad_value=0 is not positive; None"),
    (lambda: replace(GOYAL, clip_grad_agc=-0.01), r"clip_grad_agc=-0\.01 is not positive; None"),
    (lambda: replace(GOYAL, clip_grad_norm=1, clip_grad_agc=0.01), r"clip_grad_norm and clip_grad_agc are both set"),
    (lambda: replace(GOYAL, num_classes=1), r"num_classes=1: there is nothing to learn"),
    (lambda: replace(GOYAL, repeats=0), r"repeats=0 is not a positive number"),
    (lambda: replace(GOYAL, epochs=1_000_001), r"epochs=1000001 is more than a million"),
    (lambda: replace(GOYAL, norm_batch_size=48), r"micro_batch_size=128 is not a multiple of norm_batch_size=48"),
    (
        lambda: replace(GOYAL, norm_batch_size=32, sync_norm=True),
        r"sync_norm is for more images per norm",
    ),
    (lambda: replace(GOYAL, precise_norm_images=100), r"precise_norm_images=100 is not a multiple of micro_batch_size"),
    (
        lambda: replace(GOYAL, precise_norm_images=128, fine_tuning=FineTuning(freeze_norms=True)),
        r"precise_norm_images measures the statistics that fine_tuning keeps",
    ),
    (
        lambda: replace(GOYAL, micro_batch_size=1, norm_batch_size=None, mixing=MIXED),
        r"mixing needs two images, and micro_batch_size=1",
    ),
    (
        lambda: replace(GOYAL, progressive=GROWING, train_crop=PaddedCrop(resolution=32)),
        r"progressive needs a train_crop that is resized",
    ),
    (
        lambda: replace(GOYAL, progressive=GROWING, train_crop=RandomResizedCrop(resolution=128)),
        r"start_resolution=160 is more than train_crop\.resolution=128: crops grow",
    ),
    (
        lambda: replace(GOYAL, loss=BinaryCrossEntropy(label_smoothing=0.1, target_threshold=0.00001)),
        r"target_threshold=1e-05 is below 0\.0001, every target",
    ),
]


@pytest.mark.parametrize(("build", "answer"), REFUSED)
def test_recipe_what_is_invalid_is_refused(build: Callable[[], Any], answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        build()


def test_recipe_huge_batch_that_processes_cannot_share_is_refused_at_once() -> None:
    """10^18 micro-batches have more divisors than anybody has processes."""
    huge = replace(GOYAL, global_batch_size=10**18, micro_batch_size=1, norm_batch_size=None)
    with pytest.raises(ValueError, match=r"3 processes cannot share .*: use 1, 2, 4, 5, .*, 1000000 processes, or"):
        huge.accumulation(3)


def test_optimizers_start_from_one_vocabulary() -> None:
    """All of them have a peak rate, a decay and what it reaches: the loop and the audit ask no further."""
    kinds = get_args(Optimizer)
    assert {SGD, DecoupledSGD, AdamW, LAMB, LARS} <= set(kinds)
    for kind in kinds:
        assert {"lr", "weight_decay", "decay_norm", "decay_bias"} <= kind.__dataclass_fields__.keys()


FILES = sorted(path.stem for path in Path(trainer.recipe.__file__).parent.glob("*.py") if path.stem != "__init__")


def test_recipe_each_file_of_the_vocabulary_exports_its_classes_and_unions() -> None:
    """So that a new kind is known to recipes, stored recipes and the command line by its own file alone."""
    assert {"augmentation", "crop", "loss", "model", "optimizer", "recipe", "schedule"} <= set(FILES)
    unions = []
    for name in FILES:
        module = importlib.import_module(f"trainer.recipe.{name}")
        own = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        classes = {key for key, value in own.items() if is_dataclass(value) and value.__module__ == module.__name__}
        if not classes:
            continue
        assert classes <= set(module.__all__), name
        assert all(getattr(trainer.recipe, key) is own[key] for key in module.__all__)
        unions += [key for key in module.__all__ if isinstance(own[key], UnionType)]
    assert sorted(unions) == ["Augmentation", "Color", "Loss", "Model", "Optimizer", "Schedule", "TrainCrop"]


@pytest.mark.parametrize(
    ("name", "change", "note"),
    [
        ("resnet50_leclerc2023_88ep", {"epochs": 16}, r"progressive\.end_epoch=76 is not before the end of 16 epochs"),
        ("resnet50_torchvision_v2", {"epochs": 3}, r"schedule\.warmup\.epochs=5 is not before the end of 3 epochs"),
        ("resnet50_torchvision_v2", {"epochs": 3}, r"ema\.start_epoch=5 is not before the end of 3 epochs"),
        ("resnet50_nvidia_90ep", {"epochs": 8}, r"schedule\.start_epoch=8 is not before the end of 8 epochs"),
    ],
)
def test_shortened_recipe_is_warned_what_it_no_longer_reaches(name: str, change: dict[str, Any], note: str) -> None:
    assert likely_mistakes(load_recipe(name)) == []
    assert any(re.search(note, line) for line in likely_mistakes(replace(load_recipe(name), **change)))
