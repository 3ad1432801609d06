"""What the header of a JPEG says (ITU-T T.81, annex B), read in plain Python."""

from typing import NamedTuple

MARGIN = 1  # px around a crop: chroma of half the resolution is interpolated from the next sample
START, END = b"\xff\xd8\xff", b"\xff\xd9"
_BASELINE, _RESTART, _SCAN = 0xC0, 0xDD, 0xDA
_PLAIN = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, Huffman-coded (table B.1)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class JpegLayout(NamedTuple):
    """Where the parts of a JPEG lie, and what they hold."""

    height: int
    width: int
    components: int
    plain: bool
    """of 8 bits, Huffman-coded, gray or of three colours"""
    frame: int
    """offset of the frame's header"""
    data: int
    """offset of the first scan's data"""
    mcu_height: int
    mcu_width: int
    """px"""
    one_scan: bool
    """baseline, all components in one scan: its data runs from the top of the image to the bottom"""
    interval: int
    """MCUs between restart markers; 0 if there are none, or not one scan"""


def read_layout(jpeg: bytes | memoryview) -> JpegLayout | None:
    """Reads what the header says; None if it is no JPEG, or cut off before the first scan."""
    if bytes(jpeg[:3]) != START:
        return None
    frame = interval = kind = 0
    place, size = 2, len(jpeg)
    while place + 6 <= size and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        end = place + 2 + (jpeg[place + 2] << 8 | jpeg[place + 3])
        if end > size or marker < 0xC0 or 0xD0 <= marker <= 0xD9 or marker == 0xFF:
            return None
        if marker in _FRAMES:
            if end < place + 10 + 3 * (jpeg[place + 9] if place + 10 <= end else 1):
                return None
            frame, kind = place, marker
        elif marker == _RESTART:
            interval = jpeg[place + 4] << 8 | jpeg[place + 5]
        elif marker == _SCAN:
            return _of_scan(jpeg, frame, kind, place, end, interval) if frame else None
        place = end
    return None


def first_rows(jpeg: bytes, layout: JpegLayout, rows: int) -> bytes | bytearray:
    """Returns the JPEG, cut to a height of at least `rows`; unchanged if that saves nothing or it has several scans.

    The data of the rows below is still there: a decoder warns of it once the image is complete. Its last row of pixels
    may have colours of its own, interpolated without the row that followed.
    """
    height = -(-rows // layout.mcu_height) * layout.mcu_height
    if height >= layout.height or not layout.one_scan:
        return jpeg
    shorter = bytearray(jpeg)
    shorter[layout.frame + 5 : layout.frame + 7] = height.to_bytes(2, "big")
    return shorter


def _of_scan(jpeg: bytes | memoryview, frame: int, kind: int, scan: int, end: int, interval: int) -> JpegLayout | None:
    components = jpeg[frame + 9]
    height, width = jpeg[frame + 5] << 8 | jpeg[frame + 6], jpeg[frame + 7] << 8 | jpeg[frame + 8]
    if not height or not width:
        return None
    one_scan = kind == _BASELINE and jpeg[scan + 4] == components
    sampling = [jpeg[frame + 11 + 3 * number] for number in range(components)] if components > 1 else [0x11]
    return JpegLayout(
        height=height,
        width=width,
        components=components,
        plain=kind in _PLAIN and jpeg[frame + 4] == 8 and components in (1, 3),
        frame=frame,
        data=end,
        mcu_height=8 * max(1, *(value & 15 for value in sampling)) if components > 1 else 8,
        mcu_width=8 * max(1, *(value >> 4 for value in sampling)) if components > 1 else 8,
        one_scan=one_scan,
        interval=interval if one_scan else 0,
    )
