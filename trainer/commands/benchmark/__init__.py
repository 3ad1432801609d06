"""The verb benchmark: what limits training, here.

Reading order: benchmark.py (what is measured, in turn) - measure.py (windows), training_step.py, peers.py (FFCV's and
torchvision's loaders), peak.py (what the device could do) - verdict.py (what limits), report.py (how it is said).
"""
