"""ResNet-50-D on ImageNet with a teacher: He et al. 2019, "Bag of Tricks", arXiv:1812.01187, Table 6.

Published: 78.67 % top-1, 224 px centre crop of short side 256.
As resnet50d_he2019_smoothing, with a trained ResNet-152-D as the teacher at temperature 20. Its loss is added to that
of the labels, multiplied by the square of the temperature (section 5.3). Their cross-entropy with the teacher differs
from our divergence by the teacher's entropy, which has no gradient.
The teacher's weights are a file. Those of the authors are not in PyTorch's format; to train some of your own:
resnet50d_he2019_smoothing --model.depth 152. The result depends on them, so compare shows the published number without
a difference.
Unverified: the result is from memory. The authors' code (gluoncv) halves both losses, the paper's formula does not;
neither says which of them gave the result.
Not as in the paper: as in resnet50d_he2019_smoothing; bf16, there fp16.

    torchrun --nproc-per-node 8 -m trainer train resnet50d_he2019_distilled --data DIR --run-dir DIR \\
        --teacher-weights FILE
"""

from dataclasses import replace

from recipes.resnet50d_he2019_smoothing import recipe as base
from trainer.recipe import Distillation, Published, ResNet

recipe = replace(
    base,
    name="resnet50d_he2019_distilled",
    published=Published(
        top1=78.67,
        runs=None,
        statistic=None,
        protocol="ImageNet val, 224 px centre crop of short side 256",
        source="He et al. 2019, arXiv:1812.01187, Table 6",
    ),
    distillation=Distillation(teacher=ResNet(depth=152, variant="d"), temperature=20.0, weight=1.0, label_weight=1.0),
)
