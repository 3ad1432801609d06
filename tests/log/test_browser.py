"""TensorBoard on the folder above two real runs, opened in a real browser."""

import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import SUPPORT, TIMEOUT
from trainer.__main__ import main

RECIPE = str(SUPPORT / "small_recipe.py")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

if not CHROMIUM:
    pytest.skip("no chromium: apt-get install --no-install-recommends chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def runs(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds; the second was stopped in its second epoch and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        run_dir = folder / f"small_seed{seed}"
        words = ["train", RECIPE, "--data", str(digits), "--run-dir", str(run_dir), "--seed", str(seed)]
        words += ["--log-every", "4", "--checkpoint-steps", "9", "--keep-last-checkpoints", "9"]
        assert main(words) == 0
    for later in (run_dir / "checkpoints").glob("step_000000[2]*.pt"):
        later.unlink()  # after step 18, in the second epoch
    assert main(words) == 0
    assert "continued after step 18" in (run_dir / "log.txt").read_text()
    return folder


@pytest.fixture(scope="module")
def address(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a TensorBoard on a free port that it chooses itself."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", "0", "--host", "127.0.0.1"]
    said = tmp_path_factory.mktemp("tensorboard") / "stderr"  # a file: nobody reads a pipe while the tests run
    with said.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
    try:
        deadline = time.monotonic() + TIMEOUT
        while not (found := re.search(r"(http://127\.0\.0\.1:\d+)/", said.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
        while b"small_seed1" not in urllib.request.urlopen(f"{found[1]}/data/runs", timeout=TIMEOUT).read():
            assert time.monotonic() < deadline, f"TensorBoard does not find the runs: {said.read_text()}"
            time.sleep(0.2)
        yield found[1]
    finally:
        process.terminate()
        process.wait(TIMEOUT)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(1000 * TIMEOUT)
    yield page
    page.close()


def test_scalar_charts_hold_both_runs(page: Any, address: str) -> None:
    page.goto(f"{address}/#timeseries")
    card = page.locator("scalar-card", has=page.get_by_title("eval/top1", exact=True)).first
    card.wait_for()
    for run in ("small_seed0", "small_seed1"):
        card.get_by_text(run).first.wait_for()
    card.locator("line-chart").first.wait_for()


def test_custom_scalars_have_a_page_for_each_question(page: Any, address: str) -> None:
    page.goto(f"{address}/#custom_scalars")
    for question in ("Accuracy, loss and learning rate", "Accuracy by images and by time", "Throughput and data wait"):
        page.get_by_text(question, exact=True).first.wait_for()
    page.get_by_text("Matches (2)").nth(3).wait_for()  # two runs in each of the four charts of the first page


def test_hparams_table_lists_every_run_with_its_accuracy(page: Any, address: str, runs: Path) -> None:
    page.goto(f"{address}/#hparams")
    table = page.locator("tf-hparams-table-view")
    for run in ("small_seed0", "small_seed1"):
        table.get_by_text(run).first.wait_for()
    for column in ("recipe", "changed", "seed", "optimizer.lr", "global_batch_size", "top-1 (%)"):
        table.get_by_text(column, exact=True).first.wait_for()
    for run in runs.iterdir():
        top1 = page.evaluate(
            "run => fetch(`data/plugin/scalars/scalars?tag=eval/top1&run=${run}`).then(r => r.json())", run.name
        )
        assert [point[1] for point in top1] == [14, 28]  # once per epoch, also in the stopped run
        table.get_by_text(f"{top1[-1][2]:#.5g}").first.wait_for()


def test_tensorboard_images_are_there(page: Any, address: str) -> None:
    page.goto(f"{address}/#images")
    for tag in ("visuals/augmented_1", "visuals/confusion", "visuals/misclassified_1"):
        page.get_by_text(f"tag: {tag}").first.wait_for()
    page.wait_for_function("document.body.innerText.length > 0")
    picture = page.locator("tf-image-loader img").first
    picture.wait_for()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") >= 400


def test_texts_say_what_each_run_is(page: Any, address: str) -> None:
    page.goto(f"{address}/#text")
    page.get_by_text("a recipe outside recipes/").first.wait_for()
    page.get_by_text("360 of 360 images, 0 duplicates").first.wait_for()
