"""The log of a run: terminal, log.txt, metrics.jsonl, TensorBoard.

Reading order: log.py (all of them) - cadence.py (at which steps) - console_log.py (terminal and log.txt), throughput.py
(speed, the slowest rank), tensorboard_log.py, hparams.py, pictures.py (TensorBoard), profile.py (torch.profiler).
"""
