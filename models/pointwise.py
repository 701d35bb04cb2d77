"""1 x 1 convolution with a stride that CPUs can train in any memory layout."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Below this many input channels torch (2.15) crashes on CPUs, see `PointwiseConv2d`.
SAFE_CHANNELS = 16


class PointwiseConv2d(nn.Conv2d):
    """A 1 x 1 convolution; with few channels it takes every stride-th pixel first, which is the same.

    Why: the gradient of a strided 1 x 1 convolution of fewer than 16 channels in channels_last layout writes where it must
    not (oneDNN in torch 2.15, segmentation fault for views of about 56 pixels and more).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, H, W)."""
        if self.in_channels >= SAFE_CHANNELS:
            return super().forward(input)
        rows, columns = self.stride
        return F.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias)


def training_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Return the memory layout that `network` trains fastest in: channels_last, unless it could meet the crash above."""
    crashes = device.type == "cpu" and any(_crashes(module) for module in network.modules())
    return torch.contiguous_format if crashes else torch.channels_last


def _crashes(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or isinstance(module, PointwiseConv2d):
        return False
    return module.kernel_size == (1, 1) and max(module.stride) > 1 and module.in_channels < SAFE_CHANNELS
