"""Segmentation networks with published encoders, from segmentation-models-pytorch."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rlseg.config import nearest
from rlseg.errors import ConfigError, CorruptDatasetError, DatasetNotFoundError, ShapeError
from rlseg.shapes import expect

WEIGHTS_FILE = "model.safetensors"
"""Name of the file of published encoder weights in a cache."""


class SegmentationNet(nn.Module):
    """A network of another package behind a check of its input.

    Attributes:
        stride: both sides of an image are multiples of it.
        in_channels: channels of an image.

    Args:
        network: float [B, in_channels, H, W] -> float [B, K, H, W].
        stride: what the sides must be multiples of.
        in_channels: channels of an image.
    """

    def __init__(self, network: nn.Module, *, stride: int, in_channels: int) -> None:
        super().__init__()
        self.network = network
        self.stride = stride
        self.in_channels = in_channels

    def forward(self, image: Tensor) -> Tensor:
        """Logits float [B, K, H, W] from float [B, C, H, W].

        Raises:
            ShapeError: other axes or channels, or a side that is no multiple of `stride`.
        """
        sizes = expect("B C H W", image=image)
        height, width, stride = sizes["H"], sizes["W"], self.stride
        if sizes["C"] != self.in_channels:
            raise ShapeError(
                f"image has {sizes['C']} channels; the network was made for {self.in_channels}: "
                "convert the image, or make the network with other in_channels"
            )
        if height % stride or width % stride or not (height and width):
            wanted = [max(1, -(-side // stride)) * stride for side in (height, width)]
            raise ShapeError(
                f"image is {height}x{width}; the encoder needs multiples of {stride}: pad to "
                f"{wanted[0]}x{wanted[1]} (rlseg.shapes.pad_to_multiple) and cut the result back"
            )
        logits: Tensor = self.network(image)
        return logits


def segmentation_net(
    arch: str, encoder: str, *, in_channels: int, out_channels: int, weights: str | None = None
) -> nn.Module:
    """A segmentation network; what is not loaded is drawn from torch's global generator.

    Args:
        arch: decoder, for example `"fpn"`, `"unet"`, `"deeplabv3plus"`; case does not matter.
        encoder: for example `"resnet18"`, `"mobilenet_v2"`.
        in_channels: of the image. With weights and other than 3 channels the first layer's
            weights are summed (1 channel), or repeated and rescaled (2, or more than 3).
        out_channels: K, classes or other maps.
        weights: name of published encoder weights, usually `"imagenet"`: read from the cache of
            Hugging Face files, downloaded if absent; None: all weights are drawn.

    Returns:
        `SegmentationNet`, float [B, in_channels, H, W] -> logits float [B, K, H, W].

    Raises:
        ConfigError: unknown name, a pair that does not go together, or no channels.
        DatasetNotFoundError: the weights are neither in the cache nor to be had.
        CorruptDatasetError: the file of weights is damaged.
    """
    import segmentation_models_pytorch as smp
    from safetensors import SafetensorError

    # DPT takes none of these encoders.
    arch = _known("arch", arch.lower(), smp.MODEL_ARCHITECTURES_MAPPING.keys() - {"dpt"})
    encoder = _known("encoder", encoder, smp.encoders.get_encoder_names())
    for name, count in (("in_channels", in_channels), ("out_channels", out_channels)):
        if count < 1:
            raise ConfigError(f"{name} must be at least 1, got {count}")
    published = smp.encoders.encoders[encoder]["pretrained_settings"]
    if weights is not None:
        _known(f"weights of {encoder}", weights, published)
    try:
        network: Any = smp.create_model(
            arch,
            encoder_name=encoder,
            encoder_weights=weights,
            in_channels=in_channels,
            classes=out_channels,
        )
    except ValueError as error:
        raise ConfigError(
            f"arch {arch!r} and encoder {encoder!r} do not go together ({error}); choose another "
            "encoder, such as 'resnet18', or another arch"
        ) from error
    except OSError as error:
        raise DatasetNotFoundError(_how_to_get(encoder, published[weights])) from error
    except (SafetensorError, RuntimeError) as error:
        if weights is None:
            raise
        raise CorruptDatasetError(
            f"{_cached(published[weights])} does not fit encoder {encoder}: {error}; delete the "
            "file, so that it is downloaded again"
        ) from error
    # Some decoders take any size, but then encoder features are cropped or stretched to fit;
    # one rule for all keeps a change of `arch` free of surprises.
    stride = int(network.encoder.output_stride)
    return SegmentationNet(network, stride=stride, in_channels=in_channels)


def _known(what: str, name: str, names: Collection[str]) -> str:
    if name not in names:
        listing = ", ".join(sorted(names)) or "none"
        raise ConfigError(
            f"unknown {what} {name!r}{nearest(name, sorted(names)) or ';'} known: {listing}"
        )
    return name


def _cached(source: dict[str, str]) -> Path:
    """Where huggingface_hub keeps the weights, by its environment variables."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("HF_HOME") or Path(caches) / "huggingface"
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    folder = f"models--{source['repo_id'].replace('/', '--')}"
    return hub.expanduser() / folder / "snapshots" / source["revision"] / WEIGHTS_FILE


def _how_to_get(encoder: str, source: dict[str, str]) -> str:
    return (
        f"no weights of encoder {encoder}: looked for {_cached(source)}, and could not download "
        f"https://huggingface.co/{source['repo_id']} at revision {source['revision']}; connect to "
        "the network, copy that folder from a machine that has it (config.json too), or pass "
        "weights=None to start without"
    )
