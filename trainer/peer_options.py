"""The options of other trainers, and what takes their place here. The command line answers with this table.

docs/coming-from.md shows the same tables; a test holds the two together. The names were read in the sources of timm
(train.py), torchvision (references/classification/train.py), ffcv-imagenet (train_imagenet.py), Composer (Trainer) and
pycls (core/config.py).
"""

_IN_RECIPE = "chosen in a recipe file"
_NONE = "no equivalent: "

ANSWERS = {
    # data
    "data": "--data DIR: a folder with train/ and val/, or the .beton files that `prepare` writes from it",
    "data_split": f"{_NONE}--data DIR takes the folders train/ and val/ (or validation/, valid/)",
    "download": f"{_NONE}data sets are not downloaded; `prepare` converts what you have",
    "dataset": "--data DIR: class folders or .beton files",
    "cache": "`prepare folder SRC --out DIR` converts the images once",
    "classes": "--num-classes",
    "workers": "--workers: threads per process; by default the machine's CPUs divided by its processes",
    "loader": f"{_NONE}images are always prefetched and pinned",
    # model
    "model": "choose a recipe of that network (`recipes resnet50` lists them), or --model.name for a library model: "
    "train resnet50_finetune --model.name torchvision/resnext50_32x4d",
    "depth": "--model.depth, or a recipe of that network",
    "pretrained": "resnet50_finetune starts from pretrained weights; any other recipe with --initial-weights FILE",
    "weights": "--initial-weights FILE",
    "architecture": f"model=LibraryModel(name='timm/NAME') {_IN_RECIPE}",
    "blurpool": "--model.blur-pool",
    "zero_init": "--model.zero-init-residual",
    "groups": "--model.groups, --model.width-per-group of ResNet",
    "drop": "--model.dropout, before the classifier; DropBlock has no equivalent",
    "drop_path": "--model.drop-path",
    "bn_constants": f"{_NONE}batch norm has PyTorch's eps 1e-5 and momentum 0.1",
    "precise_bn": "--precise-norm-images",
    "sync_bn": f"{_NONE}batch norm sees --micro-batch-size images of one process, as in the papers",
    "dist_bn": f"{_NONE}rank 0's running statistics are kept; --precise-norm-images measures them anew",
    "finetune": "resnet50_finetune; --fine-tuning.backbone-lr 0 trains the classifier alone",
    # batch
    "batch": "--global-batch-size (per step, all GPUs together) and --micro-batch-size (per GPU and forward pass); "
    "--optimizer.lr does not follow by itself",
    "global_batch": "--global-batch-size, with --micro-batch-size per GPU and forward pass",
    "eval_batch": f"{_NONE}the result of the evaluation does not depend on the batch",
    "accumulation": "follows from --global-batch-size, --micro-batch-size and the number of processes",
    # optimization
    "optimizer": f"optimizer=SGD(...), LAMB(...), ... {_IN_RECIPE}",
    "lr": "--optimizer.lr: the peak, for the global batch as it is; nothing rescales it",
    "momentum": "--optimizer.momentum",
    "nesterov": "--optimizer.nesterov",
    "weight_decay": "--optimizer.weight-decay",
    "norm_decay": "--optimizer.no-decay-norm leaves gamma and beta without weight decay",
    "bias_decay": "--optimizer.no-decay-bias leaves biases without weight decay",
    "optimizer_details": f"the optimizer's own values, as --optimizer.eps of LAMB; the optimizer is {_IN_RECIPE}",
    "clip": "--clip-grad-norm",
    "clip_mode": f"{_NONE}gradients are clipped by their norm, --clip-grad-norm",
    "layer_decay": "--fine-tuning.backbone-lr: one factor for all layers but the classifier",
    "loss": f"loss=CrossEntropy(...) or BinaryCrossEntropy(...) {_IN_RECIPE}",
    "bce_threshold": "--loss.target-threshold of BinaryCrossEntropy",
    "smoothing": "--loss.label-smoothing",
    # schedule
    "schedule": f"schedule=Cosine(), Steps(...), Linear() or Constant() {_IN_RECIPE}",
    "milestones": "--schedule.milestones 30 60 80 of Steps, in epochs",
    "factor": "--schedule.factor of Steps",
    "min_lr": "--schedule.final-lr of Cosine and Linear",
    "warmup_epochs": "--schedule.warmup.epochs",
    "warmup_lr": "--schedule.warmup.lr: the rate of the first step",
    "warmup_shape": "--schedule.warmup.shape linear | constant",
    "schedule_details": f"{_NONE}schedules are the papers': Cosine, Steps, Linear, Constant",
    "step_or_epoch": "--schedule.changes-every step | epoch",
    "epochs": "--epochs",
    "start_epoch": f"{_NONE}give the same command again, it resumes at the exact step",
    # what the model sees
    "train_size": "--train-crop.resolution",
    "scale": "--train-crop.scale",
    "ratio": "--train-crop.ratio",
    "eval_size": "--eval-crop.resolution",
    "eval_ratio": "--eval-crop.crop-ratio: crop size / resize size, e.g. 0.875 for 224 of 256",
    "interpolation": f"{_NONE}FFCV's area filter for .beton files, PIL's bilinear for folders",
    "flip": "--flip, --no-flip",
    "vflip": f"{_NONE}images are flipped horizontally only",
    "no_aug": "--no-flip, and a recipe without augmentation",
    "color": f"color=ColorJitter(...) {_IN_RECIPE}",
    "augment": f"augmentation=TrivialAugmentWide() or RandAugment(...) {_IN_RECIPE}",
    "magnitude": "--augmentation.magnitude of RandAugment",
    "erasing": f"erasing=RandomErasing(...) {_IN_RECIPE}; then --erasing.probability",
    "mixup": f"mixing=Mixing(mixup_alpha=0.2) {_IN_RECIPE}; then --mixing.mixup-alpha",
    "cutmix": f"mixing=Mixing(cutmix_alpha=1.0) {_IN_RECIPE}; then --mixing.cutmix-alpha",
    "mixing_probability": "--mixing.probability and --mixing.cutmix-probability",
    "repeats": "--repeats",
    "progressive": f"progressive=ProgressiveResizing(...) {_IN_RECIPE}; then --progressive.start-resolution",
    "progressive_end": "--progressive.start-epoch, --progressive.end-epoch",
    "mean": "--mean, --std",
    "tta": "--eval-crop.flip-tta",
    # averages, precision, device
    "ema": f"ema=EMA(decay=0.9999) {_IN_RECIPE}; then --ema.decay, --ema.every",
    "ema_decay": "--ema.decay",
    "ema_every": "--ema.every",
    "amp": "--precision bf16 | fp16 | fp32; most recipes use bf16",
    "channels_last": "always on",
    "compile": "--compile",
    "device": "--device auto | cuda | cpu",
    "deterministic": "--deterministic",
    "checkpointing": f"{_NONE}a smaller --micro-batch-size saves memory and gives the same global batch",
    "cudnn": "always on, except with --deterministic",
    # run
    "resume": "give the same command again: it resumes from the newest checkpoint in --run-dir",
    "output": "--run-dir RUN: one folder per run",
    "config": "RECIPE comes first: a name in recipes/ or the path of a Python file that defines `recipe`",
    "seed": "--seed",
    "log": "--log-every STEPS",
    "wandb": f"{_NONE}RUN holds metrics.jsonl and TensorBoard's events, which wandb can import",
    "pictures": "--pictures, on by default: images in TensorBoard",
    "checkpoints": "--checkpoint-steps, --checkpoint-minutes; each epoch ends with a checkpoint",
    "keep": "--keep-last-checkpoints",
    "profile": "--profile-steps",
    "eval_only": "python -m trainer evaluate RUN",
    "eval_period": f"{_NONE}each epoch ends with an evaluation of all validation images",
    "metric": f"{_NONE}the best checkpoint is the one of the highest top-1",
    # processes
    "distributed": "python -m launch local RECIPE ... uses all GPUs; python -m launch slurm RECIPE ... a cluster",
    "timeout": "--timeout-minutes",
    "callbacks": f"{_NONE}the loop has no hooks: change train.py",
    "sam": f"{_NONE}write the optimizer in trainer/optimizer.py",
}
"""What takes the place of an option, by subject."""

