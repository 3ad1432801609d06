"""The data sets that recipes are written for: how many images they have."""

IMAGES = {
    "ImageNet-1k": (1_281_167, 50_000),
    "Imagenette": (9_469, 3_925),
    "CIFAR-10": (50_000, 10_000),
    "digits (scikit-learn)": (1_437, 360),
}
"""(training, validation), by Recipe.dataset"""
