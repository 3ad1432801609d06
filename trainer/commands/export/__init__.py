"""Exports a run's weights for other programs, and checks what was written."""
