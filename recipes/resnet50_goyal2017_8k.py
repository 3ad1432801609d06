"""ResNet-50 on ImageNet with batch 8192: Goyal et al. 2017, "ImageNet in 1 Hour", arXiv:1706.02677, Table 1.

Published: 23.74 +- 0.09 % top-1 error at k*n = 8k: the median of the last 5 epochs, mean and deviation of 5 runs.
The literal recipe. Linear scaling: lr = 0.1 * 8192 / 256 (section 2.1). Gradual warmup from 0.1, whatever the batch,
by a constant amount per iteration over 5 epochs (section 2.2). BN statistics over n = 32 images, never synchronised
(section 2.3). Weight decay 1e-4, not on gamma and beta; the classifier's bias, of which the paper does not speak,
decays. Last gamma of every block 0, classifier N(0, 0.01), stride 2 on the 3x3 (section 5.1). Crops of random scale
and aspect ratio, flip, no colour augmentation. The paper's momentum correction is for another form of momentum than
PyTorch's.
Four groups of 32 share a forward pass, which keeps a large GPU busy; the paper's 256 workers are
--micro-batch-size 32.
Not as in the paper: bf16, where the paper speaks of no reduced precision (--precision fp32 is the literal one).

    torchrun --nproc-per-node 8 -m trainer train resnet50_goyal2017_8k --data DIR --run-dir DIR
"""

from trainer.recipe import SGD, CenterCrop, Published, RandomResizedCrop, Recipe, ResNet, Steps, Warmup

recipe = Recipe(
    name="resnet50_goyal2017_8k",
    dataset="ImageNet-1k",
    published=Published(
        top1=76.26,
        sd=0.09,
        runs=5,
        statistic="median of the last 5",
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="Goyal et al. 2017, arXiv:1706.02677, Table 1",
    ),
    model=ResNet(depth=50, zero_init_residual=True, fc_std=0.01),
    num_classes=1000,
    train_crop=RandomResizedCrop(resolution=224),
    flip=True,
    eval_crop=CenterCrop(resolution=224, crop_ratio=224 / 256),
    optimizer=SGD(lr=0.1 * 8192 / 256, momentum=0.9, nesterov=True, weight_decay=1e-4, decay_norm=False),
    schedule=Steps(milestones=(30, 60, 80), warmup=Warmup(epochs=5, lr=0.1)),
    epochs=90,
    global_batch_size=8192,
    micro_batch_size=128,
    norm_batch_size=32,
    precision="bf16",
)
