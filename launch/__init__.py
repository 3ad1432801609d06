"""Decides where the processes run: on this machine through torchrun, or on a Slurm cluster through submitit.

Reading order: settings.py, cluster_file.py and command_line.py with sweep.py and habits.py (what a user asks for),
layout.py (processes on nodes), cluster.py (what a launcher implements) with its members slurm/ and local/,
submission.py (what is kept of a launch, with snapshot.py), attempt.py (every start, and whether the run is started
again) with disk.py, rank.py (what each process does), jobs.py, status.py with state.py, and logs.py (afterwards),
preflight.py with checks.py, comparison.py and links.py (before). Nothing imports this package, and it never looks
inside a recipe.
"""
