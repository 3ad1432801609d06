"""OpenCV's Python package, or a line that repairs it."""

from trainer.errors import UserError

REPAIR = "pip install --force-reinstall --no-deps opencv-python-headless"
"""Two packages have the folder cv2 as their own: this one, and opencv-python, which FFCV requires. Removing either
removes cv2, and pip then takes the other for installed. opencv-python also needs libGL, which few servers have."""


def require_opencv(purpose: str) -> None:
    """Raises UserError, naming the purpose, if cv2 cannot be imported or is no longer complete.

    Also sets its number of threads to 1: the loader's threads and prepare's processes are as many as there are CPUs,
    and in a forked process OpenCV would wait for its parent's for ever.
    """
    try:
        import cv2

        cv2.setNumThreads(0)
    except (ImportError, OSError, AttributeError) as error:
        raise UserError(f"{purpose} needs OpenCV ({error}): {REPAIR}") from error
