"""1-Stage (Araslanov and Roth, Single-Stage Semantic Segmentation from Image Labels, CVPR 2020): WS-FCN's base.

The training of `models/wsfcn.py` on another decoder: ASPP, a skip connection, and global cue injection as the shallow path. It
reads section `wsfcn`: say `method=onestage` on any of its configurations.
"""

import torch
from torch import Tensor

from configs.schema import Config
from models.layers.decoders import AtrousContext, GlobalCue, StochasticGate, conv_bn_relu, resize, segmentation_head, size_of
from models.refiners.pamr import PAMR
from models.wsfcn import Masks, SingleStageNetwork, Wsfcn, WsfcnNetwork

SKIP_CHANNELS = 48


class OneStageNetwork(WsfcnNetwork):
    """ASPP of the deep features beside the shallow ones, stochastic gate with the global cue, head."""

    fixed_norms = ("aspp",)

    def __init__(self, cfg: Config) -> None:
        SingleStageNetwork.__init__(self, cfg)
        width, shallow = self.settings.decoder_width, self.shallow_channels
        self.aspp = AtrousContext(self.trunk.out_channels, width)
        self._aff = PAMR(self.settings.pamr)
        self.shallow_mask = GlobalCue(shallow, width)
        self.fc8_skip = conv_bn_relu(shallow, SKIP_CHANNELS)
        self.fc8_x = conv_bn_relu(width + SKIP_CHANNELS, width, 3)
        self.gate = StochasticGate(self.settings.gate_psi)
        self.last_conv = segmentation_head(width, self.num_classes)

    def look(self, images: Tensor) -> Masks:
        """Return scores and masks on the shallow grid, a quarter of the images' size."""
        shallow, deep = self.backbone(images)
        context = resize(self.aspp(deep), size_of(shallow))
        deep = self.fc8_x(torch.cat([context, self.fc8_skip(shallow)], dim=1))
        return self.pooled(self.gate(deep, self.shallow_mask(shallow, deep)))


class OneStage(Wsfcn):
    """See `models.wsfcn.Wsfcn`."""

    name = "onestage"
    Network = OneStageNetwork
