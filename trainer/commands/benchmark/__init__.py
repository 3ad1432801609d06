"""The command benchmark: measures what limits training on this machine.

Reading order: benchmark.py (what is measured, in turn), measure.py (windows), repeated_step.py (the training step),
peers.py (FFCV's and torchvision's loaders), peak.py (the device's peak), whole_epoch.py (with evaluation and saving),
bottleneck.py, report.py.
With --fit: fit.py (the search), fit_trial.py (one micro-batch, in a process of its own).
"""
