"""The fields of a .beton file: which one is the image and which the label, whatever they are called.

prepare writes two, image and label. FFCV's own writer takes any number of fields, with any names.
"""

from dataclasses import dataclass

import numpy as np

from trainer.errors import one_line

IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_PLACE = np.dtype([("ptr", "<u8"), ("size", "<u8")])
IMAGE_TYPE, LABEL_TYPE = 2, 1  # FFCV's type ids of RGBImageField and IntField
# What a row of metadata holds of each type of field: ffcv/types.py and ffcv/fields (1.0.2; 0.0.3 has the same)
_KINDS: dict[int, tuple[str, np.dtype]] = {
    0: ("float", np.dtype("<f8")),
    LABEL_TYPE: ("int", np.dtype("<i8")),
    IMAGE_TYPE: ("image", IMAGE),
    3: ("bytes", _PLACE),
    4: ("array", np.dtype("<u8")),
    5: ("json", _PLACE),
    6: ("tensor", np.dtype("<u8")),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A row of metadata, and where in it are image and label."""

    row: np.dtype
    image: str
    label: str

    @property
    def only_images(self) -> bool:
        """Whether images are all that lies in the pages: then each has one entry in the allocation table."""
        assert self.row.fields
        kinds = [kind for kind, *_ in self.row.fields.values()]
        return all(kind in (IMAGE, np.dtype("<i8"), np.dtype("<f8")) for kind in kinds) and kinds.count(IMAGE) == 1


def layout_of(fields: list[tuple[str, int]]) -> Layout:
    """Returns the layout for fields of these names and type ids.

    Raises ValueError, naming them, if there is no such choice. The image is the only field of images, or the one called
    image; the label the only integer, or the one called label.
    """
    unknown = [f"{name!r} of type {kind}" for name, kind in fields if kind not in _KINDS]
    if unknown:
        raise ValueError(f"its field {one_line(unknown[0])} is of no type of FFCV")
    row = np.dtype([(f"f{place}", _KINDS[kind][1]) for place, (_, kind) in enumerate(fields)], align=True)
    return Layout(row=row, image=_only(fields, IMAGE_TYPE, "image"), label=_only(fields, LABEL_TYPE, "label"))


def _only(fields: list[tuple[str, int]], kind: int, usual: str) -> str:
    places = [place for place, (_, other) in enumerate(fields) if other == kind]
    named = [place for place in places if fields[place][0] == usual]
    if len(places) != 1 and len(named) != 1:
        listed = one_line(", ".join(f"{name} ({_KINDS[other][0]})" for name, other in fields))
        what = "RGBImageField" if kind == IMAGE_TYPE else "IntField"
        raise ValueError(f"it has {len(places)} fields of type {what}, and needs one, or one called {usual}: {listed}")
    return f"f{places[0] if len(places) == 1 else named[0]}"
