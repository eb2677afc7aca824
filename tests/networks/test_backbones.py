"""Networks with published encoders: shapes, gradients, weights from a cache, and the errors."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from rlseg.errors import (
    ConfigError,
    CorruptDatasetError,
    DatasetNotFoundError,
    ShapeError,
)
from rlseg.networks import segmentation_net
from rlseg.shapes import pad_to_multiple


def fpn(in_channels=1, seed=0, encoder="resnet18", **more):
    torch.manual_seed(seed)
    return segmentation_net("fpn", encoder, in_channels=in_channels, out_channels=11, **more)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_logits_have_a_channel_per_class_and_every_parameter_learns(in_channels):
    network = fpn(in_channels)
    image = torch.rand(2, in_channels, 64, 96, requires_grad=True)
    logits = network(image)
    assert logits.shape == (2, 11, 64, 96)
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert image.grad is not None
    assert image.grad.any()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_global_seed_decides_the_weights():
    first, again, other = fpn(seed=3), fpn(seed=3), fpn(seed=4)
    image = torch.rand(1, 1, 32, 32)
    for network in (first, again, other):
        network.eval()
    with torch.no_grad():
        assert torch.equal(first(image), again(image))
        assert not torch.equal(first(image), other(image))


@pytest.mark.parametrize(
    "arch",
    ["unet", "unetplusplus", "manet", "linknet", "FPN", "pspnet", "deeplabv3", "deeplabv3plus",
     "upernet", "segformer", "pan"],
)  # fmt: skip
def test_every_arch_answers_with_the_size_of_the_image(arch):
    network = segmentation_net(arch, "resnet18", in_channels=1, out_channels=2).eval()
    height, width = 128 + network.stride, 128
    with torch.no_grad():
        assert network(torch.rand(1, 1, height, width)).shape == (1, 2, height, width)


def test_sizes_that_do_not_fit_name_the_divisor_and_the_padding():
    network = fpn().eval()
    image = torch.rand(1, 1, 50, 64)
    with pytest.raises(ShapeError, match="50x64; the encoder needs multiples of 32: pad to 64x64"):
        network(image)
    with torch.no_grad():
        assert network(pad_to_multiple(image, network.stride)).shape == (1, 11, 64, 64)
    with pytest.raises(ShapeError, match="pad to 32x32"):
        network(torch.rand(1, 1, 0, 32))
    with pytest.raises(ShapeError, match="3 channels; the network was made for 1"):
        network(torch.rand(1, 3, 32, 32))
    with pytest.raises(ShapeError, match="axes"):
        network(torch.rand(1, 32, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "fnp"}, "unknown arch 'fnp'; did you mean 'fpn'"),
        ({"arch": "dpt"}, "unknown arch 'dpt'"),
        ({"encoder": "resnet81"}, "unknown encoder 'resnet81'; did you mean 'resnet"),
        ({"weights": "imagnet"}, "unknown weights of resnet18 'imagnet'; did you mean 'imagenet'"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"out_channels": -1}, "out_channels must be at least 1, got -1"),
        ({"arch": "linknet", "encoder": "mit_b0"}, "do not go together"),
        ({"arch": "deeplabv3", "encoder": "xception"}, "do not go together"),
    ],
)
def test_impossible_networks_are_refused(change, message):
    wanted = {"arch": "fpn", "encoder": "resnet18", "in_channels": 1, "out_channels": 2, **change}
    with pytest.raises(ConfigError, match=message):
        segmentation_net(**wanted)


# Weights from a file

ENCODER = "mobilenet_v2"  # the smallest file


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of Hugging Face files, and no network; where the weights belong."""
    from huggingface_hub import constants
    from segmentation_models_pytorch.encoders import encoders

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))  # was read on import
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    source = encoders[ENCODER]["pretrained_settings"]["imagenet"]
    folder = tmp_path / f"models--{source['repo_id'].replace('/', '--')}" / "snapshots"
    return folder / source["revision"] / "model.safetensors"


def published(path):
    """Writes weights, as they are published, for three channels."""
    torch.manual_seed(9)
    network = segmentation_net("fpn", ENCODER, in_channels=3, out_channels=1)
    weights = {name: value.clone() for name, value in network.network.encoder.state_dict().items()}
    path.parent.mkdir(parents=True)
    (path.parent / "config.json").write_text("{}")
    save_file(weights, path)
    return weights


def test_weights_of_the_cache_are_loaded(cache):
    weights = published(cache)
    encoder = fpn(3, encoder=ENCODER, weights="imagenet").network.encoder
    loaded = encoder.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    drawn = fpn(3, encoder=ENCODER).network.encoder.state_dict()
    assert not torch.equal(drawn["features.0.0.weight"], weights["features.0.0.weight"])
    gray = fpn(1, encoder=ENCODER, weights="imagenet").network.encoder.state_dict()
    summed = weights["features.0.0.weight"].sum(1, keepdim=True)
    assert torch.equal(gray["features.0.0.weight"], summed)


def test_weights_that_are_not_there_say_where_they_were_looked_for(cache):
    with pytest.raises(DatasetNotFoundError) as caught:
        fpn(encoder=ENCODER, weights="imagenet")
    message = str(caught.value)
    assert str(cache) in message
    assert "huggingface.co/smp-hub/mobilenet_v2.imagenet" in message
    assert "weights=None" in message


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_weights_are_named(cache, damage):
    weights = published(cache)
    if damage == "cut":
        cache.write_bytes(cache.read_bytes()[:-100])
    else:
        del weights["features.0.0.weight"]
        save_file(weights, cache)
    with pytest.raises(CorruptDatasetError) as caught:
        fpn(encoder=ENCODER, weights="imagenet")
    assert str(cache) in str(caught.value)
    assert "delete the file" in str(caught.value)


def test_the_cache_follows_its_environment_variables(cache, monkeypatch, tmp_path):
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    expected = {
        "HF_HOME": tmp_path / "hub",
        "XDG_CACHE_HOME": tmp_path / "huggingface" / "hub",
        "HOME": tmp_path / ".cache" / "huggingface" / "hub",
    }
    for name, folder in expected.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, str(tmp_path))
            with pytest.raises(DatasetNotFoundError, match=str(folder)):
                fpn(encoder=ENCODER, weights="imagenet")


def test_the_networks_room_stays_light():
    code = (
        "import sys, rlseg.networks\n"
        "heavy = {'segmentation_models_pytorch', 'torchvision', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
