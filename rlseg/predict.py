"""A predictor over image files: label maps or scored masks, overlays and a table of instances."""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from rlseg.data.images import read_image
from rlseg.errors import (
    ConfigError,
    DatasetNotFoundError,
    ShapeError,
    WorkerError,
)
from rlseg.files import as_json, output_folder, write_whole
from rlseg.labelfiles import SCORES_ENDING
from rlseg.predict_coco import RESULTS_FILE, Entry, Target, find_targets, image_entries
from rlseg.prediction import Prediction, Predictor
from rlseg.runs import open_run
from rlseg.submissions import write_results
from rlseg.train.ranks import gathered, rank_and_size

__all__ = ["Output", "encode_labels", "find_images", "open_run", "predict_files", "share"]

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
"""Files of a folder that count as images."""
MapFormat = Literal["tif", "png", "npz"]
Format = Literal["tif", "png", "npz", "coco", "places"]
Array = NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where and how predictions are written."""

    folder: Path
    format: Format = "tif"
    """A label map per image, or "coco" and "places": one list of scored masks and no label maps."""
    overlay: bool = False
    """Also write `<stem>.overlay.png`, and `<stem>.order.png` where instances are in an order."""
    category: int | None = None
    """Category of every instance in a list, for predictors that give none."""
    images_json: Path | None = None
    """Table of image ids, for lists: an object with `images` as in COCO and `imgCatIds.json`."""

    def __post_init__(self) -> None:
        if self.lists:
            if self.format == "coco" and self.images_json is None:
                raise ConfigError(
                    "--format coco needs the ids of the images: --images-json FILE, an annotation "
                    "file of the data set or any object with a list `images`"
                )
            return
        for name, value in (("category", self.category), ("images-json", self.images_json)):
            if value is not None:
                raise ConfigError(
                    f"--{name} belongs to --format coco and places; --format {self.format} writes "
                    "label maps without categories and image ids: leave it out"
                )

    @property
    def lists(self) -> bool:
        """Whether the masks of all images go into one list, instead of a label map per image."""
        return self.format in ("coco", "places")


Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Found:
    """The instances of one image."""

    rows: list[Row]
    """Of `instances.csv`."""
    entries: list[Entry]
    """Of `predictions.json`; empty for label maps."""


def predict_files(
    run: Path,
    inputs: Sequence[Path],
    output: Output,
    *,
    checkpoint: str = "best",
    device: str = "cpu",
    jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[Row]:
    """Writes a label map per image and `instances.csv`; returns the rows of the latter.

    For "coco" and "places", one `predictions.json` with the masks of all images takes the place of
    the label maps.

    Every file appears whole or not at all, and the first bad image ends the work with its error;
    label maps of the images before it stay. Of the processes that `torchrun` starts, each takes
    its share of the images, and the first one writes what all of them found.

    Args:
        run: as in `open_run`.
        inputs: image files, and folders of which all images are taken.
        output: folder, file format, overlays, and what lists of masks need.
        checkpoint: as in `open_run`.
        device: as in `open_run`.
        jobs: processes that share the files.
        progress: called with the number of images done, of `len(share(images))`.

    Returns:
        The rows of all images in the first process, those of its own in others.

    Raises:
        RlsegError: no images, a bad one, two of one name, or a run that cannot be opened.
    """
    images = find_images(inputs)
    _check_targets(images, output)
    targets = _list_targets(images, output)
    rank, ranks = rank_and_size()
    mine = share(list(zip(images, targets, strict=True)))
    arguments = (run, checkpoint, device)
    report = progress or (lambda done: None)
    if jobs == 1 or len(mine) <= 1:
        predictor = open_run(run, checkpoint=checkpoint, device=device).predictor
        output_folder(output.folder)
        found = []
        for number, (path, target) in enumerate(mine, start=1):
            found.append(predict_file(predictor, path, output, target))
            report(number)
    else:
        output_folder(output.folder)
        found = _predict_parallel(mine, output, arguments, min(jobs, len(mine)), report)
    parts = gathered(found)  # rank r has images r, r + ranks, ...
    if rank == 0:
        found = [parts[i % ranks][i // ranks] for i in range(len(images))]
        _write_found(found, output)
    return [row for one in found for row in one.rows]


def _write_found(found: Sequence[Found], output: Output) -> None:
    """Writes the files about all images together."""
    write_whole(output.folder / "instances.csv", _csv([row for one in found for row in one.rows]))
    if output.lists:
        entries = [entry for one in found for entry in one.entries]
        write_results(output.folder / RESULTS_FILE, entries)


def share(items: Sequence[T]) -> Sequence[T]:
    """What belongs to this process, of those that `torchrun` started: every n-th; else all."""
    rank, ranks = rank_and_size()
    return items[rank::ranks]


def find_images(inputs: Iterable[Path]) -> list[Path]:
    """The image files that are named or lie directly in the named folders, in order.

    Raises:
        DatasetNotFoundError: a path is not there, or a folder holds no images.
    """
    images: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not found:
                raise DatasetNotFoundError(
                    f"{path} holds no images; looked for {', '.join(SUFFIXES)}"
                )
            images += found
        elif path.exists():
            images.append(path)
        else:
            raise DatasetNotFoundError(f"{path}: no such file or folder")
    return list(dict.fromkeys(images))


def _check_targets(images: Sequence[Path], output: Output) -> None:
    owner: dict[str, Path] = {}
    for path in images:
        other = owner.setdefault(path.stem, path)
        if other != path:
            raise ConfigError(
                f"{other} and {path} would both be written to {_names(path, output)[0]}; "
                "predict them into two folders"
            )
    sources = {path.resolve() for path in images}
    if output.images_json is not None:
        sources.add(output.images_json.resolve())
    for path in images:
        for name in _names(path, output):
            target = output.folder / name
            if target.resolve() in sources:
                raise ConfigError(f"{target} is an input and would be overwritten; change --out")


def _names(path: Path, output: Output) -> list[str]:
    """Files that are written for an image: first the one with its instances."""
    names = [RESULTS_FILE if output.lists else f"{path.stem}.{output.format}"]
    more = [f"{path.stem}.overlay.png", f"{path.stem}.order.png"]
    return [*names, *more] if output.overlay else names


def _list_targets(images: Sequence[Path], output: Output) -> Sequence[Target | None]:
    """Per image what its entries in a list of masks need; None for label maps."""
    if output.format not in ("coco", "places"):
        return [None] * len(images)
    return find_targets(images, output.format, output.category, output.images_json)


def predict_file(
    predictor: Predictor, path: Path, output: Output, target: Target | None = None
) -> Found:
    """Writes the files of one image; returns its instances.

    Args:
        predictor: of a run.
        path: the image.
        output: where and how.
        target: for lists of masks, what the entries of this image need; None = a label map.

    Raises:
        RlsegError: an image that cannot be read or used.
    """
    if target is not None and predictor.task != "instance":
        raise ConfigError(
            f"--format {output.format} is for instances; the run predicts classes: use --format tif"
        )
    image = read_image(path, channels=predictor.in_channels)
    if image.ndim != predictor.ndim + 1:
        raise ShapeError(
            f"{path} has {image.ndim - 1} space axes ({list(image.shape[1:])}); the run predicts "
            f"{predictor.ndim}-D images"
        )
    prediction = predictor(image[None])
    labels = prediction.labels[0].cpu()
    if labels.shape != image.shape[1:]:
        raise ShapeError(
            f"{path}: labels are {list(labels.shape)} for an image of {list(image.shape[1:])}; "
            "the predictor must return the size it was given"
        )
    entries = [] if target is None else image_entries(path, prediction, target)
    files = [output.folder / name for name in _names(path, output)]
    if output.format != "coco" and output.format != "places":
        write_whole(files[0], encode_labels(labels, output.format, str(files[0])))
    if output.overlay:
        from rlseg import figures, orderfigures  # matplotlib: slow to import

        picture, map_ = (image, labels) if image.ndim == 3 else map(figures.flat, (image, labels))
        write_whole(files[1], figures.png(figures.overlay(picture, map_)))
        if prediction.ordered:
            write_whole(files[2], figures.png(orderfigures.order_picture(picture, map_)))
    if predictor.task != "instance":
        return Found(rows=[], entries=[])
    rows = instance_rows(path, prediction)
    if prediction.scores is not None and target is None:
        # `rlseg evaluate --ap-score file` reads them
        scores = {str(row["id"]): row["score"] for row in rows}
        write_whole(output.folder / f"{path.stem}{SCORES_ENDING}", as_json(scores))
    return Found(rows=rows, entries=entries)


def encode_labels(labels: Tensor, kind: MapFormat, where: str) -> bytes:
    """A label map as the content of a file, ids unchanged.

    Args:
        labels: int64 [*S], not negative.
        kind: `tif`: 16 bits, 32 where an id needs them, one page per plane; `png`: 16 bits; `npz`:
            array `labels` of the smallest unsigned type.
        where: target, for messages.

    Raises:
        ConfigError: ids or axes that the format cannot hold; names one that can.
    """
    array = labels.numpy()
    largest = int(array.max(initial=0))
    buffer = io.BytesIO()
    if kind == "npz":
        np.savez_compressed(buffer, labels=array.astype(np.min_scalar_type(largest)))
        return buffer.getvalue()
    if kind == "png" and (largest > 0xFFFF or array.ndim != 2):
        what = f"id {largest}" if array.ndim == 2 else f"{array.ndim} axes"
        raise ConfigError(f"{where}: PNG has 16 bits and 2 axes, got {what}; use --format tif")
    if largest > 0x7FFFFFFF:
        raise ConfigError(f"{where}: TIFF ids end at {0x7FFFFFFF}, got {largest}; use --format npz")
    planes = array if array.ndim == 3 else array[None]
    type_ = np.uint16 if largest <= 0xFFFF else np.int32
    pages = [Image.fromarray(np.ascontiguousarray(plane.astype(type_))) for plane in planes]
    if kind == "png":
        pages[0].save(buffer, format="PNG")
    else:
        compression = {"compression": "tiff_adobe_deflate"}
        pages[0].save(buffer, format="TIFF", save_all=True, append_images=pages[1:], **compression)
    return buffer.getvalue()


def instance_rows(path: Path, prediction: Prediction) -> list[Row]:
    """One row per instance of the first image: file, id, area, centroid, box, score if any.

    Coordinates are pixels from 0; a box holds its `min` and ends before its `max`.
    """
    labels: Array = prediction.labels[0].cpu().numpy()
    axes = "zyx"[3 - labels.ndim :]
    rows: list[Row] = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        inside = np.nonzero(labels[box] == label)
        row: Row = {"file": path.name, "id": label, "area": len(inside[0])}
        for axis, part, where in zip(axes, box, inside, strict=True):
            row[f"centroid_{axis}"] = round(float(where.mean()) + part.start, 3)
        row |= {f"min_{axis}": part.start for axis, part in zip(axes, box, strict=True)}
        row |= {f"max_{axis}": part.stop for axis, part in zip(axes, box, strict=True)}
        if prediction.scores is not None:
            row["score"] = round(float(prediction.scores[0][label - 1]), 6)
        rows.append(row)
    return rows


def _csv(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row)) or ["file", "id", "area"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# Several processes

_worker: dict[str, Predictor] = {}


def _start_worker(run: Path, checkpoint: str, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    _worker["predictor"] = open_run(run, checkpoint=checkpoint, device=device).predictor


def _work(path: Path, output: Output, target: Target | None) -> Found:
    return predict_file(_worker["predictor"], path, output, target)


def _predict_parallel(
    images: Sequence[tuple[Path, Target | None]],
    output: Output,
    arguments: tuple[Path, str, str],
    jobs: int,
    report: Callable[[int], None],
) -> list[Found]:
    open_run(arguments[0], checkpoint=arguments[1])  # its errors, before processes start
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(*arguments, threads),
    ) as pool:
        order: dict[Future[Found], int] = {
            pool.submit(_work, path, output, target): i for i, (path, target) in enumerate(images)
        }
        waiting = set(order)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                error = future.exception()
                if error is not None:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise _of_worker(error) from error
            report(len(order) - len(waiting))
        return [future.result() for future in order]


def _of_worker(error: BaseException) -> BaseException:
    if isinstance(error, BrokenProcessPool):
        return WorkerError("a prediction process died, perhaps for lack of memory; lower --jobs")
    return error
