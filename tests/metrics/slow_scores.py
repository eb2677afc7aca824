"""Every score once more, from boolean masks and plain loops: slow, and independent of rlseg."""

from math import log2, nan

import numpy as np


def masks(labels):
    """One mask per instance, in ascending order of ids."""
    return [labels == i for i in sorted(set(labels.ravel().tolist()) - {0})]


def dice(a, b):
    return 2 * int((a & b).sum()) / (int(a.sum()) + int(b.sum()))


def iou(a, b):
    return int((a & b).sum()) / int((a | b).sum())


def best_dice(a, b):
    """Set formula: mean over a's instances of the best Dice among b's."""
    ours, theirs = masks(a), masks(b)
    if not ours:
        return 0.0
    return sum(max([dice(x, y) for y in theirs], default=0.0) for x in ours) / len(ours)


def is_constant(a):
    return len(set(a.ravel().tolist())) <= 1


def best_dice_2017(a, b):
    return 0.0 if is_constant(a) else best_dice(a, b)


def best_dice_2014(a, b):
    """Loop over every integer above the lowest value, whether it occurs or not."""
    values, others = a.ravel().tolist(), b.ravel().tolist()
    if is_constant(a):
        return 0.0
    total = 0.0
    for i in range(min(values) + 1, max(values) + 1):
        best = 0.0
        for j in range(min(others) + 1, max(others) + 1):
            if (a == i).any() and (b == j).any():
                best = max(best, dice(a == i, b == j))
        total += best
    return total / (max(values) - min(values))


def fgbg(pred, true):
    p, t = pred > 0, true > 0
    return dice(p, t) if p.any() or t.any() else 0.0


def coverage(pred, true, extra=0):
    truths, preds = masks(true), masks(pred)
    if not truths:
        return 0.0, 0.0
    best = [max([iou(p, t) for p in preds], default=0.0) for t in truths]
    areas = [int(t.sum()) for t in truths]
    weighted = sum(a * b for a, b in zip(areas, best, strict=True)) / (sum(areas) + extra)
    return sum(best) / len(best), weighted


def lonely(a, b):
    """Instances of a that share no pixel with an instance of b."""
    return sum(not (x & (b > 0)).any() for x in masks(a))


def colorrl50(pred, true):
    preds, truths = masks(pred), masks(true)
    taken = {
        i for t in truths for i, p in enumerate(preds) if int((p & t).sum()) > 0.5 * int(t.sum())
    }
    m, n = len(preds), len(truths)
    if not m and not n:
        return 0.0, 0.0
    return (m - len(taken)) / m if m else 1.0, (n - len(taken)) / n if n else 1.0


def best_matching(scores, allowed):
    """Largest (number of pairs, sum of scores) over all one-to-one matchings, by recursion."""

    def search(row, used):
        if row == len(scores):
            return (0, 0.0)
        best = search(row + 1, used)
        for column, score in enumerate(scores[row]):
            if allowed(score) and column not in used:
                pairs, total = search(row + 1, used | {column})
                best = max(best, (pairs + 1, total + score))
        return best

    return search(0, frozenset())


def iou_table(pred, true):
    return [[iou(p, t) for t in masks(true)] for p in masks(pred)]


def aji(pred, true):
    preds, truths = masks(pred), masks(true)
    if not preds and not truths:
        return nan
    common = union = 0
    used = set()
    for t in truths:
        scores = [iou(p, t) for p in preds]
        best = int(np.argmax(scores)) if scores else 0
        if not scores or scores[best] == 0:
            union += int(t.sum())
            continue
        used.add(best)
        common += int((preds[best] & t).sum())
        union += int((preds[best] | t).sum())
    union += sum(int(p.sum()) for i, p in enumerate(preds) if i not in used)
    return common / union


