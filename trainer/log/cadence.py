"""When the metrics of training are logged.

A function of the step alone, so that a resumed run writes the same lines as one that was not stopped.
"""

LINES_PER_EPOCH = 4


def log_interval(log_every: int, steps_per_epoch: int) -> int:
    """Steps between two lines: `log_every`, or fewer if an epoch would otherwise have less than four lines."""
    return max(1, min(log_every, steps_per_epoch // LINES_PER_EPOCH))


def is_logged(step: int, interval: int) -> bool:
    """Whether a line follows this step: every `interval` steps and, before that, after steps 1, 2, 4, 8, ..."""
    return step % interval == 0 or (step < interval and step & (step - 1) == 0)


def logged_before(step: int, interval: int) -> int:
    """The last step before this one that has a line, or 0. The loss of a line is the mean of the steps since then."""
    if step > interval:
        return (step - 1) // interval * interval
    return 1 << ((step - 1).bit_length() - 1) if step > 1 else 0
