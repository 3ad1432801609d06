"""Wide-ResNet-50-2 on ImageNet after torchvision's V1 weights: pull request 912 of pytorch/vision, weights metadata.

Published: 78.468 % top-1, 94.086 % top-5, one run, 224 px centre crop of short side 256.
As resnet50_torchvision_v1, but of 256 epochs and with a cosine: their author (Zagoruyko) writes of SGD with a cosine
and warm restarts for 256 epochs, in place of the standard procedure for ResNets.
Unverified: batch, rate and weight decay, of which he says nothing, are those of resnet50_torchvision_v1.
Not as there: half a cosine without restarts, whose epochs are not stated; bf16, there fp16 with norms in fp32.

    torchrun --nproc-per-node 8 -m trainer train wideresnet50_torchvision_v1 --data DIR --run-dir DIR
"""

from dataclasses import replace

from recipes.resnet50_torchvision_v1 import recipe as base
from trainer.recipe import Cosine, Published, ResNet

recipe = replace(
    base,
    name="wideresnet50_torchvision_v1",
    published=Published(
        top1=78.468,
        runs=1,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="torchvision, Wide_ResNet50_2_Weights.IMAGENET1K_V1",
    ),
    model=ResNet(depth=50, width_per_group=128),
    schedule=Cosine(changes_every="epoch"),
    epochs=256,
)
