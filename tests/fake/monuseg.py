"""A tiny MoNuSeg: colour tiles with outlines in Aperio's XML, in the folders of the archives."""

import numpy as np
from PIL import Image

from rlseg.data.idlists import committed_ids
from rlseg.data.monuseg import TESTING, TRAINING

SQUARES = ((3, 4, 9), (20, 18, 12), (50, 30, 10))  # top, left, side in pixels
TRAIN, VALID = committed_ids("monuseg", "train"), committed_ids("monuseg", "valid")


def square(top, left, side):
    """Corners of a square whose outline runs through the middles of its border pixels."""
    low, right = top + side - 1, left + side - 1
    return [(left, top), (right, top), (right, low), (left, low)]


def xml(regions, root="Annotations"):
    """Text of an XML file with one region per list of (X, Y)."""
    lines = [f'<{root} MicronsPerPixel="0.252">', '<Annotation Id="1" Name=""><Regions>']
    for number, vertices in enumerate(regions, start=1):
        lines.append(f'<Region Id="{number}" Type="0" NegativeROA="0"><Vertices>')
        lines += [f'<Vertex X="{x}" Y="{y}"/>' for x, y in vertices]
        lines.append("</Vertices></Region>")
    return "\n".join([*lines, "</Regions></Annotation>", f"</{root}>", ""])


def write_tile(images, annotations, name, shift=0, size=(70, 80)):
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), (200, 180, 190), np.uint8)
    regions = []
    for top, left, side in SQUARES:
        pixels[top : top + side, left + shift : left + shift + side] = (90, 40, 120)
        regions.append(square(top, left + shift, side))
    Image.fromarray(pixels).save(images / f"{name}.tif", compression="tiff_deflate")
    (annotations / f"{name}.xml").write_text(xml(regions))


def write_monuseg(root, train=TRAIN[:3], valid=VALID[:1], test=("TCGA-TEST-1", "TCGA-TEST-2")):
    folder = root / TRAINING
    for number, name in enumerate((*train, *valid)):
        write_tile(folder / "Tissue Images", folder / "Annotations", name, shift=number)
    for number, name in enumerate(test):
        write_tile(root / TESTING, root / TESTING, name, shift=10 + number)
    return root
