"""Blocks and U-Net: shapes, parameter count, independence of batch composition."""

import pytest
import torch
from torch.nn import functional

from rlseg.colorrl.networks import ColoringNetwork
from rlseg.errors import ConfigError
from rlseg.networks import AttentionUNet
from rlseg.networks.blocks import AttentionGate, ConvNormELU, ResidualBlock, UpConv, instance_norm
from rlseg.networks.losses import interior_target, masked_binary_cross_entropy


def test_paper_network_has_the_published_size():
    """10.14 M parameters for RGB and T = 6, with the code's input module (fact 4.2).

    The biases before instance norms are left out here: 10.14 M counts them.
    """
    network = ColoringNetwork(3, 6, (32, 64, 128, 256, 512), "code")
    count = sum(p.numel() for p in network.parameters())
    norms = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is None]
    biases = sum(m.out_channels for m in norms)
    assert round((count + biases) / 1e6, 2) == 10.14


@pytest.mark.parametrize("input_module", ["paper", "code"])
def test_policy_and_value_per_pixel(input_module):
    network = ColoringNetwork(1, 4, (4, 8, 16), input_module)
    encoded = network.encode_image(torch.rand(2, 1, 16, 24))
    policy, value = network(encoded, torch.zeros(2, 4, 16, 24))
    assert policy.shape == (2, 2, 16, 24)
    assert value.shape == (2, 16, 24)
    assert network.stride == 4


def test_images_of_a_batch_do_not_influence_each_other():
    torch.manual_seed(0)
    network = AttentionUNet((4, 8)).eval()
    x = torch.rand(3, 4, 8, 8)
    together = network(x)
    alone = torch.cat([network(one[None]) for one in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_instance_norm_equals_torch_and_survives_constants():
    x = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(instance_norm(x), functional.instance_norm(x))
    assert not instance_norm(torch.full((1, 2, 4, 4), 3.0)).any()
    assert torch.isfinite(instance_norm(torch.rand(1, 2, 1, 1))).all()


def test_blocks_keep_their_shapes():
    x = torch.rand(1, 4, 6, 6)
    assert ConvNormELU(4, 8)(x).shape == (1, 8, 6, 6)
    assert ResidualBlock(4, 8)(x).shape == (1, 8, 6, 6)
    assert UpConv(4, 2)(x).shape == (1, 2, 12, 12)
    gated = AttentionGate(4)(torch.rand(1, 4, 6, 6), x)
    assert gated.shape == x.shape
    assert torch.all(gated.abs() <= x.abs())


@pytest.mark.parametrize("features", [(8,), (8, 7), (0, 4)])
def test_impossible_widths_are_refused(features):
    with pytest.raises(ConfigError, match="features"):
        AttentionUNet(features)


def test_interior_target_by_hand():
    labels = torch.tensor(
        [
            [1, 1, 1, 0, 2],
            [1, 1, 1, 0, 2],
            [1, 1, 1, 3, 3],
        ]
    )[None]
    expected = torch.tensor(
        [
            [1, 1, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 0, 0, 0],
        ]
    )[None].float()
    assert torch.equal(interior_target(labels, 1), expected)
    assert not interior_target(labels, 2)[0, :, 1:].any()


def test_masked_cross_entropy_is_the_mean_over_the_mask_and_0_without_one():
    logits, target = torch.tensor([2.0, -1.0, 5.0]), torch.tensor([1.0, 0.0, 0.0])
    mask = torch.tensor([True, True, False])
    expected = functional.binary_cross_entropy_with_logits(logits[:2], target[:2])
    torch.testing.assert_close(masked_binary_cross_entropy(logits, target, mask), expected)
    assert masked_binary_cross_entropy(logits, target, torch.zeros(3, dtype=torch.bool)) == 0
