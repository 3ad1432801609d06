"""What `make demo` promises: at least 98 % top-1 of the held-out digits, on two processes, in a minute or two."""

import json
from pathlib import Path

from tests.support.processes import run


def test_resnet20_reads_98_percent_of_the_held_out_digits(digits: Path, tmp_path: Path) -> None:
    ended = run(["train", "resnet20_digits", "--data", str(digits), "--run-dir", str(tmp_path)], processes=2)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["top1"] >= 98
    assert (result["seen"], result["duplicates"], result["total"]) == (360, 0, 360)
    assert result["changed"] == []
