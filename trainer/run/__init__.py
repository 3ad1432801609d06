"""What a run leaves on disk: its directory, checkpoints, progress, environment and commit."""
