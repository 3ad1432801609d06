"""What a run says while it runs: terminal, log.txt, metrics.jsonl, TensorBoard.

Reading order: log.py (all of them) - progress.py (terminal and log.txt), throughput.py (speed, the slowest rank),
board.py, hparams.py, pictures.py (TensorBoard), profile.py (a window of steps).
"""
