"""The small recipe with everything that could make a resumed run differ switched on."""

from dataclasses import replace
from pathlib import Path
from runpy import run_path

from trainer.recipe import EMA, Mixing, QuasiRandom, RandomErasing, TrivialAugmentWide

recipe = replace(
    run_path(str(Path(__file__).with_name("small_recipe.py")))["recipe"],
    name="everything",
    order=QuasiRandom(stretch=8, window=320),
    augmentation=TrivialAugmentWide(),
    erasing=RandomErasing(probability=0.25),
    mixing=Mixing(mixup_alpha=0.2, cutmix_alpha=1.0),
    repeats=2,
    ema=EMA(decay=0.9),
    norm_batch_size=8,
    precise_norm_images=96,
)
