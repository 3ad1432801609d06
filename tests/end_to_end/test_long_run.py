"""What a run takes of the machine does not grow from epoch to epoch; long_run.py looks at 200 of them."""

from pathlib import Path
from statistics import median

import pytest

from tests.support.long_run import usage_by_epoch

pytestmark = pytest.mark.slow


def test_memory_threads_and_open_files_stay_as_they_are(tmp_path: Path) -> None:
    """FFCV's own loader keeps a gigabyte and a thread of every epoch that is left early."""
    found = usage_by_epoch("synthetic:480", tmp_path, 14, "--no-pictures")
    assert len(found) == 14
    early, late = found[2:6], found[-4:]
    before, after = (median(usage.megabytes for usage in usages) for usages in (early, late))
    assert after - before < 16  # within 8 epochs
    for what in ("threads", "files"):
        before, after = ({getattr(usage, what) for usage in usages} for usages in (early, late))
        # A checkpoint's writer and its file come and go, and a pool starts a thread when it first needs one more.
        # A leak of one per epoch would show as at least 5: the two groups lie that many epochs apart.
        assert min(after) - max(before) <= 2, what