_TIMM = {
    "data": "--data-dir", "dataset": "--dataset, -d", "data_split": "--train-split, --val-split, --class-map",
    "download": "--dataset-download", "model": "--model", "pretrained": "--pretrained",
    "weights": "--initial-checkpoint", "resume": "--resume, --no-resume-opt", "classes": "--num-classes",
    "architecture": "--gp, --model-kwargs, --in-chans", "train_size": "--img-size, --input-size",
    "eval_ratio": "--crop-pct", "mean": "--mean, --std", "interpolation": "--interpolation, --train-interpolation",
    "batch": "-b, --batch-size", "eval_batch": "-vb, --validation-batch-size", "channels_last": "--channels-last",
    "compile": "--torchscript, --fuser, --torchcompile", "checkpointing": "--grad-checkpointing",
    "accumulation": "--grad-accum-steps", "optimizer": "--opt",
    "optimizer_details": "--opt-eps, --opt-betas, --opt-kwargs", "momentum": "--momentum",
    "weight_decay": "--weight-decay", "clip": "--clip-grad", "clip_mode": "--clip-mode", "layer_decay": "--layer-decay",
    "schedule": "--sched", "lr": "--lr", "step_or_epoch": "--sched-on-updates",
    "schedule_details": "--lr-noise, --lr-noise-pct, --lr-noise-std, --lr-cycle-mul, --lr-cycle-decay, "
    "--lr-cycle-limit, --lr-k-decay, --cooldown-epochs, --patience-epochs", "warmup_lr": "--warmup-lr",
    "min_lr": "--min-lr", "epochs": "--epochs", "repeats": "--epoch-repeats, --aug-repeats",
    "start_epoch": "--start-epoch", "milestones": "--decay-milestones, --decay-epochs",
    "warmup_epochs": "--warmup-epochs", "factor": "--decay-rate, --dr", "no_aug": "--no-aug", "scale": "--scale",
    "ratio": "--ratio", "flip": "--hflip", "vflip": "--vflip", "color": "--color-jitter",
    "augment": "--aa, --aug-splits, --jsd-loss, --train-transforms", "loss": "--bce-loss",
    "bce_threshold": "--bce-target-thresh", "erasing": "--reprob, --remode, --recount, --resplit", "mixup": "--mixup",
    "cutmix": "--cutmix, --cutmix-minmax",
    "mixing_probability": "--mixup-prob, --mixup-switch-prob, --mixup-mode, --mixup-off-epoch",
    "smoothing": "--smoothing", "drop": "--drop, --drop-block", "drop_path": "--drop-path, --drop-connect",
    "bn_constants": "--bn-momentum, --bn-eps", "sync_bn": "--sync-bn, --split-bn", "dist_bn": "--dist-bn",
    "ema": "--model-ema, --model-ema-force-cpu", "ema_decay": "--model-ema-decay", "seed": "--seed",
    "loader": "--worker-seeding, --pin-mem, --no-prefetcher, --use-multi-epochs-loader", "log": "--log-interval",
    "checkpoints": "--recovery-interval", "keep": "--checkpoint-hist", "workers": "-j, --workers",
    "pictures": "--save-images", "amp": "--amp, --apex-amp, --native-amp, --amp-dtype",
    "distributed": "--no-ddp-bb, --local-rank", "output": "--output, --experiment", "metric": "--eval-metric",
    "tta": "--tta", "wandb": "--log-wandb, --wandb-kwargs", "config": "-c, --config",
}  # fmt: skip

