"""Shortcut: trains the ResNet family from published recipes.

Reading order: recipe.py (what can be said) - train.py (the loop) - evaluate.py, result.py (what comes out) - data/
(images, from disk to device) - model/ - schedule.py, optimizer.py, loss.py, precision.py - distributed.py -
checkpoint.py, run.py, environment.py, log.py - settings.py (the command line).
"""
