"""The option names of other trainers, by subject: peer_options.py has the answer to each subject.

Read in the sources of timm (train.py), torchvision (references/classification/train.py), ffcv-imagenet
(train_imagenet.py), Composer (Trainer) and pycls (core/config.py), in their newest versions and some older ones.
"""

TIMM = {
    "data": "--data-dir", "dataset": "--dataset, -d", "data_split": "--train-split, --val-split, --class-map",
    "download": "--dataset-download", "model": "--model", "pretrained": "--pretrained",
    "weights": "--pretrained-path, --initial-checkpoint", "resume": "--resume, --no-resume-opt",
    "classes": "--num-classes", "model_details": "--gp, --model-kwargs, --in-chans",
    "train_size": "--img-size, --input-size", "eval_ratio": "--crop-pct", "mean": "--mean, --std",
    "interpolation": "--interpolation, --train-interpolation", "batch": "-b, --batch-size",
    "eval_batch": "-vb, --validation-batch-size", "channels_last": "--channels-last",
    "compile": "--torchcompile-mode, --torchscript, --fuser, --torchcompile", "checkpointing": "--grad-checkpointing",
    "accumulation": "--grad-accum-steps", "optimizer": "--opt",
    "optimizer_details": "--opt-eps, --opt-betas, --opt-kwargs", "momentum": "--momentum",
    "weight_decay_timm": "--weight-decay", "clip": "--clip-grad", "clip_mode": "--clip-mode",
    "layer_decay": "--layer-decay",
    "schedule": "--sched", "lr": "--lr", "step_or_epoch": "--sched-on-updates",
    "warmup_prefix": "--warmup-prefix",
    "schedule_details": "--lr-noise, --lr-noise-pct, --lr-noise-std, --lr-cycle-mul, "
    "--lr-cycle-decay, --lr-cycle-limit, --lr-k-decay, --cooldown-epochs, --patience-epochs",
    "warmup_lr": "--warmup-lr", "min_lr": "--min-lr", "epochs": "--epochs", "repeats": "--aug-repeats",
    "epoch_repeats": "--epoch-repeats",
    "start_epoch": "--start-epoch", "milestones": "--decay-epochs",
    "early_milestones": "--decay-milestones",
    "warmup_epochs": "--warmup-epochs", "factor": "--decay-rate, --dr", "no_aug": "--no-aug", "scale": "--scale",
    "ratio": "--ratio", "flip": "--hflip", "vflip": "--vflip", "color": "--color-jitter",
    "augment": "--aa", "augmix_loss": "--aug-splits, --jsd-loss", "loss": "--bce-loss",
    "bce_threshold": "--bce-target-thresh", "erasing": "--reprob", "erasing_details": "--recount, --resplit",
    "erasing_fill": "--remode",
    "mixup": "--mixup",
    "cutmix": "--cutmix", "cutmix_box": "--cutmix-minmax",
    "mixing_probability": "--mixup-prob, --mixup-switch-prob", "mixing_details": "--mixup-mode, --mixup-off-epoch",
    "smoothing": "--smoothing", "drop": "--drop, --drop-block", "drop_path": "--drop-path, --drop-connect",
    "bn_constants": "--bn-momentum, --bn-eps", "sync_bn": "--sync-bn", "split_bn": "--split-bn", "dist_bn": "--dist-bn",
    "ema": "--model-ema, --model-ema-force-cpu", "ema_decay": "--model-ema-decay", "seed": "--seed",
    "loader": "--pin-mem, --no-prefetcher, --use-multi-epochs-loader", "worker_seeds": "--worker-seeding",
    "log": "--log-interval",
    "checkpoints": "--recovery-interval", "keep": "--checkpoint-hist", "workers": "-j, --workers",
    "pictures": "--save-images", "amp": "--amp-impl, --model-dtype, --amp, --apex-amp, --native-amp, --amp-dtype",
    "distributed": "--no-ddp-bb, --local-rank", "output": "--output, --experiment", "metric": "--eval-metric",
    "tta": "--tta", "wandb": "--log-wandb, --wandb-project, --wandb-tags, --wandb-resume-id", "config": "-c, --config",
    "data_fields": "--input-img-mode, --input-key, --target-key, --dataset-trust-remote-code, --train-num-samples, "
    "--val-num-samples",
    "head": "--head-init-scale, --head-init-bias", "fast_norm": "--fast-norm", "device": "--device, --device-modules",
    "synchronize": "--synchronize-step", "layer_decay_details": "--layer-decay-min-scale, --layer-decay-no-opt-scale",
    "lr_rule": "--lr-base, --lr-base-size, --lr-base-scale", "train_crop": "--train-crop-mode",
    "color_details": "--color-jitter-prob, --grayscale-prob, --gaussian-blur-prob", "bce_sum": "--bce-sum",
    "bce_weight": "--bce-pos-weight", "ema_start": "--model-ema-warmup", "eval_period": "--val-interval",
    "tokens": "--naflex-loader, --naflex-train-seq-lens, --naflex-max-seq-len, --naflex-patch-sizes, "
    "--naflex-patch-size-probs, --naflex-loss-scale",
    "distillation": "--kd-model-name, --kd-temperature, --kd-loss-type, --distill-loss-weight, --task-loss-weight",
    "distillation_kind": "--kd-distill-type, --kd-student-feature-dim, --kd-teacher-feature-dim, "
    "--kd-token-distill-type",
}  # fmt: skip

