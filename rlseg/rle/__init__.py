"""Masks as run lengths, in the format of COCO: made, checked, measured and compared."""

from rlseg.rle.masks import encode, encode_labels, intersections, iou
from rlseg.rle.reading import MAX_MASK_PIXELS, Fault, Limits, from_coco, parse
from rlseg.rle.runs import Runs, concatenate, merge
from rlseg.rle.strings import MAX_RLE_CHARS

__all__ = [
    "MAX_MASK_PIXELS",
    "MAX_RLE_CHARS",
    "Fault",
    "Limits",
    "Runs",
    "concatenate",
    "encode",
    "encode_labels",
    "from_coco",
    "intersections",
    "iou",
    "merge",
    "parse",
]
