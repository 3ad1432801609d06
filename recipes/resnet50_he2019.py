"""ResNet-50 on ImageNet with batch 256: the baseline of He et al. 2019, "Bag of Tricks", arXiv:1812.01187, Table 4.

Published: 75.87 % top-1, 224 px centre crop of short side 256: where the paper's ladder of tricks begins.
8 GPUs x 32 images, 120 epochs, lr 0.1, x 0.1 at epochs 30, 60 and 90, Nesterov momentum 0.9, weight decay 1e-4 on every
parameter, crops of 8 to 100 % of the area, flips, brightness and saturation changed by factors of 0.6 to 1.4.
Momentum and decay are read in the authors' training logs (dmlc/web-data, gluoncv/logs).
Unverified: the results of Tables 4 and 6 are from memory; section 2 was read in summaries of the paper.
Strides are on the first 1x1 of a block, as in Figure 1: Table 5 begins with this network.
Not as in the paper: hue and PCA noise stay as they are; He's initialisation in place of Xavier's; bf16, there fp32. The
authors' own script differs from the paper's text: it changes contrast too, leaves hue alone and has He's form.

    torchrun --nproc-per-node 8 -m trainer train resnet50_he2019 --data DIR --run-dir DIR
"""

from trainer.recipe import SGD, CenterCrop, ColorJitter, Published, RandomResizedCrop, Recipe, ResNet, Steps

recipe = Recipe(
    name="resnet50_he2019",
    dataset="ImageNet-1k",
    published=Published(
        top1=75.87,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2019, arXiv:1812.01187, Table 4",
    ),
    model=ResNet(depth=50, variant="a"),
    num_classes=1000,
    train_crop=RandomResizedCrop(resolution=224),
    flip=True,
    color=ColorJitter(brightness=0.4, saturation=0.4),
    eval_crop=CenterCrop(resolution=224, crop_ratio=224 / 256),
    optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    schedule=Steps(milestones=(30, 60, 90)),
    epochs=120,
    global_batch_size=256,
    micro_batch_size=32,
    precision="bf16",
)