_TORCHVISION = {
    "data": "--data-path", "model": "--model", "device": "--device", "batch": "-b, --batch-size", "epochs": "--epochs",
    "workers": "-j, --workers", "optimizer": "--opt", "lr": "--lr", "momentum": "--momentum",
    "weight_decay": "--wd, --weight-decay", "norm_decay": "--norm-weight-decay",
    "bias_decay": "--bias-weight-decay, --transformer-embedding-decay", "smoothing": "--label-smoothing",
    "mixup": "--mixup-alpha", "cutmix": "--cutmix-alpha", "schedule": "--lr-scheduler", "min_lr": "--lr-min",
    "warmup_epochs": "--lr-warmup-epochs", "warmup_shape": "--lr-warmup-method", "warmup_lr": "--lr-warmup-decay",
    "milestones": "--lr-step-size", "factor": "--lr-gamma", "log": "--print-freq", "output": "--output-dir",
    "resume": "--resume", "start_epoch": "--start-epoch", "cache": "--cache-dataset", "sync_bn": "--sync-bn",
    "eval_only": "--test-only", "pretrained": "--pretrained, --weights", "augment": "--auto-augment, --augmix-severity",
    "magnitude": "--ra-magnitude", "erasing": "--random-erase", "amp": "--amp",
    "distributed": "--world-size, --dist-url", "ema": "--model-ema", "ema_every": "--model-ema-steps",
    "ema_decay": "--model-ema-decay", "deterministic": "--use-deterministic-algorithms",
    "interpolation": "--interpolation", "eval_ratio": "--val-resize-size", "eval_size": "--val-crop-size",
    "train_size": "--train-crop-size", "clip": "--clip-grad-norm", "repeats": "--ra-sampler, --ra-reps",
    "loader": "--backend, --use-v2",
}  # fmt: skip

