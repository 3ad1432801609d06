"""Averages the weights of several checkpoints, and evaluates their mean."""
