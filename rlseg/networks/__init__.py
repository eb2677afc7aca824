"""Networks and losses shared by the methods."""

from rlseg.networks.unet import AttentionUNet

__all__ = ["AttentionUNet"]
