"""ResNet-50 v1.5 on ImageNet in 90 epochs as NVIDIA trains it: the README and code of its DeepLearningExamples.

Published: 77.12 +- 0.11 % top-1 on 8 A100 with mixed precision, 224 px centre crop of short side 256. The number of
runs is not stated, nor whether it is of the last epoch or the best, which the code tracks.
8 GPUs x 256 images, lr 0.256 for each 256 images, raised by as much at each of the first 8 epochs, then half a cosine,
changed once per epoch, momentum 0.875 without Nesterov, weight decay 1/32768 but not on norms, label smoothing 0.1, no
mixup, all gammas 1.
Not as there: no norm decays, there a search for 'bn' in the names misses the shortcuts' norms; convolutions start with
He's form for outputs, there for inputs; bf16, there fp16 with a static loss scale of 128.

    torchrun --nproc-per-node 8 -m trainer train resnet50_nvidia_90ep --data DIR --run-dir DIR
"""

from trainer.recipe import SGD, CenterCrop, Cosine, CrossEntropy, Published, RandomResizedCrop, Recipe, ResNet, Warmup

recipe = Recipe(
    name="resnet50_nvidia_90ep",
    dataset="ImageNet-1k",
    published=Published(
        top1=77.12,
        sd=0.11,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="NVIDIA DeepLearningExamples, ConvNets/resnet50v1.5, README, DGX A100",
    ),
    model=ResNet(depth=50),
    num_classes=1000,
    train_crop=RandomResizedCrop(resolution=224),
    flip=True,
    eval_crop=CenterCrop(resolution=224, crop_ratio=224 / 256),
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=SGD(lr=0.256 * 2048 / 256, momentum=0.875, weight_decay=1 / 32768, decay_norm=False, decay_bias=True),
    schedule=Cosine(start_epoch=8, warmup=Warmup(epochs=7, lr=0.256 * 2048 / 256 / 8), changes_every="epoch"),
    epochs=90,
    global_batch_size=2048,
    micro_batch_size=256,
    precision="bf16",
)
