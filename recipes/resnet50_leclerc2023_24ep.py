"""ResNet-50 on ImageNet in 24 epochs of growing crops: Leclerc et al. 2023, "FFCV", arXiv:2306.12517.

Published: 75.56 % top-1, one run, 21.7 minutes on 8 A100, tested at 256 px from the centre 224/256 with flip TTA.
As resnet50_leclerc2023_16ep, which says where each number is from, but 24 epochs, and crops that grow between epochs
17 and 20.
Not as there: no norm decays, there the shortcuts' do; bf16, there fp16; and what that recipe says.

    python -m trainer prepare folder SRC --out DIR
    torchrun --nproc-per-node 8 -m trainer train resnet50_leclerc2023_24ep --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_leclerc2023_16ep import recipe as base
from trainer.recipe import ProgressiveResizing, Published

recipe = replace(
    base,
    name="resnet50_leclerc2023_24ep",
    published=Published(
        top1=75.56,
        runs=1,
        statistic="final",
        protocol="ImageNet val, 256 px from the centre 224/256, image and mirror image",
        source="Leclerc et al. 2023, arXiv:2306.12517; libffcv/ffcv-imagenet, rn50, 24 epochs",
    ),
    progressive=ProgressiveResizing(start_resolution=160, start_epoch=17, end_epoch=20, multiple=32),
    epochs=24,
)
