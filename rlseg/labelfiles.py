"""Label maps as files: pairing two folders, reading every format with limits."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from rlseg.data.arrays import (
    H5_SUFFIXES,
    MAX_ARRAY_BYTES,
    h5_dataset,
    opened_h5,
    read_h5,
    read_npy,
)
from rlseg.data.base import listed
from rlseg.data.images import read_label_array
from rlseg.errors import (
    ConfigError,
    CorruptDatasetError,
    DatasetNotFoundError,
    ShapeError,
    show,
)
from rlseg.files import load_json
from rlseg.metrics.overlap import as_ids

IMAGE_SUFFIXES = (".png", ".tif", ".tiff")
LABEL_SUFFIXES = (*IMAGE_SUFFIXES, ".npy", ".npz", *H5_SUFFIXES)
"""Endings of files that count as label maps."""
OVERLAY_ENDING = ".overlay.png"
"""Pictures that `rlseg predict` writes beside label maps; never taken for one."""
SCORES_ENDING = ".scores.json"
NAMED = 5  # names listed when a partner is missing
LABELS_FIELD, SCORES_FIELD = "labels", "scores"

COLOUR_ADVICE = ", or, if colours are ids of 24 bits, use --label-encoding rgb24"

DAMAGE = (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError)
"""What numpy raises on headers that are not its own, or too short."""

Array = NDArray[Any]
Encoding = Literal["ids", "rgb24"]


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """One label map on disk."""

    path: Path
    field: str | None = None
    """Array of an npz, or data set of an HDF5 file; None = the only one."""

    def __str__(self) -> str:
        """As written on the command line."""
        return str(self.path) if self.field is None else f"{self.path}:{self.field}"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A truth and its prediction."""

    name: str
    """Path below the root without ending."""
    pred: LabelFile | None
    """None: absent, to be scored as an empty map."""
    true: LabelFile


# Pairing


def find_pairs(
    pred: str | Path,
    true: str | Path,
    *,
    pred_suffix: str = "",
    true_suffix: str = "",
    missing: Literal["error", "empty"] = "error",
    extra: Literal["error", "ignore"] = "error",
) -> list[Pair]:
    """Predictions and truths that belong together, in name order.

    Args:
        pred: file or folder; `FILE:FIELD` names an array in npz or HDF5, `FOLDER:FIELD` the same
            one in every file of a folder.
        true: the same kind (both files, or both folders).
        pred_suffix: end of predictions' names before the ending, cut off before pairing; in a
            folder, files without it are left out.
        true_suffix: the same for truths.
        missing: truth without prediction: an error, or an empty prediction.
        extra: prediction without truth: an error, or left out.

    Returns:
        At least one pair.

    Raises:
        DatasetNotFoundError: nothing at one of the places, or no pair at all.
        ConfigError: a file against a folder.
        CorruptDatasetError: a partner is missing, or two files of one folder have one name.
    """
    pred_place, true_place = _place(pred, "PRED"), _place(true, "TRUE")
    if pred_place.path.is_dir() != true_place.path.is_dir():
        raise ConfigError(
            f"{pred_place.path} and {true_place.path}: one is a folder, the other a file; give two "
            "folders or two files"
        )
    if not pred_place.path.is_dir():
        return [Pair(name=true_place.path.stem, pred=pred_place, true=true_place)]
    preds = _folder(pred_place, pred_suffix, "--pred-suffix")
    trues = _folder(true_place, true_suffix, "--true-suffix")
    if not preds.keys() & trues.keys():
        raise DatasetNotFoundError(
            f"no file of {pred_place.path} has the name of one of {true_place.path}: predictions "
            f"{_first(preds)}; truths {_first(trues)}; names are compared without ending "
            "(--pred-suffix and --true-suffix cut off more)"
        )
    alone = sorted(trues.keys() - preds.keys())
    if alone and missing == "error":
        raise CorruptDatasetError(
            f"{len(alone)} of {len(trues)} truths have no prediction in {pred_place.path}: "
            f"{_first(alone)}; add them, or score them as empty maps (--missing empty)"
        )
    surplus = sorted(preds.keys() - trues.keys())
    if surplus and extra == "error":
        raise CorruptDatasetError(
            f"{len(surplus)} of {len(preds)} predictions have no truth in {true_place.path}: "
            f"{_first(surplus)}; remove them, or leave them out (--extra ignore)"
        )
    return [Pair(name=key, pred=preds.get(key), true=trues[key]) for key in sorted(trues)]


