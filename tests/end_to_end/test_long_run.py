"""What a run takes of the machine does not grow from epoch to epoch; long_run.py looks at 200 of them."""

from pathlib import Path

import pytest

from tests.support.long_run import usage_by_epoch

pytestmark = pytest.mark.slow


def test_memory_threads_and_open_files_stay_as_they_are(tmp_path: Path) -> None:
    """FFCV's own loader keeps a gigabyte and a thread of every epoch that is left early."""
    found = usage_by_epoch("synthetic:480", tmp_path, 14, "--no-pictures")
    settled, last = found[5], found[-2]  # the last one may be looked at while the process ends
    assert len(found) == 14
    assert last.megabytes - settled.megabytes < 16
    early, late = ([usage.threads for usage in epochs] for epochs in (found[2:6], found[-5:-1]))
    assert min(late) <= max(early)  # a checkpoint's writer comes and goes
    assert last.files <= settled.files
