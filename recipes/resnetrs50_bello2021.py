"""ResNet-RS-50 on ImageNet at 160 px: Bello et al. 2021, "Revisiting ResNets", arXiv:2103.07579.

Published: 78.8 % top-1 at 160 px, one run, the averaged weights (the README of resnet_rs in tensorflow/tpu).
From the authors' configuration: batch 4096, 350 epochs, lr 0.1 * 4096 / 256, momentum 0.9, weight decay 4e-5, label
smoothing 0.1, dropout 0.25, RandAugment of 2 operations and magnitude 10, an average of the weights of decay 0.9999,
squeeze-and-excitation of 0.25, a deep stem without max-pool, average pooling in the shortcuts, bfloat16. It drops no
paths at this depth.
Unverified: 5 epochs of warmup from 0 and a cosine to 0, Nesterov momentum, no decay of norms, zero last gammas, a
classifier from N(0, 0.01) and the crop of 160/192 are read in other versions of that code; 128 images in a norm are a
guess.
Not as there: RandAugment has timm's operations, each applied with probability 0.5, there drawn from 0.2 to 0.8; running
statistics are averages of their own, there the average of the weights is the only one; convolutions have He's form for
outputs, there a variance of 1 / inputs; no bicubic filter.

    torchrun --nproc-per-node 8 -m trainer train resnetrs50_bello2021 --data DIR --run-dir DIR
"""

from trainer.recipe import (
    EMA,
    SGD,
    CenterCrop,
    Cosine,
    CrossEntropy,
    Published,
    RandAugment,
    RandomResizedCrop,
    Recipe,
    ResNet,
    Warmup,
)

recipe = Recipe(
    name="resnetrs50_bello2021",
    dataset="ImageNet-1k",
    published=Published(
        top1=78.8,
        runs=1,
        statistic=None,
        protocol="ImageNet val, 160 px centre crop of ratio 160/192, averaged weights",
        source="Bello et al. 2021, arXiv:2103.07579; tensorflow/tpu, resnet_rs, README",
    ),
    model=ResNet(depth=50, variant="rs", se_ratio=0.25, dropout=0.25, zero_init_residual=True, fc_std=0.01),
    num_classes=1000,
    train_crop=RandomResizedCrop(resolution=160),
    flip=True,
    augmentation=RandAugment(operations=2, magnitude=10, magnitude_std=0.0, probability=0.5),
    eval_crop=CenterCrop(resolution=160, crop_ratio=160 / 192),
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=SGD(lr=0.1 * 4096 / 256, momentum=0.9, nesterov=True, weight_decay=4e-5, decay_norm=False),
    schedule=Cosine(warmup=Warmup(epochs=5, lr=0.0)),
    ema=EMA(decay=0.9999),
    epochs=350,
    global_batch_size=4096,
    micro_batch_size=128,
    precision="bf16",
)