def _place(text: str | Path, what: str) -> LabelFile:
    """The file or folder, and the field after its last colon if there is one."""
    whole = Path(text)
    if whole.exists():
        return LabelFile(path=whole)
    left, colon, field = str(text).rpartition(":")
    while colon:
        if Path(left).exists() and left:
            return LabelFile(path=Path(left), field=str(text)[len(left) + 1 :] or field)
        left, colon, _ = left.rpartition(":")
    raise DatasetNotFoundError(
        f"{text}: no such file or folder ({what}); give label maps "
        f"({', '.join(LABEL_SUFFIXES)}) or a folder of them"
    )


def _folder(place: LabelFile, suffix: str, flag: str) -> dict[str, LabelFile]:
    found: dict[str, LabelFile] = {}
    seen = 0
    for path in sorted(place.path.rglob("*")):
        below = path.relative_to(place.path)
        if path.suffix.lower() not in LABEL_SUFFIXES or path.name.endswith(OVERLAY_ENDING):
            continue
        if any(part.startswith(".") for part in below.parts) or not path.is_file():
            continue
        seen += 1
        key = below.with_suffix("").as_posix()
        if not key.endswith(suffix):
            continue
        key = key.removesuffix(suffix)
        if key in found:
            raise CorruptDatasetError(
                f"{found[key].path} and {path} have the same name without ending; keep one"
            )
        takes_field = path.suffix.lower() in (".npz", *H5_SUFFIXES)
        found[key] = LabelFile(path=path, field=place.field if takes_field else None)
    if not found:
        why = f"{seen} label files, none ending in {suffix!r} ({flag})" if seen else "no label maps"
        raise DatasetNotFoundError(
            f"{place.path}: {why}; looked for {', '.join(LABEL_SUFFIXES)} in it and below"
        )
    return found


def _first(names: Mapping[str, object] | list[str]) -> str:
    items = list(names)
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more


# Reading


def read_label_file(file: LabelFile, encoding: Encoding = "ids") -> Array:
    """The ids of a label map as the file holds them.

    Args:
        file: PNG or TIFF with one channel (1, 8, 16, 32 bits, or a palette whose indices are the
            ids; several pages are a volume), npy, npz or HDF5.
        encoding: "rgb24": colour PNG and TIFF are read too, with the id R + 256 G + 65536 B; alpha
            must be constant.

    Returns:
        Integers or bool [H, W] or [D, H, W], no negative value.

    Raises:
        DatasetNotFoundError: no such file.
        CorruptDatasetError: unreadable, damaged, above a limit, coloured, or not a label map.
    """
    suffix = file.path.suffix.lower()
    if file.field is not None and suffix not in (".npz", *H5_SUFFIXES):
        raise CorruptDatasetError(
            f"{file}: only npz and HDF5 files hold named arrays; drop {':' + file.field!r}"
        )
    if suffix in IMAGE_SUFFIXES:
        array = read_label_array(file.path, encoding=encoding, advice=COLOUR_ADVICE)
    elif suffix == ".npy":
        array = read_npy(file.path)
    elif suffix == ".npz":
        array = _read_npz(file)
    elif suffix in H5_SUFFIXES:
        array = _read_h5(file)
    else:
        raise CorruptDatasetError(
            f"{file.path}: not a known label format; use {', '.join(LABEL_SUFFIXES)}"
        )
    if array.ndim not in (2, 3):
        raise CorruptDatasetError(
            f"{file}: shape {list(array.shape)}; label maps are [H, W] or [D, H, W]"
        )
    try:
        as_ids(array, "the file")
    except ShapeError as error:
        raise CorruptDatasetError(f"{file}: {error}") from error
    return array


