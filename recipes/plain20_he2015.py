"""The plain network of 20 layers, without shortcuts, on CIFAR-10: He et al. 2015, arXiv:1512.03385, section 4.2.

Published: only curves (Figure 6), no number; plain56_he2015 has more layers and a larger error. That degradation is
what the paper is about.
It is resnet20_he2015 without shortcuts, which on CIFAR-10 have no parameters: the same size, the same recipe.
Not as in the paper: the mean is subtracted per channel, and bf16, as there.

    python -m trainer prepare cifar10 SRC --out data/cifar10
    python -m trainer train plain20_he2015 --data data/cifar10 --run-dir runs/plain20_he2015
"""

from dataclasses import replace

from recipes.resnet20_he2015 import recipe as base
from trainer.recipe import CifarResNet

recipe = replace(base, name="plain20_he2015", published=None, model=CifarResNet(depth=20, residual=False))
