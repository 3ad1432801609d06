"""Evaluates a run or any weights file, and keeps a record."""
