"""ResNet-50 on ImageNet as torchvision trained its V2 weights: its reference scripts and weights metadata.

Published: 80.858 % top-1, 95.434 % top-5, one run, the averaged weights, 224 px centre crop of short side 232.
8 GPUs x 128 images, 600 epochs, lr 0.5, 5 epochs of warmup from 0.01 of it and half a cosine, changed once per epoch,
momentum 0.9, weight decay 2e-5 but not on norms, label smoothing 0.1, crops of 176 px, TrivialAugmentWide, a box
erased from 10 % of the images, mixup 0.2 or cutmix 1.0 on every batch, each image 4 times in an epoch that holds a
quarter of them, an average of the weights every 32 steps, whose 0.99998 the scripts rescale by batch, steps and epochs
to 0.99891.
Unverified: the flags are read from copies of the command in issue 3995 of pytorch/vision, its code from its
repository; fp32 is assumed. Later versions of its scripts shear, shift and rotate with bilinear interpolation, the
first ones with the nearest pixel; that the weights are of a later one is our reading.
Not as there: bf16 (--precision fp32 is the literal one); the count of 32 steps runs on over epochs, theirs begins with
each of them, which makes 40 averages in an epoch instead of 39.

    torchrun --nproc-per-node 8 -m trainer train resnet50_torchvision_v2 --data DIR --run-dir DIR
"""

from trainer.recipe import (
    EMA,
    SGD,
    CenterCrop,
    Cosine,
    CrossEntropy,
    Mixing,
    Published,
    RandomErasing,
    RandomResizedCrop,
    Recipe,
    ResNet,
    TrivialAugmentWide,
    Warmup,
)

recipe = Recipe(
    name="resnet50_torchvision_v2",
    dataset="ImageNet-1k",
    published=Published(
        top1=80.858,
        runs=1,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 232, averaged weights",
        source="torchvision, ResNet50_Weights.IMAGENET1K_V2",
    ),
    model=ResNet(depth=50),
    num_classes=1000,
    train_crop=RandomResizedCrop(resolution=176),
    flip=True,
    augmentation=TrivialAugmentWide(interpolation="bilinear"),
    erasing=RandomErasing(probability=0.1),
    mixing=Mixing(mixup_alpha=0.2, cutmix_alpha=1.0),
    repeats=4,
    eval_crop=CenterCrop(resolution=224, crop_ratio=224 / 232),
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=SGD(lr=0.5, momentum=0.9, weight_decay=2e-5, decay_norm=False, decay_bias=True),
    schedule=Cosine(warmup=Warmup(epochs=5, lr=0.01 * 0.5), changes_every="epoch"),
    ema=EMA(decay=1 - (1 - 0.99998) * 8 * 128 * 32 / 600, every=32, start_epoch=5),
    epochs=600,
    global_batch_size=1024,
    micro_batch_size=128,
    precision="bf16",
)
