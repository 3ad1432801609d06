"""The verb plan: what a recipe would do, before anything is trained.

Reading order: plan.py (what is said) - data.py (the images), curve.py (the rate), scaling.py (many GPUs, a model),
warnings.py (what is hardly meant), measure.py (two real steps), text.py.
"""