TORCHVISION = {
    "data": "--data-path", "model": "--model", "device": "--device", "batch": "-b, --batch-size", "epochs": "--epochs",
    "workers": "-j, --workers", "optimizer": "--opt", "lr": "--lr", "momentum": "--momentum",
    "weight_decay": "--wd, --weight-decay", "norm_decay": "--norm-weight-decay",
    "bias_decay": "--bias-weight-decay", "embedding_decay": "--transformer-embedding-decay",
    "smoothing": "--label-smoothing",
    "mixup": "--mixup-alpha", "cutmix": "--cutmix-alpha", "schedule": "--lr-scheduler", "min_lr": "--lr-min",
    "warmup_epochs": "--lr-warmup-epochs", "warmup_shape": "--lr-warmup-method", "warmup_factor": "--lr-warmup-decay",
    "milestones": "--lr-step-size", "factor": "--lr-gamma", "log": "--print-freq", "output": "--output-dir",
    "resume": "--resume", "start_epoch": "--start-epoch", "cache": "--cache-dataset", "sync_bn": "--sync-bn",
    "eval_only": "--test-only", "pretrained": "--pretrained, --weights", "augment": "--auto-augment, --augmix-severity",
    "magnitude": "--ra-magnitude", "erasing": "--random-erase", "amp": "--amp",
    "distributed": "--world-size, --dist-url", "ema": "--model-ema", "ema_every": "--model-ema-steps",
    "ema_rescaled": "--model-ema-decay", "deterministic": "--use-deterministic-algorithms",
    "interpolation": "--interpolation", "eval_ratio": "--val-resize-size", "eval_size": "--val-crop-size",
    "train_size": "--train-crop-size", "clip": "--clip-grad-norm", "repeats": "--ra-sampler, --ra-reps",
    "transforms": "--backend, --use-v2",
}  # fmt: skip

FFCV_IMAGENET = {
    "config": "--config-file", "model": "--model.arch", "pretrained": "--model.pretrained",
    "progressive": "--resolution.min-res, --resolution.max-res",
    "progressive_end": "--resolution.start-ramp, --resolution.end-ramp",
    "data_ffcv": "--data.train-dataset, --data.val-dataset", "workers": "--data.num-workers",
    "in_memory": "--data.in-memory",
    "factor": "--lr.step-ratio", "milestones": "--lr.step-length", "schedule": "--lr.lr-schedule-type", "lr": "--lr.lr",
    "warmup_epochs": "--lr.lr-peak-epoch", "output": "--logging.folder", "console": "--logging.log-level",
    "eval_batch": "--validation.batch-size", "eval_size": "--validation.resolution", "tta": "--validation.lr-tta",
    "eval_only": "--training.eval-only", "batch_per_gpu": "--training.batch-size", "optimizer": "--training.optimizer",
    "momentum": "--training.momentum", "weight_decay_ffcv": "--training.weight-decay", "epochs": "--training.epochs",
    "smoothing": "--training.label-smoothing", "blurpool": "--training.use-blurpool",
    "distributed": "--training.distributed, --dist.world-size, --dist.address, --dist.port",
}  # fmt: skip

