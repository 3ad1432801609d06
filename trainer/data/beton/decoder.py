"""The decoder of .beton files and of class folders: compiled where FFCV's library is installed, else portable.py."""

from typing import Any

from trainer.data.beton.opencv import require_opencv


def _load() -> tuple[Any, Any, str]:
    try:
        from trainer.data.beton import decode as compiled

        return compiled.decode, compiled.cut, ""
    except (ImportError, OSError) as error:  # OSError: its library lacks one that it was built with
        require_opencv(f"reading without FFCV's library ({error})")
        from trainer.data.beton import portable

        return portable.decode, portable.cut, str(error)


decode, cut, WHY_PORTABLE = _load()
"""WHY_PORTABLE: why FFCV's library is not used; empty if it is"""
