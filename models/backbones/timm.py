"""Any timm feature extractor as a trunk (optional dependency)."""

import torch
from torch import Tensor, nn

from models.layers.cpu_convs import quicken_depthwise

PROBE_SIDE = 224
SIDES = 2


class TimmBackbone(nn.Module):
    """Features before timm's pooling, with the two intermediate maps before the last as side features.

    Args:
        name: timm model name.
        output_stride: asked of timm; networks that cannot dilate keep their own, which `stride` then tells.

    Raises:
        ValueError: when timm is absent or does not know the name.
    """

    side_dims = (64, 128)
    affinity_dim = 192
    key_prefix = "network."
    head_names: dict[str, str] = {}

    def __init__(self, name: str, output_stride: int = 16) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise ValueError(f"model.backbone 'timm:{name}' needs the timm library; run: pip install timm") from error
        if not timm.is_model(name):
            raise ValueError(f"model.backbone 'timm:{name}' is unknown to timm {timm.__version__}; see timm.list_models()")
        try:
            self.network = timm.create_model(name, pretrained=False, num_classes=0, output_stride=output_stride)
        except TypeError:
            self.network = timm.create_model(name, pretrained=False, num_classes=0)
        if not hasattr(self.network, "forward_intermediates"):
            raise ValueError(f"model.backbone 'timm:{name}' offers no intermediate features in timm {timm.__version__}")
        quicken_depthwise(self.network)
        with torch.no_grad():
            probe = self.network.eval()
            maps = self._maps(probe, torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE))
        self.side_channels = (maps[0].shape[1], maps[1].shape[1])
        self.out_channels = maps[2].shape[1]
        self.stride = PROBE_SIDE // maps[2].shape[-1]

    @property
    def stem(self) -> list[nn.Module]:
        """Return timm's first convolution and its norm, under the names its families use."""
        names = ("conv_stem", "bn1", "conv1", "stem", "patch_embed")
        return [module for name in names if isinstance(module := getattr(self.network, name, None), nn.Module)]

    @property
    def head_modules(self) -> list[nn.Module]:
        """Return no layers: all new ones are in the head."""
        return []

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return two side maps and the final map of (B, 3, H, W) images."""
        return self._maps(self.network, images)

    @staticmethod
    def _maps(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        final, maps = network.forward_intermediates(images, indices=SIDES + 1, output_fmt="NCHW")  # type: ignore[operator]
        # Token networks return (B, N, D): their last intermediate is the same features as a map.
        last = final if final.dim() == maps[-1].dim() and final.shape[-1] == maps[-1].shape[-1] else maps[-1]
        return maps[-3], maps[-2], last
