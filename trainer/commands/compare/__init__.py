"""The command compare: finished runs side by side.

Reading order: compare.py (which runs, and the text) - run_record.py (what a run directory says), protocols.py (what has
to agree), rows.py (which runs are one row), comparison.py (the table, and differences of rows), published.py (ours
against the published number), statistics.py, varied.py (a sweep's values), report.py (HTML).
"""