def read_scores(file: LabelFile, ids: NDArray[np.uint64]) -> NDArray[np.float64] | None:
    """Confidence of each predicted instance, if the prediction comes with scores.

    They are the field `scores` of an npz, in ascending order of ids, or a file
    `<stem>.scores.json` beside it: `{"id": score}`.

    Args:
        file: the prediction.
        ids: of its instances, ascending, [M].

    Returns:
        float64 [M], or None where there are none.

    Raises:
        CorruptDatasetError: not one finite number per instance.
    """
    side = file.path.with_name(file.path.stem + SCORES_ENDING)
    if side.is_file():
        return _side_scores(side, ids)
    if file.path.suffix.lower() != ".npz":
        return None
    with _opened_npz(file.path) as archive:
        if f"{SCORES_FIELD}.npy" not in archive.namelist():
            return None
        scores = _npz_array(archive, SCORES_FIELD, file.path)
    where = f"{file.path}: field {SCORES_FIELD!r}"
    if scores.dtype.kind not in "fiu" or scores.shape != (len(ids),):
        raise CorruptDatasetError(
            f"{where} has shape {list(scores.shape)} and type {scores.dtype}; expected one number "
            f"for each of {len(ids)} instances, in ascending order of ids"
        )
    values = scores.astype(np.float64)
    if not np.isfinite(values).all():
        position = int(np.flatnonzero(~np.isfinite(values))[0])
        raise CorruptDatasetError(f"{where}: entry {position} is {values[position]}, not finite")
    return values


def _side_scores(path: Path, ids: NDArray[np.uint64]) -> NDArray[np.float64]:
    given = load_json(path, error_type=CorruptDatasetError)
    if not isinstance(given, dict):
        raise CorruptDatasetError(f'{path}: expected one object {{"id": score}}')
    missing = [str(i) for i in ids.tolist() if str(i) not in given]
    if missing:
        raise CorruptDatasetError(
            f"{path}: no score for id {_first(missing)}; give one for each of {len(ids)} instances"
        )
    values = []
    for key in map(str, ids.tolist()):
        score = given[key]
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise CorruptDatasetError(
                f"{path}: score of id {key} is {show(score)}, expected a number"
            )
        try:
            values.append(float(score))
        except OverflowError:  # an integer beyond every float
            values.append(math.inf)
        if not math.isfinite(values[-1]):
            raise CorruptDatasetError(
                f"{path}: score of id {key} is {show(score)}, expected a finite number"
            )
    return np.array(values, dtype=np.float64)


def _opened_npz(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"{path}: no such file") from error
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise CorruptDatasetError(f"{path}: not a readable npz file ({error})") from error


def _read_npz(file: LabelFile) -> Array:
    with _opened_npz(file.path) as archive:
        names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
        name = file.field
        if name is None:
            others = [n for n in names if n != SCORES_FIELD]
            name = LABELS_FIELD if LABELS_FIELD in names else others[0] if len(others) == 1 else ""
        if name not in names:
            asked = f"no array {name!r}" if name else f"{len(names)} arrays, none called 'labels'"
            raise CorruptDatasetError(
                f"{file.path}: {asked}; it holds {listed(names) or 'none'}: name one as "
                f"{file.path}:NAME"
            )
        return _npz_array(archive, name, file.path)


def _npz_array(archive: zipfile.ZipFile, name: str, path: Path) -> Array:
    """One array, its declared size checked against the limit before it is unpacked."""
    try:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(stream)
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if dtype.hasobject:
            raise CorruptDatasetError(
                f"{path}:{name} holds pickled objects, which are never loaded"
            )
        if size > MAX_ARRAY_BYTES or size > info.file_size:
            limit = min(MAX_ARRAY_BYTES, info.file_size)
            raise CorruptDatasetError(
                f"{path}:{name} declares {size} bytes (shape {list(shape)}); at most {limit} are "
                "possible here"
            )
        with archive.open(info) as stream:
            # Through read_array, which reads a stream in pieces and stops where it ends.
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except CorruptDatasetError:
        raise
    except (*DAMAGE, zipfile.BadZipFile, zlib.error, KeyError, RuntimeError) as error:
        raise CorruptDatasetError(f"{path}:{name}: damaged array ({error})") from error


def _read_h5(file: LabelFile) -> Array:
    with opened_h5(file.path) as opened:
        name = file.field
        if name is None:
            names: list[str] = []

            def visit(found: str, item: object) -> None:
                if isinstance(item, h5py.Dataset) and item.dtype.kind in "biu":
                    names.append(found)

            opened.visititems(visit)
            if len(names) != 1:
                raise CorruptDatasetError(
                    f"{file.path}: {len(names)} integer data sets ({listed(names) or 'none'}); "
                    f"name the one to read as {file.path}:NAME"
                )
            name = names[0]
        return read_h5(h5_dataset(opened, name, file.path), f"{file.path}:{name}")
