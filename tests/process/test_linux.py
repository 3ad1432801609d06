"""Sizes that /proc lists, and the folders of control groups."""

from pathlib import Path

import pytest

from trainer.process.linux import control_groups, proc_bytes


def test_proc_bytes_reads_the_line_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       16 kB\nMyMemAvailable: 1 kB\nMemAvailable:    3 kB\n")
    assert proc_bytes("MemAvailable", tmp_path / "meminfo") == 3 * 1024
    with pytest.raises(OSError, match="lists no MemFree"):
        proc_bytes("MemFree", tmp_path / "meminfo")
    assert proc_bytes("VmRSS") > 2**20


def test_control_groups_are_those_of_the_controller_and_their_parents(tmp_path: Path) -> None:
    (tmp_path / "self").write_text("5:cpu,cpuacct:/job\n4:cpuset:/other\n1:name=systemd:/\n0::/a/b\n")
    assert list(control_groups("cpu", tmp_path / "self", tmp_path)) == [
        (tmp_path / "cpu" / "job", 1), (tmp_path / "cpu", 1),
        (tmp_path / "a" / "b", 2), (tmp_path / "a", 2), (tmp_path, 2),
    ]  # fmt: skip
    assert list(control_groups("cpu", tmp_path / "nowhere", tmp_path)) == []
