"""ResNet-18 on ImageNet in 32 epochs of growing crops, on one GPU: Leclerc et al. 2023, "FFCV", arXiv:2306.12517.

Published: 70.0 % top-1, one run, 68.9 minutes on one A100, tested at 256 px from the centre 224/256 with flip TTA.
As resnet18_leclerc2023_16ep, which says where each number is from, but 32 epochs, and crops that grow between epochs
23 and 27.
Not as there: no norm decays, there the shortcuts' do; bf16, there fp16; and what that recipe says.

    python -m trainer prepare folder SRC --out DIR --max-resolution 400 --compress-probability 0.1
    python -m trainer train resnet18_leclerc2023_32ep --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet18_leclerc2023_16ep import recipe as base
from trainer.recipe import ProgressiveResizing, Published

recipe = replace(
    base,
    name="resnet18_leclerc2023_32ep",
    published=Published(
        top1=70.0,
        runs=1,
        statistic="final",
        protocol="ImageNet val, 256 px from the centre 224/256, image and mirror image",
        source="Leclerc et al. 2023, arXiv:2306.12517; libffcv/ffcv-imagenet, rn18, 32 epochs",
    ),
    progressive=ProgressiveResizing(start_resolution=160, start_epoch=23, end_epoch=27, multiple=32),
    epochs=32,
)
