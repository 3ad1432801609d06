"""The options of other trainers, and what takes their place here. The command line answers with this table.

docs/coming-from.md shows the same tables; a test holds the two together. The names are in peer_tables.py.
"""

from trainer.cli.peer_tables import COMPOSER, FFCV_IMAGENET, HABITS, PYCLS, TIMM, TORCHVISION

_IN_RECIPE = "chosen in a recipe file"
_NONE = "no equivalent: "

ANSWERS = {
    # data
    "data": "--data DIR: a folder with train/ and val/, or the .beton files that `prepare` writes from it",
    "data_ffcv": "--data DIR with train.ffcv and val.ffcv, after `prepare adopt` of both",
    "data_split": f"{_NONE}--data DIR takes the folders train/ and val/ (or validation/, valid/)",
    "download": f"{_NONE}data sets are not downloaded; `prepare` converts what you have",
    "dataset": "--data DIR: class folders or .beton files",
    "cache": "`prepare folder SRC --out DIR` converts the images once",
    "data_fields": f"{_NONE}images are RGB, and their classes are folders or those of the .beton",
    "subset": f"{_NONE}an epoch is all images; give --data a smaller folder",
    "classes": "--num-classes",
    "workers": "--workers: threads per process; by default one per CPU of the process, one fewer with four or more",
    "loader": f"{_NONE}images are always prefetched and pinned",
    "worker_seeds": f"{_NONE}each random choice is a function of (seed, epoch, image), whichever worker makes it",
    "transforms": f"{_NONE}crops are made on the CPU, all other augmentation on the device",
    "in_memory": f"{_NONE}the system keeps the file in memory; order=QuasiRandom(...) suits one that is larger",
    # model
    "model": "choose a recipe of that network (`recipes resnet50` lists them), or --model.name for a library model: "
    "train resnet50_finetune --model.name torchvision/resnext50_32x4d",
    "depth": "--model.depth, or a recipe of that network",
    "pretrained": "resnet50_finetune starts from pretrained weights; any other recipe with --initial-weights FILE",
    "weights": "--initial-weights FILE",
    "architecture": f"model=LibraryModel(name='timm/NAME') {_IN_RECIPE}",
    "model_details": f"{_NONE}LibraryModel has a name, and pretrained weights or not",
    "blurpool": "--model.blur-pool",
    "zero_init": "--model.zero-init-residual",
    "groups": "--model.groups, --model.width-per-group of ResNet",
    "other_networks": f"model=LibraryModel(name='timm/regnety_016') {_IN_RECIPE}: the name says how it is built",
    "activation": f"{_NONE}ReLU, as in the papers; inplace, always on",
    "stride": "--model.variant of ResNet, a or b: the stride is that of the 1x1 or of the 3x3 convolution",
    "head": "--model.fc-std and --model.fc-bias: the classifier's initialisation",
    "drop": "--model.dropout, before the classifier; DropBlock has no equivalent",
    "drop_path": "--model.drop-path",
    "bn_constants": f"{_NONE}batch norm has PyTorch's eps 1e-5 and momentum 0.1",
    "precise_bn": "--precise-norm-images",
    "sync_bn": "--sync-norm; otherwise batch norm sees --micro-batch-size images of one process, as in the papers",
    "split_bn": f"{_NONE}all images share one batch norm",
    "dist_bn": f"{_NONE}rank 0's running statistics are kept; --precise-norm-images recomputes them",
    "finetune": "resnet50_finetune; --fine-tuning.backbone-lr 0 trains the classifier alone",
    # batch
    "batch": "--global-batch-size (per step, all GPUs together) and --micro-batch-size (per GPU and forward pass); "
    "--optimizer.lr does not follow by itself",
    "micro_batch": "--micro-batch-size; `benchmark RECIPE --fit` finds the largest that fits",
    "tokens": f"{_NONE}images of a batch have one size, and no sequences are packed",
    "batch_per_gpu": "--micro-batch-size, and --global-batch-size is that times the number of GPUs",
    "global_batch": "--global-batch-size, with --micro-batch-size per GPU and forward pass",
    "eval_batch": f"{_NONE}the result of the evaluation does not depend on the batch",
    "accumulation": "follows from --global-batch-size, --micro-batch-size and the number of processes",
    # optimization
    "optimizer": f"optimizer=SGD(...), AdamW(...), ... or LibraryOptimizer(name='timm/lion') {_IN_RECIPE}",
    "lr": "--optimizer.lr: the peak; nothing rescales it with the batch size",
    "lr_rule": "write the rule in the recipe: lr=0.1 * 1024 / 256; `plan` warns where the batch changed alone",
    "momentum": "--optimizer.momentum",
    "dampening": f"{_NONE}the dampening is 0, as in the papers",
    "nesterov": "--optimizer.nesterov",
    "weight_decay": "--optimizer.weight-decay",
    "weight_decay_timm": "--optimizer.weight-decay; there norms and biases have none: --optimizer.no-decay-norm "
    "--optimizer.no-decay-bias",
    "weight_decay_ffcv": "--optimizer.weight-decay; there norms have none: --optimizer.no-decay-norm",
    "norm_decay": "--optimizer.no-decay-norm leaves gamma and beta without weight decay",
    "layer_norm": f"{_NONE}the ResNet family has batch norm; --optimizer.no-decay-norm covers layer norm too",
    "fast_norm": f"{_NONE}norms have PyTorch's kernels, in fp32",
    "bias_decay": "--optimizer.no-decay-bias leaves biases without weight decay",
    "embedding_decay": f"{_NONE}embeddings always have weight decay",
    "optimizer_details": "the optimizer's own values, as --optimizer.eps of AdamW, or LibraryOptimizer's options={...} "
    f"{_IN_RECIPE}",
    "clip": "--clip-grad-norm",
    "clip_mode": "--clip-grad-norm, --clip-grad-value or --clip-grad-agc",
    "layer_decay": "--fine-tuning.layer-decay, with any recipe",
    "layer_decay_details": f"{_NONE}a layer's factor is neither clamped nor cut off",
    "loss": f"loss=CrossEntropy(...) or BinaryCrossEntropy(...) {_IN_RECIPE}",
    "bce_threshold": "--loss.target-threshold of BinaryCrossEntropy",
    "bce_sum": "--loss.over-classes sum of BinaryCrossEntropy",
    "bce_weight": f"{_NONE}all classes have the same weight",
    "distillation": f"distillation=Distillation(...) {_IN_RECIPE}: teacher, temperature and weight",
    "distillation_kind": f"{_NONE}Distillation compares logits, not features or tokens",
    "smoothing": "--loss.label-smoothing",
    # schedule
    "schedule": f"schedule=Cosine(), Steps(...), Linear() or Constant() {_IN_RECIPE}",
    "milestones": "--schedule.milestones 30 60 80 of Steps, in epochs",
    "early_milestones": "--schedule.milestones of Steps, each one less: timm's 30 is in effect from epoch 29",
    "factor": "--schedule.factor of Steps",
    "min_lr": "--schedule.final-lr of Cosine and Linear",
    "min_lr_share": "--schedule.final-lr of Cosine and Linear: a rate, there a share of the peak",
    "warmup_epochs": "--schedule.warmup.epochs",
    "warmup_lr": "--schedule.warmup.lr: the rate of the first step",
    "warmup_factor": "--schedule.warmup.lr: the rate of the first step, there a share of the peak",
    "warmup_shape": "--schedule.warmup.shape linear | constant",
    "warmup_prefix": "--schedule.start-epoch of Cosine: None (with the option) or 0 (without it, timm's default); "
    "--epochs counts the warmup",
    "schedule_details": f"{_NONE}schedules are the papers': Cosine, Steps, Linear, Constant",
    "step_or_epoch": "--schedule.changes-every step | epoch",
    "epochs": "--epochs",
    "start_epoch": f"{_NONE}run the same command again, it resumes at the exact step",
    # what the model sees
    "train_size": "--train-crop.resolution",
    "train_crop": f"train_crop=RandomResizedCrop(...), ScaleJitterCrop(...) or PaddedCrop(...) {_IN_RECIPE}",
    "scale": "--train-crop.scale",
    "ratio": "--train-crop.ratio",
    "eval_size": "--eval-crop.resolution",
    "eval_ratio": "--eval-crop.crop-ratio: crop size / resize size, e.g. 0.875 for 224 of 256",
    "interpolation": f"{_NONE}area averaging (OpenCV's INTER_AREA), for every format",
    "flip": "--flip, --no-flip",
    "vflip": f"{_NONE}images are flipped horizontally only",
    "no_aug": "--no-flip, and a recipe without augmentation",
    "color": f"color=ColorJitter(...) {_IN_RECIPE}",
    "color_details": f"{_NONE}ColorJitter applies to every image; there is no grayscale or blur",
    "lighting": f"color=PcaLighting(...) {_IN_RECIPE}; then --color.std",
    "augment": f"augmentation=TrivialAugmentWide(), RandAugment(...), AutoAugment(...) or AugMix(...) {_IN_RECIPE}",
    "augmix_loss": f"{_NONE}AugMix(...) is without the paper's consistency loss",
    "magnitude": "--augmentation.magnitude of RandAugment: 0 to 10, there 0 to 30; as there with "
    "--augmentation.probability 1 --augmentation.magnitude-std 0, but the operations are timm's",
    "erasing": f"erasing=RandomErasing(...) {_IN_RECIPE}; then --erasing.probability",
    "erasing_details": f"{_NONE}an image has at most one box",
    "erasing_fill": f"{_NONE}an erased box has the mean colour (timm's const), not noise",
    "mixup": f"mixing=Mixing(mixup_alpha=0.2) {_IN_RECIPE}; then --mixing.mixup-alpha",
    "cutmix": f"mixing=Mixing(cutmix_alpha=1.0) {_IN_RECIPE}; then --mixing.cutmix-alpha",
    "cutmix_box": f"{_NONE}the area of the box comes from a Beta distribution, as in the paper",
    "mixing_probability": "--mixing.probability and --mixing.cutmix-probability",
    "mixing_details": f"{_NONE}one lambda for each micro-batch, in all epochs",
    "repeats": "--repeats",
    "epoch_repeats": f"{_NONE}in an epoch each image is seen once; multiply --epochs",
    "progressive": f"progressive=ProgressiveResizing(...) {_IN_RECIPE}; then --progressive.start-resolution",
    "progressive_end": "--progressive.start-epoch, --progressive.end-epoch",
    "mean": "--mean, --std",
    "tta": "--eval-crop.flip-tta",
    # averages, precision, device
    "ema": f"ema=EMA(decay=0.9999) {_IN_RECIPE}; then --ema.decay, --ema.every",
    "ema_decay": "--ema.decay",
    "ema_rescaled": "--ema.decay, used as it is; there rescaled by batch, interval and epochs: "
    "recipes/resnet50_torchvision_v2.py has the formula",
    "ema_alpha": "--ema.decay, 1 minus the rescaled alpha; there alpha * batch / epochs * period",
    "ema_every": "--ema.every",
    "ema_start": f"{_NONE}the decay is constant; --ema.start-epoch begins the average later",
    "amp": "--precision bf16 | fp16 | tf32 | fp32; most recipes use bf16",
    "channels_last": "always on",
    "compile": "--compile, --compile-mode",
    "device": "--device auto | cuda | cpu",
    "dali": f"{_NONE}CPUs decode the .beton files of `prepare`; `benchmark` says whether they are fast enough",
    "synchronize": f"{_NONE}a step never waits for the device",
    "fsdp": f"{_NONE}processes hold the whole network (DDP), and nothing in the family needs more",
    "deterministic": "--deterministic",
    "checkpointing": f"{_NONE}a smaller --micro-batch-size saves memory and gives the same global batch",
    "cudnn": "always on, except with --deterministic",
    # run
    "resume": "run the same command again: it resumes from the newest checkpoint in --run-dir",
    "output": "--run-dir RUN: one folder per run",
    "resolved": "RUN/recipe.py: the resolved recipe, which runs again",
    "storage": f"{_NONE}a run is a folder; mount the object store, or copy the folder",
    "description": f"{_NONE}the recipe's docstring says what it is; log.txt has everything that was printed",
    "download_cache": f"{_NONE}torch.hub and Hugging Face keep published weights (TORCH_HOME, HF_HOME)",
    "weights_only": "export RUN --to safetensors; a checkpoint holds the whole state, so that a run continues exactly",
    "config": "RECIPE comes first: a name in recipes/ or the path of a Python file that defines `recipe`",
    "seed": "--seed",
    "log": "--log-every STEPS",
    "console": f"{_NONE}the console shows what log.txt keeps; --log-every sets how often",
    "wandb": f"{_NONE}`wandb sync RUN` reads TensorBoard's event files; docs/watching.md shows MLflow's way",
    "pictures": "--pictures, on by default: images in TensorBoard",
    "pictures_hparams": "TensorBoard's HParams table has all settings; --hparams names those to show first",
    "checkpoints": "--checkpoint-steps, --checkpoint-minutes; each epoch ends with a checkpoint",
    "keep": "--keep-last-checkpoints",
    "profile": "--profile-steps",
    "timing": "python -m trainer benchmark RECIPE --data DIR",
    "eval_only": "python -m trainer evaluate RUN",
    "eval_period": f"{_NONE}each epoch ends with an evaluation of all validation images",
    "metric": f"{_NONE}the best checkpoint is the one of the highest top-1",
    # processes
    "distributed": "python -m launch local RECIPE ... uses all GPUs; python -m launch slurm RECIPE ... a cluster",
    "timeout": "--timeout-minutes",
    "callbacks": f"{_NONE}the loop has no hooks: change train.py",
    "sam": f"{_NONE}it doubles every step; label smoothing, mixup and EMA regularise at no cost",
}
"""What takes the place of an option, by subject."""

PEERS = {
    "timm's train.py": TIMM,
    "torchvision's references/classification/train.py": TORCHVISION,
    "ffcv-imagenet's train_imagenet.py": FFCV_IMAGENET,
    "Composer's Trainer": COMPOSER,
    "pycls": PYCLS,
}
"""By trainer: its options by subject, several separated by commas."""


def rows(peer: str) -> list[tuple[str, str]]:
    """The table of one peer: its options, and what takes their place here."""
    return [(options, ANSWERS[subject]) for subject, options in PEERS[peer].items()]


def answer(option: str) -> str | None:
    """What takes the place of an option that is not ours, such as --batch_size or --lr=0.1; None: unknown."""
    return _BY_OPTION.get(_canonical(option.partition("=")[0]))


def _canonical(option: str) -> str:
    return option.replace("_", "-") if option.startswith("-") else option


_BY_OPTION = {
    _canonical(option): ANSWERS[subject]
    for table in (COMPOSER, PYCLS, HABITS, FFCV_IMAGENET, TORCHVISION, TIMM)
    for subject, options in table.items()
    for option in options.split(", ")
    if option.startswith("-") or table is PYCLS
}
