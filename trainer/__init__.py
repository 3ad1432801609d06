"""Shortcut: trains the ResNet family from published recipes.

Reading order: recipe/ (what can be said), recipe_file.py - train.py (the loop), setup.py (what comes before it),
state.py (what changes in it), log/ (what is seen of it) - evaluate.py, result.py (what comes out) - data/ (images, from
disk to device) - model/ - schedule.py, optimizer.py, loss.py, precision.py, ema.py, fine_tuning.py, precise_norm.py -
distributed.py - checkpoint.py, run.py, environment.py, files.py - settings.py, command_line.py - the other verbs:
look.py (contact_sheet.py), plan/ (cost.py), benchmark/, compare/, export.py (weights_file.py, onnx_file.py,
passport.py, calibration.py).
"""

__version__ = "0.1.0"
