"""Makes printing and third-party warnings harmless, before anything else is imported.

Imported for its effect by the entry points. A locale without UTF-8 is usual in Slurm jobs and containers: no character
of a class name or a path may end a run. Nor may a warning, which `python -W error` turns into an exception.
"""

import io
import sys
import warnings

for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper) and _stream.errors in ("strict", "surrogateescape"):
        _stream.reconfigure(errors="backslashreplace")
if any(option.partition(":")[0].startswith("e") for option in sys.warnoptions):
    warnings.simplefilter("default")
