"""ResNet-18 on ImageNet in 16 epochs of growing crops, on one GPU: Leclerc et al. 2023, "FFCV", arXiv:2306.12517.

Published: 66.9 % top-1, one run, 35.0 minutes on one A100, tested at 256 px from the centre 224/256 with flip TTA; our
second reading is a plain 224 px.
As resnet50_leclerc2023_16ep, which says where each number is from, but lr 0.5 at batch 1024 on one GPU and weight
decay 5e-5. Images of at most 400 px, 10 % of them as JPEG of quality 90.
Not as there: no norm decays, there the shortcuts' do; images come in random order, there in FFCV's QUASI_RANDOM; bf16,
there fp16. Several or smaller GPUs: --micro-batch-size 128, and norms see 128 images.

    python -m trainer prepare folder SRC --out DIR --max-resolution 400 --compress-probability 0.1
    python -m trainer train resnet18_leclerc2023_16ep --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_leclerc2023_16ep import recipe as base
from trainer.recipe import SGD, Linear, Published, ResNet, Warmup

recipe = replace(
    base,
    name="resnet18_leclerc2023_16ep",
    published=Published(
        top1=66.9,
        runs=1,
        statistic="final",
        protocol="ImageNet val, 256 px from the centre 224/256, image and mirror image",
        source="Leclerc et al. 2023, arXiv:2306.12517; libffcv/ffcv-imagenet, rn18, 16 epochs",
    ),
    model=ResNet(depth=18, blur_pool="convs"),
    optimizer=SGD(lr=0.5, momentum=0.9, weight_decay=5e-5, decay_norm=False, decay_bias=True),
    schedule=Linear(warmup=Warmup(epochs=2, lr=1e-4 * 0.5)),
    global_batch_size=1024,
    micro_batch_size=1024,
)
