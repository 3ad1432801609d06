"""Shortcut: trains the ResNet family from published recipes.

Reading order: recipe/ (the vocabulary), train.py (the loop), step.py (one optimizer step), setup/ (what comes before
the loop), model/, data/ (from a file to the device), schedule.py, optim/ (optimizers, clipping), loss.py,
distillation.py, precision.py, ema.py, fine_tuning.py, precise_bn.py, step_metrics.py, nonfinite.py, evaluation/, run/
(what a run leaves on disk), log/, distributed/ (process group, stop signals, watchdog), cpu/ (kernels for bf16 on
CPUs), process/ (environment variables, streams), cli/ (the command line), commands/ (the other commands; `prepare` is
in data/ as well).
"""

__version__ = "0.1.0"
