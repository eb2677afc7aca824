"""Tiny images with rectangular instances, for fake data sets."""

import numpy as np


def rectangles(number, side=48, count=3):
    """Grey uint8 image and int32 labels [side, side]; instance k has a grey level of its own."""
    labels = np.zeros((side, side), np.int32)
    image = np.full((side, side), 30 + number, np.uint8)
    for k in range(count):
        top, left = 2 + 15 * k, 3 + (7 * number + 5 * k) % (side - 20)
        labels[top : top + 11, left : left + 14] = 1 + k
        image[top : top + 11, left : left + 14] = 120 + 40 * k + number % 5
    return image, labels
