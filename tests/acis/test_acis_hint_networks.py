"""The hint networks: exact sizes, initial weights as in the code, dropout from generators."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from rlseg.acis.config import Config, HintConfig
from rlseg.acis.hint_networks import BLOCKS, Fcn8, HintUNet, drop, hint_network
from rlseg.errors import ConfigError

SMALL = 1 / 64


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("sides", [(224, 224), (256, 768), (32, 32), (64, 96)])
def test_fcn_gives_back_the_size_of_the_image(sides):
    with torch.device("meta"):
        network = Fcn8(3, 1.0, sides)
        assert network(torch.empty(2, 3, *sides)).shape == (2, 9, *sides)


def test_feature_maps_of_the_fcn_are_those_of_the_fact_sheet():
    sizes = {}

    def note(name):
        def hook(_module, _inputs, output):
            sizes[name] = tuple(output.shape)

        return hook

    with torch.device("meta"):
        network = Fcn8(3, 1.0, (224, 224))
        for name, module in network.named_modules():
            module.register_forward_hook(note(name))
        network(torch.empty(1, 3, 224, 224))
    expected = [(64, 211), (128, 105), (256, 52), (512, 26), (512, 13)]
    assert [sizes[f"blocks.{k}"][1:3] for k in range(5)] == expected
    assert sizes["blocks.0.0"][2] == 422
    assert sizes["full.0"][1:] == sizes["full.1"][1:] == (4096, 7, 7)
    assert (sizes["up_to_pool4"][2], sizes["up_to_pool3"][2]) == (16, 34)
    assert sizes["up_to_image"][1:] == (9, 280, 280)


def test_the_size_rule_is_exactly_what_the_crops_allow():
    """Without the rule, the sums of the FCN fail or the size changes; with it, never."""
    with torch.device("meta"):
        network = Fcn8(1, SMALL, (32, 32))
        for side in range(4, 200, 4):
            image = torch.empty(1, 1, side, 64)
            try:
                fits = network(image).shape[2:] == image.shape[2:]
            except RuntimeError:
                fits = False
            assert fits == (side % 32 == 0), side
            if not fits:
                with pytest.raises(ConfigError, match="multiples of 32"):
                    Fcn8(1, SMALL, (side, 64))


def test_the_message_on_a_wrong_size_names_one_that_fits():
    with pytest.raises(ConfigError, match=r"size is \[530, 500\].*use size = \[544, 512\].*unet"):
        Fcn8(3, 1.0, (530, 500))
    with pytest.raises(ConfigError, match=r"multiples of 4: use size = \[4, 32\]$"):
        HintUNet(3, (4, 8, 8), (2, 33))


def test_unet_has_the_outputs_of_the_fcn():
    network = HintUNet(3, (4, 8, 8), (32, 48))
    assert network(torch.rand(2, 3, 32, 48)).shape == (2, 9, 32, 48)


def test_initial_weights_of_the_fcn():
    torch.manual_seed(0)
    network = Fcn8(3, 0.25, (32, 32))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == sum(map(len, BLOCKS)) + 2 + 3
    for conv in convolutions:
        wanted = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        assert conv.bias is None
        assert float(conv.weight.detach().std()) == pytest.approx(wanted, rel=0.2)
    for deconv in (m for m in network.modules() if isinstance(m, nn.ConvTranspose2d)):
        bound = 1 / (3 * deconv.kernel_size[0])
        for values in (deconv.weight, deconv.bias):
            assert 0.6 * bound < float(values.detach().abs().max()) <= bound


def test_drop_clears_half_and_keeps_the_mean():
    x = torch.ones(4, 64, 8, 8)
    assert drop(x, ()) is x
    dropped = drop(x, seeded(0))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.05)


def test_drop_of_one_image_hangs_on_its_own_generator_only():
    x = torch.rand(3, 16, 4, 4)
    together = drop(x, seeded(5, 6, 7))
    assert torch.equal(together[1:2], drop(x[1:2], seeded(6)))
    assert not torch.equal(together[1] / x[1], together[2] / x[2])


def test_dropout_changes_the_fcn_and_the_global_state_only_if_asked():
    torch.manual_seed(0)
    network = Fcn8(3, SMALL, (32, 32))
    image = torch.rand(1, 3, 32, 32)
    before = torch.get_rng_state()
    plain, noisy, again = network(image), network(image, seeded(1)), network(image, seeded(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(noisy, again)
    assert not torch.equal(plain, noisy)
    assert not torch.equal(network(image, [None]), network(image, [None]))
    assert not torch.equal(torch.get_rng_state(), before)


def test_config_names_the_network():
    config = Config(size=(32, 32), hints=HintConfig(width=SMALL, features=(4, 8)))
    assert isinstance(hint_network(config, 3), Fcn8)
    unet = dataclasses.replace(config, hints=HintConfig(network="unet", features=(4, 8)))
    assert isinstance(hint_network(unet, 1), HintUNet)
    with pytest.raises(ConfigError, match="no dropout to keep on"):
        hint_network(
            dataclasses.replace(
                config, hints=HintConfig(network="unet", features=(4, 8), dropout=True)
            ),
            1,
        )
