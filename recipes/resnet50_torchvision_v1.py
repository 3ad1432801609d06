"""ResNet-50 on ImageNet as torchvision trained its V1 weights: its reference scripts and weights metadata.

Published: 76.130 % top-1, 92.862 % top-5, one run, 224 px centre crop of short side 256.
8 GPUs x 32 images, 90 epochs, lr 0.1, x 0.1 every 30 epochs, no warmup, momentum 0.9 without Nesterov, weight decay
1e-4 on every parameter, PyTorch's initialisation of the classifier, all gammas 1.
Unverified: the 8 GPUs are the scripts' today; who trained the weights wrote of 4 or perhaps 8 (pytorch/vision, pull
request 23), and norms over 64 images are --micro-batch-size 64.
Not as there: bf16 where torchvision trained in fp32 (--precision fp32 is the literal one).

    torchrun --nproc-per-node 8 -m trainer train resnet50_torchvision_v1 --data DIR --run-dir DIR
"""

from trainer.recipe import SGD, CenterCrop, Published, RandomResizedCrop, Recipe, ResNet, Steps

recipe = Recipe(
    name="resnet50_torchvision_v1",
    dataset="ImageNet-1k",
    published=Published(
        top1=76.130,
        runs=1,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="torchvision, ResNet50_Weights.IMAGENET1K_V1",
    ),
    model=ResNet(depth=50),
    num_classes=1000,
    train_crop=RandomResizedCrop(resolution=224),
    flip=True,
    eval_crop=CenterCrop(resolution=224, crop_ratio=224 / 256),
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Steps(milestones=(30, 60)),
    epochs=90,
    global_batch_size=256,
    micro_batch_size=32,
    precision="bf16",
)
