"""ResNet-50 with torchvision's ImageNet weights, fine-tuned on any folder of classes. Our own recipe, a start.

Published: none; ours, and nobody has published a result for it. lr 0.01, momentum 0.9 and weight decay 1e-4 are common
defaults for fine-tuning (Li et al. 2020, arXiv:2002.11770), half a cosine is as in Kornblith et al. 2019,
arXiv:1805.08974 (from memory); the rest is ours.
Classes: say --num-classes N; 37 is an example, the breeds of Oxford-IIIT Pet. The classifier is new and learns at lr,
all other layers at a tenth of it: --fine-tuning.backbone-lr 1.0 has one rate for all, 0 freezes them, which is a
linear probe, and --fine-tuning.freeze-norms keeps the norms' statistics, gamma and beta: for few images, or small
batches.
Where nothing can be downloaded: --model.no-pretrained --initial-weights FILE, with a file of torchvision's resnet50.
On 8 GPUs --global-batch-size 512 --optimizer.lr 0.08, if there are images enough for it.

    python -m trainer prepare folder SRC --out DIR
    python -m trainer train resnet50_finetune --data DIR --run-dir DIR
"""

from trainer.recipe import SGD, CenterCrop, Cosine, FineTuning, LibraryModel, RandomResizedCrop, Recipe, Warmup

recipe = Recipe(
    name="resnet50_finetune",
    dataset="any folder of classes",
    published=None,
    model=LibraryModel(name="torchvision/resnet50", pretrained=True),
    num_classes=37,
    train_crop=RandomResizedCrop(resolution=224),
    flip=True,
    eval_crop=CenterCrop(resolution=224, crop_ratio=224 / 256),
    optimizer=SGD(lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4),
    schedule=Cosine(warmup=Warmup(epochs=1, lr=0.001)),
    fine_tuning=FineTuning(backbone_lr=0.1),
    epochs=30,
    global_batch_size=64,
    micro_batch_size=64,
    precision="bf16",
)
