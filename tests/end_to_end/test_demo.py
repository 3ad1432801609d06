"""What `make demo` and the README's first screen promise: 98 % top-1 of the held-out digits in a minute or two."""

import json
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT, TIMEOUT, kill, run, start, wait_for_step

pytestmark = pytest.mark.slow


def test_resnet20_reads_98_percent_of_the_held_out_digits(digits: Path, tmp_path: Path) -> None:
    ended = run(["train", "resnet20_digits", "--data", str(digits), "--run-dir", str(tmp_path)], processes=2)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["top1"] >= 98
    protocol = result["protocol"]
    assert (protocol["images_seen"], protocol["duplicates"], protocol["images_total"]) == (360, 0, 360)
    assert result["changed"] == []


def test_readme_commands_run_as_printed(tmp_path: Path) -> None:
    """All six but the installation, in an empty folder; the training is stopped once, and continues."""
    block = [line.strip() for line in (ROOT / "README.md").read_text().splitlines()[:19] if line.startswith("    ")]
    install, prepare, train, again, evaluate, compare = (shlex.split(line, comments=True) for line in block)
    assert install[:2] == ["make", "install"]
    for words in (prepare, train, again, evaluate, compare):
        assert words[:3] == ["python", "-m", "trainer"]

    ended = run(prepare[3:], cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    with start(train[3:], cwd=tmp_path) as process:
        wait_for_step(process, tmp_path / "runs" / "digits", 20)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 128 + signal.SIGTERM, err
    with start(again[3:], cwd=tmp_path) as process:
        try:
            _, err = process.communicate(timeout=5 * TIMEOUT)  # 20 epochs in one process
        except subprocess.TimeoutExpired:
            kill(process)
            raise
    assert process.returncode == 0, err
    for words in (evaluate, compare):
        ended = run(words[3:], cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "runs" / "digits" / "result.json").read_text())["top1"] >= 98
    assert "resnet20_digits" in ended.stdout
