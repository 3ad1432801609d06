"""Every option of the other trainers, copied name by name from the sources that define them, not from our tables.

Names that a newer version dropped are here too, because people still type them.
"""

TIMM = """
-c --config --data-dir -d --dataset --train-split --val-split --train-num-samples --val-num-samples --dataset-download
--class-map --input-img-mode --input-key --target-key --dataset-trust-remote-code
--model --pretrained --pretrained-path --initial-checkpoint --resume --no-resume-opt --num-classes --gp --img-size
--in-chans --input-size --crop-pct --mean --std --interpolation -b --batch-size -vb --validation-batch-size
--channels-last --fuser --grad-accum-steps --grad-checkpointing --fast-norm --model-kwargs --head-init-scale
--head-init-bias --torchcompile-mode --torchscript --torchcompile
--device --amp --amp-dtype --amp-impl --apex-amp --native-amp --model-dtype --no-ddp-bb --synchronize-step --local-rank
--device-modules
--opt --opt-eps --opt-betas --momentum --weight-decay --clip-grad --clip-mode --layer-decay --layer-decay-min-scale
--layer-decay-no-opt-scale --opt-kwargs
--sched --sched-on-updates --lr --lr-base --lr-base-size --lr-base-scale --lr-noise --lr-noise-pct --lr-noise-std
--lr-cycle-mul --lr-cycle-decay --lr-cycle-limit --lr-k-decay --warmup-lr --min-lr --epochs --epoch-repeats
--start-epoch --decay-milestones --decay-epochs --warmup-epochs --warmup-prefix --cooldown-epochs --patience-epochs
--decay-rate --dr
--no-aug --train-crop-mode --scale --ratio --hflip --vflip --color-jitter --color-jitter-prob --grayscale-prob
--gaussian-blur-prob --aa --aug-repeats --aug-splits --jsd-loss --bce-loss --bce-sum --bce-target-thresh
--bce-pos-weight --reprob --remode --recount --resplit --mixup --cutmix --cutmix-minmax --mixup-prob
--mixup-switch-prob --mixup-mode --mixup-off-epoch --smoothing --train-interpolation --drop --drop-connect --drop-path
--drop-block
--bn-momentum --bn-eps --sync-bn --dist-bn --split-bn
--model-ema --model-ema-force-cpu --model-ema-decay --model-ema-warmup
--seed --worker-seeding --log-interval --val-interval --recovery-interval --checkpoint-hist -j --workers --save-images
--pin-mem --no-prefetcher --output --experiment --eval-metric --tta --use-multi-epochs-loader --log-wandb
--wandb-project --wandb-tags --wandb-resume-id
--naflex-loader --naflex-train-seq-lens --naflex-max-seq-len --naflex-patch-sizes --naflex-patch-size-probs
--naflex-loss-scale
--kd-model-name --kd-distill-type --kd-loss-type --distill-loss-weight --task-loss-weight --kd-temperature
--kd-student-feature-dim --kd-teacher-feature-dim --kd-token-distill-type
"""

TORCHVISION = """
--data-path --model --device -b --batch-size --epochs -j --workers --opt --lr --momentum --wd --weight-decay
--norm-weight-decay --bias-weight-decay --transformer-embedding-decay --label-smoothing --mixup-alpha --cutmix-alpha
--lr-scheduler --lr-warmup-epochs --lr-warmup-method --lr-warmup-decay --lr-step-size --lr-gamma --lr-min --print-freq
--output-dir --resume --start-epoch --cache-dataset --sync-bn --test-only --pretrained --auto-augment --ra-magnitude
--augmix-severity --random-erase --amp --world-size --dist-url --model-ema --model-ema-steps --model-ema-decay
--use-deterministic-algorithms --interpolation --val-resize-size --val-crop-size --train-crop-size --clip-grad-norm
--ra-sampler --ra-reps --weights --backend --use-v2
"""

FFCV_IMAGENET = """
--config-file --model.arch --model.pretrained
--resolution.min-res --resolution.max-res --resolution.end-ramp --resolution.start-ramp
--data.train-dataset --data.val-dataset --data.num-workers --data.in-memory
--lr.step-ratio --lr.step-length --lr.lr-schedule-type --lr.lr --lr.lr-peak-epoch
--logging.folder --logging.log-level --validation.batch-size --validation.resolution --validation.lr-tta
--training.eval-only --training.batch-size --training.optimizer --training.momentum --training.weight-decay
--training.epochs --training.label-smoothing --training.distributed --training.use-blurpool
--dist.world-size --dist.address --dist.port
"""

