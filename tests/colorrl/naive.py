"""The rewards of the colouring game, pixel by pixel and instance by instance, from the formulas."""

from __future__ import annotations

import math

import numpy as np


def ring(labels, instance, radius):
    """Coordinates of other instances' pixels within a Euclidean distance of one instance."""
    own = np.argwhere(labels == instance)
    found = []
    if len(own):
        for place in np.argwhere((labels > 0) & (labels != instance)):
            if ((own - place) ** 2).sum(axis=1).min() <= radius * radius:
                found.append(tuple(place))
    return found


def erode(labels, instance, share, min_side):
    mask = labels == instance
    side = math.sqrt(mask.sum())
    while share < 1 and math.sqrt(mask.sum()) > share * side and math.sqrt(mask.sum()) > min_side:
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def rewards(labels, actions, config, rewarded=None):
    """Reward [T, H, W] of one image.

    Args:
        labels: int [H, W].
        actions: bool [T, H, W].
        config: a RewardConfig.
        rewarded: ids that get split and merge rewards; all larger than min_instance by default.
    """
    steps, height, width = actions.shape
    ids = [u for u in np.unique(labels) if u]
    if rewarded is None:
        rewarded = [u for u in ids if (labels == u).sum() > config.min_instance]
    inside = {u: erode(labels, u, config.interior, config.min_instance) for u in ids}
    rings = {(u, r): ring(labels, u, r) for u in rewarded for r in config.radii}
    colors = np.zeros((steps + 1, height, width), dtype=int)
    for t in range(steps):
        colors[t + 1] = colors[t] + actions[t] * 2**t
    out = np.zeros((steps, height, width))
    s = config.background_weight
    for y in range(height):
        for x in range(width):
            on = bool(actions[0, y, x])
            if labels[y, x]:
                out[0, y, x] = (1 - s) if on else -(1 - s)
            else:
                out[0, y, x] = -s if on else s
    for t in range(1, steps):
        old, new = colors[t], colors[t + 1]
        turned_on = (old == 0) & (new != 0)
        out[t][(labels == 0) & turned_on] -= config.late_background_penalty
        out[t][(labels > 0) & turned_on] += config.late_foreground_reward
        for u in rewarded:
            size = inside[u].sum() + 1
            for y, x in np.argwhere(labels == u):
                same_new = (new[inside[u]] == new[y, x]).sum()
                same_old = (old[inside[u]] == old[y, x]).sum()
                merge = same_new / (size * steps) + (same_new - same_old) / size
                out[t, y, x] += config.merge_weight * merge
                if inside[u][y, x]:
                    for r in config.radii:
                        out[t, y, x] += config.split_weight * split(
                            rings[u, r], old, new, (y, x), steps, config, labels, inside
                        )
    return out


def split(pixels, old, new, place, steps, config, labels, inside):
    if config.split == "prox":
        size = len(pixels) + 1
        same_old = sum(old[q] == old[place] for q in pixels)
        same_new = sum(new[q] == new[place] for q in pixels)
        return (same_old - same_new) / size - same_new / (size * steps)
    neighbors = {labels[q] for q in pixels}
    if not neighbors:
        return 1.0
    # A neighbour that eroded away shares no colour with anybody.
    solid = [v for v in neighbors if inside[v].any()]
    share_old = sum((old[inside[v]] == old[place]).mean() for v in solid)
    share_new = sum((new[inside[v]] == new[place]).mean() for v in solid)
    count = len(neighbors)
    return (share_old - share_new) / count - share_new / (count * steps)
