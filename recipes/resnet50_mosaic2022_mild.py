"""ResNet-50 on ImageNet in 36 epochs, MosaicML's Mild recipe of 2022: the yaml of mosaicml/examples.

Published: nothing for exactly these 36 epochs. Mild cut to 28.8 epochs (ssr 0.32, seed 17) has 76.19 % top-1, Mild of
any length below 60 epochs 75 to 78.1 %, both on Mosaic's pages; 75.9 % in 23.8 minutes on 8 A100 is an MLPerf
submission that builds on Mild. The blog's own yaml of Mild stops at 32.4 epochs.
8 GPUs x 256 images, decoupled SGD at lr 2.048, momentum 0.875, decay 5e-4 on everything, 8 epochs of warmup from 0,
cosine per step, binary cross-entropy summed over the classes with label smoothing 0.08, a blur before strided
convolutions and in the max-pool, an average of the weights with a half-life of 100 steps, 88 px growing to 176 from
40 % to 80 % of training. Classifier: bias -ln 1000 and, as He's form for 2048 inputs, deviation sqrt(2 / 2048).
Not as there: all gammas start at 1, there uniform in 0 to 1; convolutions have He's form for outputs, there for
inputs; crops are cut at their size, constant within an epoch, there batches shrink by nearest neighbours at every
step; bf16, there fp16.

    torchrun --nproc-per-node 8 -m trainer train resnet50_mosaic2022_mild --data DIR --run-dir DIR
"""

from trainer.recipe import (
    EMA,
    BinaryCrossEntropy,
    CenterCrop,
    Cosine,
    DecoupledSGD,
    ProgressiveResizing,
    RandomResizedCrop,
    Recipe,
    ResNet,
    Warmup,
)

recipe = Recipe(
    name="resnet50_mosaic2022_mild",
    dataset="ImageNet-1k",
    published=None,
    model=ResNet(depth=50, fc_std=(2 / 2048) ** 0.5, fc_bias=-6.907755278982137, blur_pool="convs_and_pool"),
    num_classes=1000,
    train_crop=RandomResizedCrop(resolution=176),
    progressive=ProgressiveResizing(start_resolution=88, start_epoch=0.4 * 36, end_epoch=0.8 * 36, multiple=4),
    flip=True,
    eval_crop=CenterCrop(resolution=224, crop_ratio=224 / 232),
    loss=BinaryCrossEntropy(label_smoothing=0.08, over_classes="sum"),
    optimizer=DecoupledSGD(lr=2.048, momentum=0.875, weight_decay=5e-4),
    schedule=Cosine(warmup=Warmup(epochs=8, lr=0.0)),
    ema=EMA(decay=2 ** (-20 / 100), every=20),
    epochs=36,
    global_batch_size=2048,
    micro_batch_size=256,
    precision="bf16",
)
