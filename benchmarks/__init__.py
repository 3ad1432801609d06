"""The longer measurements: python -m benchmarks.speed prints the table of docs/performance.md, gpu.py is for a GPU."""

# Before torch is imported, here and in the processes that are started: for all alike, as python -m trainer has it.
import trainer.process.library_defaults  # noqa: F401