COMPOSER = {
    "model": "model", "data": "train_dataloader_label, train_dataloader, eval_dataloader",
    "epochs": "max_duration, scale_schedule_ratio", "callbacks": "algorithm_passes, algorithms, callbacks",
    "optimizer": "optimizers", "schedule": "schedulers", "step_or_epoch": "step_schedulers_every_batch",
    "eval_period": "eval_interval, eval_subset_num_batches", "wandb": "loggers",
    "output": "save_folder, save_filename, save_artifact_name, save_latest_filename, save_latest_artifact_name, "
    "save_overwrite, run_name, checkpoint_save_path",
    "log": "console_log_interval",
    "console": "log_traces, python_log_level, progress_bar, log_to_console, console_stream",
    "resume": "autoresume, load_path",
    "weights": "load_exclude_algorithms, load_weights_only, load_strict_model_weights, load_ignore_keys",
    "checkpoints": "save_interval, checkpoint_save_interval",
    "keep": "save_num_checkpoints_to_keep, num_checkpoints_to_keep", "device": "device",
    "amp": "precision_config, precision", "accumulation": "grad_accum", "seed": "seed",
    "deterministic": "deterministic_mode", "timeout": "dist_timeout", "distributed": "ddp_sync_strategy",
    "clip": "grad_clip_norm", "profile": "profiler", "subset": "train_subset_num_batches", "loader": "spin_dataloaders",
    "pictures_hparams": "auto_log_hparams", "storage": "load_object_store, load_progress_bar",
    "weights_only": "save_weights_only, save_ignore_keys, save_metrics", "fsdp": "parallelism_config, deepspeed_config",
    "micro_batch": "device_train_microbatch_size", "tokens": "accumulate_train_batch_on_tokens",
    "compile": "compile_config",
}  # fmt: skip