_FFCV_IMAGENET = {
    "config": "--config-file", "model": "--model.arch", "pretrained": "--model.pretrained",
    "progressive": "--resolution.min-res, --resolution.max-res",
    "progressive_end": "--resolution.start-ramp, --resolution.end-ramp",
    "data": "--data.train-dataset, --data.val-dataset", "workers": "--data.num-workers", "loader": "--data.in-memory",
    "factor": "--lr.step-ratio", "milestones": "--lr.step-length", "schedule": "--lr.lr-schedule-type", "lr": "--lr.lr",
    "warmup_epochs": "--lr.lr-peak-epoch", "output": "--logging.folder", "log": "--logging.log-level",
    "eval_batch": "--validation.batch-size", "eval_size": "--validation.resolution", "tta": "--validation.lr-tta",
    "eval_only": "--training.eval-only", "global_batch": "--training.batch-size", "optimizer": "--training.optimizer",
    "momentum": "--training.momentum", "weight_decay": "--training.weight-decay", "epochs": "--training.epochs",
    "smoothing": "--training.label-smoothing", "blurpool": "--training.use-blurpool",
    "distributed": "--training.distributed, --dist.world-size, --dist.address, --dist.port",
}  # fmt: skip

_COMPOSER = {
    "model": "model", "data": "train_dataloader, eval_dataloader", "epochs": "max_duration, scale_schedule_ratio",
    "callbacks": "algorithms, callbacks", "optimizer": "optimizers", "schedule": "schedulers",
    "step_or_epoch": "step_schedulers_every_batch", "eval_period": "eval_interval, eval_subset_num_batches",
    "wandb": "loggers", "output": "run_name, checkpoint_save_path",
    "log": "progress_bar, log_to_console, console_stream", "resume": "autoresume, load_path",
    "weights": "load_weights_only, load_strict_model_weights, load_ignore_keys",
    "checkpoints": "checkpoint_save_interval", "keep": "num_checkpoints_to_keep", "device": "device",
    "amp": "precision", "accumulation": "grad_accum", "seed": "seed", "deterministic": "deterministic_mode",
    "timeout": "dist_timeout", "distributed": "ddp_sync_strategy, deepspeed_config", "clip": "grad_clip_norm",
    "profile": "profiler",
}  # fmt: skip

