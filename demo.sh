#!/usr/bin/env bash
# Real images to a trained network in one command: what `make demo` runs after installing.
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/.venv/bin:$PATH"
export OMP_NUM_THREADS=1 # per process: two processes share two cores

[ -f demo/data/train.beton ] || python -m trainer prepare digits --out demo/data --overwrite
python -m launch local --processes 2 resnet20_digits --data demo/data --run-dir demo/run
echo
echo "Curves:  .venv/bin/tensorboard --logdir demo"
echo "Again:   .venv/bin/python -m trainer evaluate demo/run"
echo "Resume:  stop the training with Ctrl-C, or kill it, and run make demo again: it ends with the same weights"