COMPOSER = """
model train_dataloader train_dataloader_label train_subset_num_batches spin_dataloaders max_duration algorithms
algorithm_passes optimizers schedulers scale_schedule_ratio step_schedulers_every_batch eval_dataloader eval_interval
eval_subset_num_batches callbacks loggers run_name progress_bar log_to_console console_stream console_log_interval
log_traces auto_log_hparams load_path load_object_store load_weights_only load_strict_model_weights load_progress_bar
load_ignore_keys load_exclude_algorithms save_folder checkpoint_save_path save_filename save_artifact_name
save_latest_filename save_latest_artifact_name save_overwrite save_interval checkpoint_save_interval save_weights_only
save_ignore_keys save_num_checkpoints_to_keep num_checkpoints_to_keep save_metrics autoresume parallelism_config
deepspeed_config device precision precision_config device_train_microbatch_size grad_accum
accumulate_train_batch_on_tokens seed deterministic_mode dist_timeout ddp_sync_strategy grad_clip_norm profiler
python_log_level compile_config
"""

PYCLS = """
--cfg MODEL.TYPE MODEL.DEPTH MODEL.NUM_CLASSES MODEL.LOSS_FUN MODEL.ACTIVATION_FUN MODEL.ACTIVATION_INPLACE
MODEL.SCALING_TYPE MODEL.SCALING_FACTOR
RESNET.TRANS_FUN RESNET.NUM_GROUPS RESNET.WIDTH_PER_GROUP RESNET.STRIDE_1X1
ANYNET.STEM_TYPE ANYNET.STEM_W ANYNET.BLOCK_TYPE ANYNET.DEPTHS ANYNET.WIDTHS ANYNET.STRIDES ANYNET.BOT_MULS
ANYNET.GROUP_WS ANYNET.HEAD_W ANYNET.SE_ON ANYNET.SE_R
REGNET.STEM_TYPE REGNET.STEM_W REGNET.BLOCK_TYPE REGNET.STRIDE REGNET.SE_ON REGNET.SE_R REGNET.DEPTH REGNET.W0
REGNET.WA REGNET.WM REGNET.GROUP_W REGNET.BOT_MUL REGNET.HEAD_W
EN.STEM_W EN.DEPTHS EN.WIDTHS EN.EXP_RATIOS EN.SE_R EN.STRIDES EN.KERNELS EN.HEAD_W EN.DC_RATIO EN.DROPOUT_RATIO
VIT.PATCH_SIZE VIT.STEM_TYPE VIT.C_STEM_KERNELS VIT.C_STEM_STRIDES VIT.C_STEM_DIMS VIT.NUM_LAYERS VIT.NUM_HEADS
VIT.HIDDEN_DIM VIT.MLP_DIM VIT.CLASSIFIER_TYPE
BN.EPS BN.MOM BN.USE_PRECISE_STATS BN.NUM_SAMPLES_PRECISE BN.ZERO_INIT_FINAL_GAMMA BN.USE_CUSTOM_WEIGHT_DECAY
BN.CUSTOM_WEIGHT_DECAY LN.EPS LN.USE_CUSTOM_WEIGHT_DECAY LN.CUSTOM_WEIGHT_DECAY
OPTIM.OPTIMIZER OPTIM.BASE_LR OPTIM.MIN_LR OPTIM.LR_POLICY OPTIM.GAMMA OPTIM.STEPS OPTIM.LR_MULT OPTIM.MAX_EPOCH
OPTIM.MOMENTUM OPTIM.DAMPENING OPTIM.NESTEROV OPTIM.BETA1 OPTIM.BETA2 OPTIM.WEIGHT_DECAY
OPTIM.BIAS_USE_CUSTOM_WEIGHT_DECAY OPTIM.BIAS_CUSTOM_WEIGHT_DECAY OPTIM.WARMUP_FACTOR OPTIM.WARMUP_EPOCHS
OPTIM.EMA_ALPHA OPTIM.EMA_UPDATE_PERIOD
TRAIN.DATASET TRAIN.SPLIT TRAIN.BATCH_SIZE TRAIN.IM_SIZE TRAIN.EVAL_PERIOD TRAIN.CHECKPOINT_PERIOD TRAIN.AUTO_RESUME
TRAIN.WEIGHTS TRAIN.MIXED_PRECISION TRAIN.LABEL_SMOOTHING TRAIN.MIXUP_ALPHA TRAIN.CUTMIX_ALPHA TRAIN.PCA_STD
TRAIN.AUGMENT
TEST.DATASET TEST.SPLIT TEST.BATCH_SIZE TEST.IM_SIZE TEST.WEIGHTS DATA_LOADER.NUM_WORKERS DATA_LOADER.PIN_MEMORY
MEM.RELU_INPLACE CUDNN.BENCHMARK PREC_TIME.BATCH_SIZE PREC_TIME.ENABLED PREC_TIME.WARMUP_ITER PREC_TIME.NUM_ITER
DESC VERBOSE NUM_GPUS OUT_DIR CFG_DEST RNG_SEED LOG_DEST LOG_PERIOD DIST_BACKEND HOST PORT PORT_RANGE DOWNLOAD_CACHE
"""

FLAGS = {
    "timm's train.py": TIMM,
    "torchvision's references/classification/train.py": TORCHVISION,
    "ffcv-imagenet's train_imagenet.py": FFCV_IMAGENET,
    "Composer's Trainer": COMPOSER,
    "pycls": PYCLS,
}
"""By trainer, as in trainer.cli.peer_options.PEERS."""
