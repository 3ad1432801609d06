"""Numbers in messages: plurals, and rates that are not rounded to nothing."""

import pytest

from trainer.errors import counted, first_few, rate


@pytest.mark.parametrize(
    ("number", "noun", "shown"),
    [
        (1, "step", "1 step"),
        (0, "image", "0 images"),
        (2, "class", "2 classes"),
        (3, "micro-batch", "3 micro-batches"),
        (5, "epoch", "5 epochs"),
        (2000, "process", "2,000 processes"),
    ],
)
def test_counted_gives_number_and_plural(number: int, noun: str, shown: str) -> None:
    assert counted(number, noun) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.42, "0.4"), (9.94, "9.9"), (9.96, "10"), (12.6, "13"), (2345, "2,345")]
)
def test_rate_has_a_decimal_below_ten(value: float, shown: str) -> None:
    assert rate(value) == shown


def test_first_few_counts_the_names_that_are_left_out() -> None:
    assert first_few(["a", "b"], 2) == "a, b"
    assert first_few(["a", "b\n", "c", "d"], 2) == r"a, b\n and 2 more"
