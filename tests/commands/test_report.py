"""The report is one file that needs no network: opened from disk in a real browser, whose policy forbids it any."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.made_up_runs import write_run
from tests.support.processes import TIMEOUT
from trainer.__main__ import main
from trainer.commands.compare.report import _thinned
from trainer.log.console_log import without_folders
from trainer.recipe import SGD
from trainer.recipe_file import load_recipe

CIFAR = load_recipe("resnet20_he2015")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Links(HTMLParser):
    """What a page would load, and its text outside scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.policy = self.text = ""
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.loaded += [value for name in ("src", "href", "data", "srcset") if (value := named.get(name))]
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"] or ""
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three seeds of one recipe, and one run with another learning rate."""
    folder = tmp_path_factory.mktemp("reported")
    for seed in range(3):
        write_run(folder / f"s{seed}", CIFAR, [85.0, 88.0, 91.0 + seed / 10], seed=seed)
    write_run(folder / "other<b>", replace(CIFAR, optimizer=SGD(lr=0.2)), [80.0, 85.0, 90.0], rate=500)
    assert main(["compare", str(folder), "--html", str(folder / "report.html"), "--time-to-accuracy", "85"]) == 0
    return folder / "report.html"


@pytest.mark.slow
def test_report_says_what_the_terminal_says(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(report.parent), "--time-to-accuracy", "85"]) == 0
    page = Links()
    page.feed(report.read_text())
    said = [without_folders(line).split() for line in capsys.readouterr().out.splitlines() if line]
    assert len(said) > 20
    words = "".join(page.text.split())
    assert [line for line in said if "".join(line) not in words] == []
    assert "other<b>" in page.text  # escaped, not a tag


def test_report_draws_at_most_a_thousand_means_of_a_long_curve() -> None:
    """2,500 values in threes, of which the last one is alone."""
    found = _thinned([float(value) for value in range(2500)])
    assert len(found) == 834
    assert (found[0], found[1], found[-2], found[-1]) == (1.0, 4.0, 2497.0, 2499.0)
    assert [len(_thinned([1.0] * count)) for count in (0, 1, 1000, 1001)] == [0, 1, 1000, 501]


def test_report_ranks_its_rows_and_holds_no_absolute_path(report: Path) -> None:
    """`other` was named first and is the worse one."""
    page = Links()
    page.feed(report.read_text())
    assert str(report.parent) not in report.read_text()
    assert page.text.index("91.10 +- 0.10") < page.text.index("90.00 (one run")


def test_report_sets_the_table_of_a_sweep_in_a_font_of_one_width(report: Path) -> None:
    assert '<div class="aligned">optimizer.lr  n  top-1, %       row\n0.1 ' in report.read_text()


def test_report_loads_nothing_and_may_not(report: Path) -> None:
    page = Links()
    page.feed(report.read_text())
    assert page.loaded == []
    assert page.policy.startswith("default-src 'none'; script-src 'unsafe-inline'; ")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_browser_draws_every_curve(report: Path, tmp_path: Path) -> None:
    """Three seeds and their mean, and a single run, in each of six panels; and each row once in the legend."""
    assert CHROMIUM
    ended = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--virtual-time-budget=10000"),
            *("--window-size=1250,1000", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", report.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(re.findall(r'<path class="js-line"[^>]* d="M[\d.]', ended.stdout)) == 6 * (4 + 1) + 2
    assert len(re.findall(r'<text class="legendtext', ended.stdout)) == 2
    assert not [line for line in ended.stderr.splitlines() if "CONSOLE" in line]  # no script failed, no load refused


def test_report_that_cannot_be_written_is_one_line(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for target, why in ((tmp_path / "nowhere" / "report.html", "cannot be written: "), (tmp_path, "is a folder: ")):
        assert main(["compare", str(report.parent), "--html", str(target)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(target) in line and why in line


def test_report_without_plotly_the_error_says_what_to_install(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    assert main(["compare", str(report.parent), "--html", str(tmp_path / "report.html")]) == 2
    assert "pip install plotly" in capsys.readouterr().err
    assert main(["compare", str(report.parent)]) == 0