def arand(pred, true, convention):
    """(error, S / B, S / A) by adding up squares of joint counts in dictionaries."""
    p, t = pred.ravel().tolist(), true.ravel().tolist()
    pixels = len(p)
    ignored = 0
    if convention == "cremi" and 2**64 - 1 in t:
        ignored = 2**64 - 1
    kept = [
        (a, b) for a, b in zip(p, t, strict=True) if convention == "skimage-all" or b != ignored
    ]
    if not kept:
        return nan, nan, nan
    joint, rows, columns = {}, {}, {}
    for a, b in kept:
        joint[a, b] = joint.get((a, b), 0) + 1
        rows[a] = rows.get(a, 0) + 1
        columns[b] = columns.get(b, 0) + 1
    a_sum = sum(v * v for v in columns.values())
    if convention == "cremi":
        q = rows.get(0, 0) / pixels
        s = sum(v * v for (i, _), v in joint.items() if i) + q
        b_sum = sum(v * v for i, v in rows.items() if i) + q
    else:
        m = len(kept)
        s = sum(v * v for v in joint.values()) - m
        a_sum -= m
        b_sum = sum(v * v for v in rows.values()) - m
    return (
        1 - 2 * s / (a_sum + b_sum) if a_sum + b_sum else nan,
        s / b_sum if b_sum else nan,
        s / a_sum if a_sum else nan,
    )


def voi(pred, true, convention):
    """(split, merge) in bits, from entropies of the joint and marginal distributions."""
    kept = list(zip(pred.ravel().tolist(), true.ravel().tolist(), strict=True))
    if convention == "cremi":
        ignored = 2**64 - 1 if any(t == 2**64 - 1 for _, t in kept) else 0
        kept = [(p, t) for p, t in kept if t != ignored]
    if not kept:
        return nan, nan

    def entropy(items):
        total = 0.0
        for value in set(items):
            share = items.count(value) / len(items)
            total -= share * log2(share)
        return total

    joint = entropy(kept)
    return joint - entropy([t for _, t in kept]), joint - entropy([p for p, _ in kept])


def ari(pred, true):
    """By counting pairs of pixels one by one."""
    p, t = pred.ravel().tolist(), true.ravel().tolist()
    both = only_p = only_t = neither = 0
    for i in range(len(p)):
        for j in range(i):
            same_p, same_t = p[i] == p[j], t[i] == t[j]
            both += same_p and same_t
            only_p += same_p and not same_t
            only_t += same_t and not same_p
            neither += not same_p and not same_t
    pairs = both + only_p + only_t + neither
    if pairs == 0:
        return 1.0
    expected = (both + only_p) * (both + only_t) / pairs
    largest = (2 * both + only_p + only_t) / 2
    return 1.0 if largest == expected else (both - expected) / (largest - expected)


def coco_ap(images):
    """COCO's matching and averaging by loops; images = (pred, true, scores) in name order."""
    thresholds = np.linspace(0.5, 0.95, 10)
    truths = sum(len(masks(true)) for _, true, _ in images)
    if truths == 0:
        return nan, nan, nan
    values = []
    for threshold in thresholds:
        events = []  # (score, is a true positive), in image order, ascending ids
        for pred, true, scores in images:
            preds, wanted = masks(pred), masks(true)
            hits = [False] * len(preds)
            free = set(range(len(wanted)))
            for i in sorted(range(len(preds)), key=lambda k: -scores[k]):
                best, chosen = min(threshold, 1 - 1e-10), None
                for j in range(len(wanted)):
                    overlap = iou(preds[i], wanted[j])
                    if j in free and overlap >= best:
                        best, chosen = overlap, j
                if chosen is not None:
                    free.discard(chosen)
                    hits[i] = True
            events += list(zip(scores, hits, strict=True))
        events.sort(key=lambda event: -event[0])
        curve, tp = [], 0
        for rank, (_, hit) in enumerate(events, start=1):
            tp += hit
            curve.append((tp / truths, tp / (rank + np.spacing(1))))
        total = 0.0
        for recall in np.linspace(0, 1, 101):
            total += max([height for found, height in curve if found >= recall], default=0.0)
        values.append(total / 101)
    return sum(values) / 10, values[0], values[5]
