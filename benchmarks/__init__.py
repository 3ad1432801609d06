"""The longer measurements: python -m benchmarks.speed prints the table of docs/performance.md, gpu.py is for a GPU."""
