"""The command compare: finished runs side by side.

Reading order: compare.py (which runs, and the text) - run_record.py (what a run directory says), comparison.py (rows),
published.py (ours against the published number), statistics.py, report.py (HTML).
"""
