"""ResNet-50 on ImageNet as it was first trained: He et al. 2015, "Deep Residual Learning", arXiv:1512.03385.

Published: 24.7 % top-1 error, 7.8 % top-5, one run, 224 px centre crop of short side 256, on the authors' page of
models (the paper's own tables have 10 crops).
From section 3.4: short side uniform in 256 to 480 px, random 224 px crop, flip, colour augmentation after Krizhevsky, a
norm after every convolution, the stride of a bottleneck on its first 1x1, batch 256, lr 0.1, momentum 0.9, weight decay
1e-4 without an exception named, at most 60e4 iterations, which are 120 epochs of 5,004. From the page: 8 GPUs x 32, and
norms that evaluate with statistics averaged over a large batch after training, here 16,384 images.
Unverified: the lr was divided by 10 when the error reached a plateau and the epochs are not published; 30, 60 and 90
are the usual reading. Later papers of its authors differ: 30 and 60 (arXiv:1603.05027, appendix), 30, 60 and 80
(Goyal et al. 2017, section 5.1). The latter also says that gamma and beta had no weight decay, "following" this paper;
--optimizer.no-decay-norm is that reading. The deviation of 0.1 in the colours is Krizhevsky's, from memory.
Not as in the paper: the mean is subtracted per channel, not per pixel, and divided by the deviation; PyTorch's form of
momentum, which differs for some steps after each drop; bf16.

    torchrun --nproc-per-node 8 -m trainer train resnet50_he2015 --data DIR --run-dir DIR
"""

from trainer.recipe import SGD, CenterCrop, PcaLighting, Published, Recipe, ResNet, ScaleJitterCrop, Steps

recipe = Recipe(
    name="resnet50_he2015",
    dataset="ImageNet-1k",
    published=Published(
        top1=75.3,
        runs=1,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2015, arXiv:1512.03385; the authors' page, KaimingHe/deep-residual-networks",
    ),
    model=ResNet(depth=50, variant="a"),
    num_classes=1000,
    train_crop=ScaleJitterCrop(resolution=224, short_side=(256, 480)),
    flip=True,
    color=PcaLighting(std=0.1),
    eval_crop=CenterCrop(resolution=224, crop_ratio=224 / 256),
    optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4),
    schedule=Steps(milestones=(30, 60, 90)),
    epochs=120,
    global_batch_size=256,
    micro_batch_size=32,
    precise_norm_images=16384,
    precision="bf16",
)
