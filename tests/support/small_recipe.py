"""A recipe of seconds: ResNet-8 on the digits."""

from trainer.recipe import SGD, CenterCrop, CifarResNet, Cosine, CrossEntropy, PaddedCrop, Recipe, Warmup

recipe = Recipe(
    name="small",
    dataset="digits (scikit-learn)",
    published=None,
    model=CifarResNet(depth=8),
    num_classes=10,
    train_crop=PaddedCrop(resolution=16, padding=2),
    flip=True,
    eval_crop=CenterCrop(resolution=16, crop_ratio=1.0),
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=SGD(lr=0.05, nesterov=True, decay_norm=False),
    schedule=Cosine(warmup=Warmup(epochs=0.5, lr=0.01)),
    clip_grad_norm=5.0,
    epochs=2,
    global_batch_size=96,
    micro_batch_size=16,
    precision="fp32",  # bf16 takes twice as long where it is emulated; test_recipe_runs.py has it
)
