"""The command plan: what a recipe would do and cost, before anything is trained.

Reading order: plan.py (the output), data.py (the images), curve.py (learning rate), scaling.py (a model of many GPUs),
warnings.py (likely mistakes). Shared with benchmark, beside this folder: cost.py (operations and memory),
step_memory.py (two real steps), text.py (layout).
"""
