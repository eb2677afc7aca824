"""Keep decoded samples in RAM, in the narrowest types that hold them exactly."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from rlseg.data.base import InstanceDataset
from rlseg.data.samples import InstanceSample

DEFAULT_BYTES = 1 << 32


@dataclass(frozen=True, kw_only=True)
class _Packed:
    image: Tensor
    scale: int
    """What the stored integers are divided by; 0 = stored as float32."""
    labels: Tensor
    valid: Tensor | None
    name: str

    @property
    def nbytes(self) -> int:
        valid = 0 if self.valid is None else self.valid.nbytes
        return int(self.image.nbytes + self.labels.nbytes + valid)


def _pack_image(image: Tensor) -> tuple[Tensor, int]:
    for scale, dtype in ((255, torch.uint8), (65535, torch.uint16)):
        whole = (image * scale).round()
        if torch.equal(whole / scale, image):
            return whole.to(torch.int32).to(dtype), scale
    return image.clone(), 0


def _pack(sample: InstanceSample) -> _Packed:
    image, scale = _pack_image(sample.image)
    largest = int(sample.labels.max()) if sample.labels.numel() else 0
    dtype = torch.uint8 if largest < 1 << 8 else torch.int32 if largest < 1 << 31 else torch.int64
    return _Packed(
        image=image,
        scale=scale,
        labels=sample.labels.to(dtype, copy=True),
        valid=None if bool(sample.valid.all()) else sample.valid.clone(),
        name=sample.name,
    )


def _unpack(packed: _Packed) -> InstanceSample:
    image = packed.image.float() / packed.scale if packed.scale else packed.image.clone()
    labels = packed.labels.to(torch.int64, copy=True)
    valid = packed.valid
    return InstanceSample(
        image=image,
        labels=labels,
        valid=torch.ones_like(labels, dtype=torch.bool) if valid is None else valid.clone(),
        name=packed.name,
    )


class InMemory:
    """An instance dataset whose samples are decoded once.

    What comes back is a fresh copy with exactly the numbers of the wrapped dataset. When
    `max_bytes` are used up, further samples are decoded each time.
    """

    def __init__(self, dataset: InstanceDataset, max_bytes: int = DEFAULT_BYTES) -> None:
        self.dataset = dataset
        self._free = max_bytes
        self._kept: dict[int, _Packed] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> InstanceSample:
        """Sample `index` in 0..len-1; IndexError beyond."""
        kept = self._kept.get(index)
        if kept is not None:
            return _unpack(kept)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        sample = self.dataset[index]
        packed = _pack(sample)
        with self._lock:
            if index not in self._kept and packed.nbytes <= self._free:
                self._kept[index] = packed
                self._free -= packed.nbytes
        return sample
