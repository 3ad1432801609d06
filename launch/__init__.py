"""Decides where the processes run: on this machine through torchrun, or on a Slurm cluster through submitit.

Reading order: settings.py and cluster.py (what a user says), layout.py (how many processes where), submission.py (what
is kept of a launch, with snapshot.py), attempt.py (every start, and whether another follows), rank.py (what each
process does), local.py with torchrun.py and slurm.py with submit.py (the two ways), jobs.py, status.py and logs.py
(afterwards), preflight.py with checks.py (before).
Nothing imports this package, and it never looks inside a recipe.
"""
