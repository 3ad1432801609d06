"""The commands beside `train`. Nothing imports them but trainer/__main__.py and benchmarks/."""
