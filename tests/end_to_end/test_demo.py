"""What `make demo` and the README's first screen promise: 98 % top-1 of the held-out digits in a minute."""

import json
import shlex
import signal
from pathlib import Path

import pytest

from tests.support.processes import ROOT, TIMEOUT, metrics, run_new, start_new, wait_for_step

pytestmark = pytest.mark.slow


def test_readme_commands_run_as_printed_and_read_98_percent_of_the_held_out_digits(tmp_path: Path) -> None:
    """All six but the installation, in an empty folder.

    The training is stopped twice and continues: as printed, and on two processes, as `make demo` has.
    """
    block = [line.strip() for line in (ROOT / "README.md").read_text().splitlines()[:19] if line.startswith("    ")]
    install, prepare, train, again, evaluate, compare = (shlex.split(line, comments=True) for line in block)
    assert install[:2] == ["make", "install-wheels"]
    for words in (prepare, train, again, evaluate, compare):
        assert words[:3] == ["python", "-m", "trainer"]

    ended = run_new(prepare[3:], cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    run_dir = tmp_path / "runs" / "digits"
    for words, step in ((train, 20), (again, 40)):
        with start_new(words[3:], cwd=tmp_path) as process:
            wait_for_step(process, run_dir, step)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 128 + signal.SIGTERM, err
    ended = run_new(again[3:], processes=2, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "continued after step" in ended.stdout
    assert [record["epoch"] for record in metrics(run_dir) if record["kind"] == "eval"][-1] == 20

    result = json.loads((run_dir / "result.json").read_text())
    assert result["top1"] >= 98
    protocol = result["protocol"]
    assert (protocol["images_seen"], protocol["duplicates"], protocol["images_total"]) == (360, 0, 360)
    assert result["changed"] == []
    assert [start["processes"] for start in result["starts"]] == [1, 1, 2]
    for words in (evaluate, compare):
        ended = run_new(words[3:], cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    assert "resnet20_digits" in ended.stdout
