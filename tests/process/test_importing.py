"""What a command says and refuses before it imports torch."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, TIMEOUT
from trainer.process.importing import announce


@pytest.mark.parametrize(
    ("is_terminal", "rank", "shown"),
    [
        (True, None, "mine on photos -> run: importing PyTorch\n"),
        (True, "0", "mine on photos -> run: importing PyTorch\n"),
        (True, "1", ""),
        (False, None, ""),
    ],
)
def test_announcement_is_one_line_of_rank_0_on_a_terminal(
    is_terminal: bool, rank: str | None, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    stderr.isatty = lambda: is_terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stderr)
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    announce("mine on photos -> run")
    assert stderr.getvalue() == shown


def test_paths_that_are_not_there_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    run_dir = ["--run-dir", str(tmp_path / "run")]
    mistakes = {
        "nowhere does not exist": [
            ["evaluate", nowhere],
            ["average", nowhere, nowhere],
            ["predict", nowhere, "image.jpg"],
            ["export", nowhere, "--to", "onnx"],
        ],
        "has neither train.beton nor the folder train/": [["train", "resnet20_digits", "--data", nowhere, *run_dir]],
    }
    code = (
        "import sys\n"
        "from trainer.__main__ import main\n"
        f"for words in {[words for commands in mistakes.values() for words in commands]}:\n"
        "    assert main(words) == 2, words\n"
        "assert 'torch' not in sys.modules\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.splitlines()
    expected = [text for text, commands in mistakes.items() for _ in commands]
    assert len(lines) == 5
    assert all(text in line for text, line in zip(expected, lines, strict=True)), lines
