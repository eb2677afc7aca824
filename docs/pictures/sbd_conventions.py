"""Draws docs/pictures/sbd_conventions.png: where the three SBD conventions part.

python docs/pictures/sbd_conventions.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from rlseg.metrics import overlap, symmetric_best_dice

CONVENTIONS = ("cvppp-2017", "cvppp-2014", "paper")


def leaves(shift: int = 0, background: int = 0) -> np.ndarray:
    """Three discs, ids 1, 2, 3 above the background's value."""
    labels = np.full((60, 60), background)
    y, x = np.mgrid[:60, :60]
    for number, (row, column) in enumerate([(18, 18), (22, 42), (42, 28)], start=1):
        labels[(y - row) ** 2 + (x - column - shift) ** 2 <= 11**2] = background + number
    return labels


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Title -> (prediction, truth)."""
    gap = leaves(2)
    gap[gap == 3] = 6
    whole = np.ones((60, 60), dtype=int)
    return {
        "an ordinary image": (leaves(2), leaves()),
        "predicted ids 1, 2, 6": (gap, leaves()),
        "one leaf fills the image": (whole, whole),
        "truth has background 1": (leaves(2), leaves(background=1)),
    }


def main() -> None:
    """Writes the picture beside this file."""
    plt.rcParams["font.size"] = 9
    figure, axes = plt.subplots(2, 4, figsize=(8.6, 5.0))
    for column, (title, (pred, true)) in enumerate(cases().items()):
        for row, (name, labels) in enumerate([("truth", true), ("prediction", pred)]):
            axis = axes[row, column]
            axis.imshow(labels, cmap="tab10", vmin=0, vmax=9, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            for value in np.unique(labels):
                rows, columns = np.nonzero(labels == value)
                place = (columns.mean(), rows.mean())
                if value == labels[0, 0] and len(np.unique(labels)) > 1:
                    place = (4, 55)  # the background's own value, in a corner
                axis.text(*place, str(value), color="white", ha="center", va="center")
            if column == 0:
                axis.set_ylabel(name)
        axes[0, column].set_title(title, fontsize=10)
        table = overlap(pred, true)
        scores = [symmetric_best_dice(table, convention=name) for name in CONVENTIONS]
        lines = [
            f"{name:<10}  {score:.3f}" for name, score in zip(CONVENTIONS, scores, strict=True)
        ]
        same = max(scores) - min(scores) < 1e-12
        axes[1, column].text(
            0.5, -0.1, "\n".join(lines), transform=axes[1, column].transAxes, ha="center", va="top",
            family="monospace", color="black" if same else "tab:red",
        )  # fmt: skip
    figure.subplots_adjust(left=0.04, right=0.99, top=0.93, bottom=0.17, wspace=0.06, hspace=0.06)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
