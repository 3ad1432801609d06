"""ResNet-50 on ImageNet in 40 epochs of growing crops: Leclerc et al. 2023, "FFCV", arXiv:2306.12517.

Published: 77.24 % top-1, one run, 35.6 minutes on 8 A100, tested at 256 px from the centre 224/256 with flip TTA.
As resnet50_leclerc2023_16ep, which says where each number is from, but 40 epochs, and crops that grow between epochs
29 and 34.
Not as there: no norm decays, there the shortcuts' do; bf16, there fp16; and what that recipe says.

    python -m trainer prepare folder SRC --out DIR
    torchrun --nproc-per-node 8 -m trainer train resnet50_leclerc2023_40ep --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_leclerc2023_16ep import recipe as base
from trainer.recipe import ProgressiveResizing, Published

recipe = replace(
    base,
    name="resnet50_leclerc2023_40ep",
    published=Published(
        top1=77.24,
        runs=1,
        statistic="final",
        protocol="ImageNet val, 256 px from the centre 224/256, image and mirror image",
        source="Leclerc et al. 2023, arXiv:2306.12517; libffcv/ffcv-imagenet, rn50, 40 epochs",
    ),
    progressive=ProgressiveResizing(start_resolution=160, start_epoch=29, end_epoch=34, multiple=32),
    epochs=40,
)
