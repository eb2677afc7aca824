"""Networks and losses shared by the methods."""

from rlseg.networks.backbones import SegmentationNet, segmentation_net
from rlseg.networks.unet import AttentionUNet

__all__ = ["AttentionUNet", "SegmentationNet", "segmentation_net"]
