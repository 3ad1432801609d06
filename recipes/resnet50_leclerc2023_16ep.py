"""ResNet-50 on ImageNet in 16 epochs of growing crops: Leclerc et al. 2023, "FFCV", arXiv:2306.12517.

Published: 73.76 % top-1, one run, 14.9 minutes on 8 A100, tested at 256 px from the centre 224/256 with flip TTA, as
its configurations and result file have it; its text says 224 px, which is our second reading.
8 GPUs x 512 images, lr 1.7, a straight line up to it over 2 epochs and one down to 0, momentum 0.9, weight decay 1e-4,
label smoothing 0.1, a blur before strided convolutions, crops of 160 px that grow to 192 between epochs 11 and 13 in
steps of 32. Images of at most 500 px, half of them as JPEG of quality 90: the defaults of prepare.
Crops have 8 % to 100 % of the area, FFCV's default.
Not as there: no norm decays, there a search for 'bn' in the names misses the shortcuts' norms; bf16, there fp16
(--precision fp16). On smaller GPUs --micro-batch-size 256: norms then see 256 images.

    python -m trainer prepare folder SRC --out DIR
    torchrun --nproc-per-node 8 -m trainer train resnet50_leclerc2023_16ep --data DIR --run-dir DIR
"""

from trainer.recipe import (
    SGD,
    CenterCrop,
    CrossEntropy,
    Linear,
    ProgressiveResizing,
    Published,
    RandomResizedCrop,
    Recipe,
    ResNet,
    Warmup,
)

recipe = Recipe(
    name="resnet50_leclerc2023_16ep",
    dataset="ImageNet-1k",
    published=Published(
        top1=73.76,
        runs=1,
        statistic="final",
        protocol="ImageNet val, 256 px from the centre 224/256, image and mirror image",
        source="Leclerc et al. 2023, arXiv:2306.12517; libffcv/ffcv-imagenet, rn50, 16 epochs",
    ),
    model=ResNet(depth=50, blur_pool="convs"),
    num_classes=1000,
    train_crop=RandomResizedCrop(resolution=192),
    progressive=ProgressiveResizing(start_resolution=160, start_epoch=11, end_epoch=13, multiple=32),
    flip=True,
    eval_crop=CenterCrop(resolution=256, crop_ratio=224 / 256, flip_tta=True),
    also_eval_crop=CenterCrop(resolution=224, crop_ratio=224 / 256),
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=SGD(lr=1.7, momentum=0.9, weight_decay=1e-4, decay_norm=False, decay_bias=True),
    schedule=Linear(warmup=Warmup(epochs=2, lr=1e-4 * 1.7)),
    epochs=16,
    global_batch_size=4096,
    micro_batch_size=512,
    precision="bf16",
)
