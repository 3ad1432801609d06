"""ResNet-20 on CIFAR-10: He et al. 2015, "Deep Residual Learning", arXiv:1512.03385, section 4.2 and Table 6.

Published: 8.75 % test error, one run, at the end of 64k iterations.
From the paper: 3x3 stem, stages of 16/32/64 channels, parameter-free shortcuts, batch 128 on two GPUs (so BN over 64),
momentum 0.9, weight decay 1e-4 on everything, lr 0.1, divided by 10 at 32k and 48k iterations, 4 px of padding, random
32 x 32 crop, flip. 64k iterations are 164 epochs of 390 batches; the drops are at 82 and 123.
The split into 45,000 and 5,000 images chose the 64k iterations; the results are of training on all 50,000.
Not as in the paper: the mean is subtracted per channel, not per pixel; bf16.
Padding has the colour of the mean, as the paper pads after subtracting it.

    python -m trainer prepare cifar10 SRC --out data/cifar10
    python -m trainer train resnet20_he2015 --data data/cifar10 --run-dir runs/resnet20_he2015
"""

from trainer.recipe import SGD, CenterCrop, CifarResNet, PaddedCrop, Published, Recipe, Steps

recipe = Recipe(
    name="resnet20_he2015",
    dataset="CIFAR-10",
    published=Published(
        top1=91.25,
        runs=1,
        statistic="final",
        protocol="CIFAR-10 test, 32 px",
        source="He et al. 2015, arXiv:1512.03385, Table 6",
    ),
    model=CifarResNet(depth=20),
    num_classes=10,
    train_crop=PaddedCrop(resolution=32, padding=4, fill=(125, 123, 114)),
    flip=True,
    eval_crop=CenterCrop(resolution=32, crop_ratio=1.0),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Steps(milestones=(82, 123)),
    epochs=164,
    global_batch_size=128,
    micro_batch_size=64,
    precision="bf16",
)
