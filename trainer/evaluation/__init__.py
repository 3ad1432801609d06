"""Evaluation: every image once, the result with its protocol, calibration."""