PYCLS = {
    "config": "--cfg", "architecture": "MODEL.TYPE, RESNET.TRANS_FUN",
    "groups": "RESNET.NUM_GROUPS, RESNET.WIDTH_PER_GROUP",
    "depth": "MODEL.DEPTH", "classes": "MODEL.NUM_CLASSES", "loss": "MODEL.LOSS_FUN", "bn_constants": "BN.EPS, BN.MOM",
    "precise_bn": "BN.USE_PRECISE_STATS, BN.NUM_SAMPLES_PRECISE", "zero_init": "BN.ZERO_INIT_FINAL_GAMMA",
    "norm_decay": "BN.USE_CUSTOM_WEIGHT_DECAY, BN.CUSTOM_WEIGHT_DECAY", "lr": "OPTIM.BASE_LR",
    "schedule": "OPTIM.LR_POLICY, OPTIM.GAMMA", "milestones": "OPTIM.STEPS", "factor": "OPTIM.LR_MULT",
    "epochs": "OPTIM.MAX_EPOCH", "momentum": "OPTIM.MOMENTUM", "dampening": "OPTIM.DAMPENING",
    "nesterov": "OPTIM.NESTEROV", "weight_decay": "OPTIM.WEIGHT_DECAY", "warmup_factor": "OPTIM.WARMUP_FACTOR",
    "warmup_epochs": "OPTIM.WARMUP_EPOCHS",
    "data": "TRAIN.DATASET, TEST.DATASET", "data_split": "TRAIN.SPLIT, TEST.SPLIT", "global_batch": "TRAIN.BATCH_SIZE",
    "train_size": "TRAIN.IM_SIZE", "eval_period": "TRAIN.EVAL_PERIOD", "checkpoints": "TRAIN.CHECKPOINT_PERIOD",
    "resume": "TRAIN.AUTO_RESUME", "weights": "TRAIN.WEIGHTS", "eval_batch": "TEST.BATCH_SIZE",
    "eval_ratio": "TEST.IM_SIZE", "eval_only": "TEST.WEIGHTS", "workers": "DATA_LOADER.NUM_WORKERS",
    "loader": "DATA_LOADER.PIN_MEMORY", "cudnn": "CUDNN.BENCHMARK",
    "distributed": "PORT_RANGE, NUM_GPUS, DIST_BACKEND, HOST, PORT", "output": "OUT_DIR, LOG_DEST", "seed": "RNG_SEED",
    "log": "LOG_PERIOD", "activation": "MODEL.ACTIVATION_FUN, MODEL.ACTIVATION_INPLACE, MEM.RELU_INPLACE",
    "stride": "RESNET.STRIDE_1X1",
    "other_networks": "MODEL.SCALING_TYPE, MODEL.SCALING_FACTOR, ANYNET.STEM_TYPE, ANYNET.STEM_W, ANYNET.BLOCK_TYPE, "
    "ANYNET.DEPTHS, ANYNET.WIDTHS, ANYNET.STRIDES, ANYNET.BOT_MULS, ANYNET.GROUP_WS, ANYNET.HEAD_W, ANYNET.SE_ON, "
    "ANYNET.SE_R, REGNET.STEM_TYPE, REGNET.STEM_W, REGNET.BLOCK_TYPE, REGNET.STRIDE, REGNET.SE_ON, REGNET.SE_R, "
    "REGNET.DEPTH, REGNET.W0, REGNET.WA, REGNET.WM, REGNET.GROUP_W, REGNET.BOT_MUL, REGNET.HEAD_W, EN.STEM_W, "
    "EN.DEPTHS, EN.WIDTHS, EN.EXP_RATIOS, EN.SE_R, EN.STRIDES, EN.KERNELS, EN.HEAD_W, EN.DC_RATIO, EN.DROPOUT_RATIO, "
    "VIT.PATCH_SIZE, VIT.STEM_TYPE, VIT.C_STEM_KERNELS, VIT.C_STEM_STRIDES, VIT.C_STEM_DIMS, VIT.NUM_LAYERS, "
    "VIT.NUM_HEADS, VIT.HIDDEN_DIM, VIT.MLP_DIM, VIT.CLASSIFIER_TYPE",
    "layer_norm": "LN.EPS, LN.USE_CUSTOM_WEIGHT_DECAY, LN.CUSTOM_WEIGHT_DECAY", "optimizer": "OPTIM.OPTIMIZER",
    "min_lr_share": "OPTIM.MIN_LR", "optimizer_details": "OPTIM.BETA1, OPTIM.BETA2",
    "bias_decay": "OPTIM.BIAS_USE_CUSTOM_WEIGHT_DECAY, OPTIM.BIAS_CUSTOM_WEIGHT_DECAY", "ema_alpha": "OPTIM.EMA_ALPHA",
    "ema_every": "OPTIM.EMA_UPDATE_PERIOD", "amp": "TRAIN.MIXED_PRECISION", "smoothing": "TRAIN.LABEL_SMOOTHING",
    "mixup": "TRAIN.MIXUP_ALPHA", "cutmix": "TRAIN.CUTMIX_ALPHA", "lighting": "TRAIN.PCA_STD",
    "augment": "TRAIN.AUGMENT",
    "timing": "PREC_TIME.WARMUP_ITER, PREC_TIME.NUM_ITER, PREC_TIME.BATCH_SIZE, PREC_TIME.ENABLED",
    "description": "DESC, VERBOSE", "resolved": "CFG_DEST", "download_cache": "DOWNLOAD_CACHE",
}  # fmt: skip

HABITS = {
    "wandb": "--wandb, --tensorboard", "workers": "--num-workers", "batch": "--bs, --batch", "lr": "--learning-rate",
    "output": "--out, --out-dir, --save-dir, --work-dir, --logdir", "config": "--cfg-options, --config-path",
    "resume": "--auto-resume, --load-from, --checkpoint, --resume-from",
    "distributed": "--distributed, --multiprocessing-distributed, --gpu, --gpus, --num-gpus, --nodes, --dist-backend, "
    "--launcher",
    "model": "--arch, -a", "eval_only": "--evaluate, --eval", "epochs": "--num-epochs, --max-epochs",
    "amp": "--fp16, --bf16, --half", "finetune": "--finetune, --freeze", "train_size": "--imgsz, --image-size",
    "schedule": "--scheduler", "optimizer": "--optim", "log": "--log-freq", "seed": "--random-seed",
    "profile": "--profile", "sam": "--sam", "checkpoints": "--save-every, --save-freq",
    "fsdp": "--fsdp, --deepspeed", "dali": "--dali",
}  # fmt: skip