_PYCLS = {
    "config": "--cfg", "architecture": "MODEL.TYPE, RESNET.TRANS_FUN",
    "groups": "RESNET.NUM_GROUPS, RESNET.WIDTH_PER_GROUP",
    "depth": "MODEL.DEPTH", "classes": "MODEL.NUM_CLASSES", "loss": "MODEL.LOSS_FUN", "bn_constants": "BN.EPS, BN.MOM",
    "precise_bn": "BN.USE_PRECISE_STATS, BN.NUM_SAMPLES_PRECISE", "zero_init": "BN.ZERO_INIT_FINAL_GAMMA",
    "norm_decay": "BN.USE_CUSTOM_WEIGHT_DECAY, BN.CUSTOM_WEIGHT_DECAY", "lr": "OPTIM.BASE_LR",
    "schedule": "OPTIM.LR_POLICY, OPTIM.GAMMA", "milestones": "OPTIM.STEPS", "factor": "OPTIM.LR_MULT",
    "epochs": "OPTIM.MAX_EPOCH", "momentum": "OPTIM.MOMENTUM, OPTIM.DAMPENING", "nesterov": "OPTIM.NESTEROV",
    "weight_decay": "OPTIM.WEIGHT_DECAY", "warmup_lr": "OPTIM.WARMUP_FACTOR", "warmup_epochs": "OPTIM.WARMUP_EPOCHS",
    "data": "TRAIN.DATASET, TEST.DATASET", "data_split": "TRAIN.SPLIT, TEST.SPLIT", "global_batch": "TRAIN.BATCH_SIZE",
    "train_size": "TRAIN.IM_SIZE", "eval_period": "TRAIN.EVAL_PERIOD", "checkpoints": "TRAIN.CHECKPOINT_PERIOD",
    "resume": "TRAIN.AUTO_RESUME", "weights": "TRAIN.WEIGHTS", "eval_batch": "TEST.BATCH_SIZE",
    "eval_size": "TEST.IM_SIZE", "eval_only": "TEST.WEIGHTS", "workers": "DATA_LOADER.NUM_WORKERS",
    "loader": "DATA_LOADER.PIN_MEMORY", "cudnn": "CUDNN.BENCHMARK", "distributed": "NUM_GPUS, DIST_BACKEND, HOST, PORT",
    "output": "OUT_DIR, LOG_DEST", "seed": "RNG_SEED", "log": "LOG_PERIOD",
}  # fmt: skip

_HABITS = {
    "wandb": "--wandb, --tensorboard", "workers": "--num-workers", "batch": "--bs, --batch", "lr": "--learning-rate",
    "output": "--out, --out-dir, --save-dir, --work-dir, --logdir", "config": "--cfg-options, --config-path",
    "resume": "--auto-resume, --load-from, --checkpoint, --resume-from",
    "distributed": "--distributed, --multiprocessing-distributed, --gpu, --gpus, --num-gpus, --nodes, "
    "--dist-backend, --launcher", "model": "--arch, -a", "eval_only": "--evaluate, --eval",
    "epochs": "--num-epochs, --max-epochs", "amp": "--fp16, --bf16, --half", "finetune": "--finetune, --freeze",
    "train_size": "--imgsz, --image-size", "schedule": "--scheduler", "optimizer": "--optim", "log": "--log-freq",
    "seed": "--random-seed", "profile": "--profile", "sam": "--sam", "checkpoints": "--save-every, --save-freq",
}  # fmt: skip

PEERS = {
    "timm's train.py": _TIMM,
    "torchvision's references/classification/train.py": _TORCHVISION,
    "ffcv-imagenet's train_imagenet.py": _FFCV_IMAGENET,
    "Composer's Trainer": _COMPOSER,
    "pycls": _PYCLS,
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
    for table in (_COMPOSER, _PYCLS, _HABITS, _FFCV_IMAGENET, _TORCHVISION, _TIMM)
    for subject, options in table.items()
    for option in options.split(", ")
    if option.startswith("-") or table is _PYCLS
}
