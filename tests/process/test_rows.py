"""Rows of reports: wrapped to the terminal, whole in a pipe."""

import pytest

from trainer.process.rows import hanging, rows, rows_or_lines, text_table, width

TEXT = "photos, val: 30 of 30 images, 0 duplicates; 64 px, centre crop of 0.875 x short side, one view"


@pytest.mark.parametrize(("terminal", "wide"), [("4", 40), ("40", 40), ("80", 80), ("120", 110)])
def test_rows_fit_the_terminal_and_lose_no_word(monkeypatch: pytest.MonkeyPatch, terminal: str, wide: int) -> None:
    monkeypatch.setenv("COLUMNS", terminal)
    assert width() == wide
    lines = rows([("recipe", "mine"), ("protocol", TEXT)]).splitlines()
    assert lines[0] == "  recipe    mine" and lines[1].startswith("  protocol  photos, val: ")
    assert max(map(len, lines)) <= wide
    assert all(line.startswith(" " * 12) for line in lines[2:])
    assert " ".join(line[12:] for line in lines[1:]) == TEXT


def test_rows_keep_a_word_that_is_too_long_whole() -> None:
    digest = "sha256:" + 64 * "0"
    assert digest in hanging("  written   ", f"weights.pth (44.8 MB, {digest})", 40).split("(")[1]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_rows_are_whole_lines_in_a_pipe(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    shown = rows_or_lines([("recipe", "mine"), ("protocol", TEXT)])
    assert shown.splitlines()[0] == "  recipe    mine"
    assert (f"  protocol  {TEXT}" in shown) != is_terminal


def test_text_table_aligns_its_columns_and_short_rows_run_on() -> None:
    table = [["a", "bb"], ["1", "2"], ["30", "4000"], ["longer"]]
    assert text_table(table) == ["a   bb", "1   2", "30  4000", "longer"]
    assert text_table(table, right=[0, 1]) == [" a    bb", " 1     2", "30  4000", "longer"]
