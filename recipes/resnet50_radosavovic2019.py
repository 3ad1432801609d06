"""ResNet-50 on ImageNet, the baseline of pycls: its model zoo, for Radosavovic et al. 2020, arXiv:2003.13678.

Published: 76.8 % top-1, the mean of 5 runs, 224 px centre crop of short side 256, in MODEL_ZOO.md. The weights offered
there are of the run closest to the mean: 76.81 %, in dev/model_error.json.
8 GPUs x 32 images, lr 0.1 for each 128, half a cosine, changed once per epoch, 100 epochs, Nesterov momentum 0.9,
weight decay 5e-5 on everything, norms too, PCA lighting 0.1, classifier N(0, 0.01), all gammas 1, no label smoothing.
Unverified: sources conflict on warmup. The configuration files have none and the code's default is none, which is what
this does; the zoo's text speaks of 5 epochs.
Not as there: bf16 (--precision fp32 is the literal one); aspect ratios are uniform in their logarithm, there uniform
and transposed at random.

    torchrun --nproc-per-node 8 -m trainer train resnet50_radosavovic2019 --data DIR --run-dir DIR
"""

from trainer.recipe import SGD, CenterCrop, Cosine, PcaLighting, Published, RandomResizedCrop, Recipe, ResNet

recipe = Recipe(
    name="resnet50_radosavovic2019",
    dataset="ImageNet-1k",
    published=Published(
        top1=76.8,
        runs=5,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="facebookresearch/pycls, MODEL_ZOO.md; Radosavovic et al. 2020, arXiv:2003.13678",
    ),
    model=ResNet(depth=50, fc_std=0.01),
    num_classes=1000,
    train_crop=RandomResizedCrop(resolution=224),
    flip=True,
    color=PcaLighting(std=0.1),
    eval_crop=CenterCrop(resolution=224, crop_ratio=224 / 256),
    optimizer=SGD(lr=0.1 * 256 / 128, momentum=0.9, nesterov=True, weight_decay=5e-5),
    schedule=Cosine(changes_every="epoch"),
    epochs=100,
    global_batch_size=256,
    micro_batch_size=32,
    precision="bf16",
)
