"""Any timm feature extractor as a trunk (optional dependency)."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.lean import quicken_depthwise

PROBE_SIDE = 224
# Intermediate maps a CAM network takes: the last three.
LAST_THREE = (-3, -2, -1)


class TimmBackbone(nn.Module):
    """Features before timm's pooling, with intermediate maps before the last as side features.

    Args:
        name: timm model name.
        output_stride: asked of timm; networks that cannot dilate keep their own, which `stride` then tells.
        shallow_stride: input pixels per cell of the one side feature wanted: the deepest map at least as fine as that, or
            the first one where none is; 0: the two maps before the last.
        levels: that map, the last one, and all in between.

    Raises:
        ValueError: when timm is absent or does not know the name.
    """

    side_dims = (64, 128)
    affinity_dim = 192
    key_prefix = "network."
    head_names: dict[str, str] = {}
    head_modules: tuple[nn.Module, ...] = ()

    def __init__(self, name: str, output_stride: int = 16, shallow_stride: int = 0, *, levels: bool = False) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise ValueError(f"model.backbone 'timm:{name}' needs the timm library; run: pip install timm") from error
        if not timm.is_model(name):
            raise ValueError(f"model.backbone 'timm:{name}' is unknown to timm {timm.__version__}; see timm.list_models()")
        # In this order: networks that can dilate; transformers, which can be told to take any number of patches; the others.
        for asked in ({"output_stride": output_stride}, {"dynamic_img_size": True}, {}):
            with contextlib.suppress(TypeError, AssertionError):  # VGG says by assertion that it has one output stride only
                self.network = timm.create_model(name, pretrained=False, num_classes=0, **asked)
                self.patch = _patch(self.network) if "dynamic_img_size" in asked else 1
                break
        if not hasattr(self.network, "forward_intermediates"):
            raise ValueError(f"model.backbone 'timm:{name}' offers no intermediate features in timm {timm.__version__}")
        classifier = getattr(self.network, "pretrained_cfg", {}).get("classifier") or ()
        self.classifier_keys = tuple(f"{each}.*" for each in ([classifier] if isinstance(classifier, str) else classifier))
        if hasattr(self.network, "pre_logits"):  # VGG's fully connected layers: of the classifier, and 120 million weights
            self.network.pre_logits = nn.Identity()
            self.classifier_keys += ("pre_logits.*",)
        quicken_depthwise(self.network)
        self.network.eval()
        with torch.no_grad():
            picture = torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE)
            _, every = self.network.forward_intermediates(picture, output_fmt="NCHW")  # type: ignore[operator]
            self.indices: Sequence[int] = [len(every) + index for index in LAST_THREE]
            if shallow_stride:
                fine = [i for i, each in enumerate(every[:-1]) if PROBE_SIDE // each.shape[-1] <= shallow_stride]
                self.indices = [fine[-1] if fine else 0, len(every) - 1]
            if levels:
                self.indices = range(self.indices[0], len(every))
            *sides, last = self(picture)
        self.side_channels = tuple(side.shape[1] for side in sides)
        self.out_channels = last.shape[1]
        self.stride = PROBE_SIDE // last.shape[-1]

    @property
    def stem(self) -> list[nn.Module]:
        """Return timm's first convolution and its norm, under the names its families use."""
        names = ("conv_stem", "bn1", "conv1", "stem", "patch_embed")
        return [module for name in names if isinstance(module := getattr(self.network, name, None), nn.Module)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the side maps and the final map of (B, 3, H, W) images; where patches must cover them, resized to that."""
        height, width = (-(-side // self.patch) * self.patch for side in images.shape[2:])
        if (height, width) != images.shape[2:]:
            images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
        final, maps = self.network.forward_intermediates(  # type: ignore[operator]
            images, indices=self.indices, output_fmt="NCHW"
        )
        # Token networks return (B, N, D): their last intermediate is the same features as a map.
        same = final.dim() == maps[-1].dim() and final.shape[-1] == maps[-1].shape[-1]
        return (*maps[:-1], final if same else maps[-1])


def _patch(network: nn.Module) -> int:
    """Return the side of a transformer's patches, pixels."""
    patches: Any = network.patch_embed
    return int(patches.patch_size[0])
