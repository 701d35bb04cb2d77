"""ResNet-38 ("A1" of Wu et al., Wider or Deeper), the wide pre-activation trunk of the published CAM networks, stride 8."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Widths are kept multiples of this at any `width`.
CHANNEL_MULTIPLE = 8
DROPOUT_B6, DROPOUT_B7 = 0.3, 0.5


def scaled(channels: int, width: float) -> int:
    """Return `channels * width` rounded to a multiple of 8, at least 8."""
    return max(CHANNEL_MULTIPLE, round(channels * width / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions; the shortcut takes the *activated* input where shape or stride change."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int = 1, dilation: int = 1, first_dilation: int = 0
    ) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = _conv(inputs, middle, 3, stride, first_dilation or dilation)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = _conv(middle, outputs, 3, 1, dilation)
        self.same_shape = inputs == outputs and stride == 1
        if not self.same_shape:
            self.conv_branch1 = _conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (output, activated input)."""
        activated = F.relu(self.bn_branch2a(x))
        shortcut = x if self.same_shape else self.conv_branch1(activated)
        main = self.conv_branch2b1(F.relu(self.bn_branch2b1(self.conv_branch2a(activated))))
        return shortcut + main, activated


class BottleneckBlock(nn.Module):
    """1 x 1, dilated 3 x 3, 1 x 1 with Dropout2d between; the shortcut is always a convolution."""

    def __init__(self, inputs: int, middle: int, wide: int, outputs: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = _conv(inputs, middle, 1)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = _conv(middle, wide, 3, dilation=dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(wide)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = _conv(wide, outputs, 1)
        self.conv_branch1 = _conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (output, activated input)."""
        activated = F.relu(self.bn_branch2a(x))
        main = self.dropout_2b1(F.relu(self.bn_branch2b1(self.conv_branch2a(activated))))
        main = self.dropout_2b2(F.relu(self.bn_branch2b2(self.conv_branch2b1(main))))
        return self.conv_branch1(activated) + self.conv_branch2b2(main), activated


class ResNet38(nn.Module):
    """The trunk; key names are the published ones.

    Args:
        width: channel multiplier; 1 is the published network (4096 output channels).
        dropout: Dropout2d in b6 and b7 while training.
    """

    stride = 8
    key_prefix = ""
    head_names = {"classifier": "fc8", "side_a": "f8_3", "side_b": "f8_4", "affinity": "f9"}

    def __init__(self, width: float = 1.0, dropout: bool = True) -> None:
        super().__init__()
        c64, c128, c256, c512, c1024, c2048, c4096 = (scaled(64 * 2**i, width) for i in range(7))
        self.conv1a = _conv(3, c64, 3)
        self.b2 = BasicBlock(c64, c128, c128, stride=2)
        self.b2_1 = BasicBlock(c128, c128, c128)
        self.b2_2 = BasicBlock(c128, c128, c128)
        self.b3 = BasicBlock(c128, c256, c256, stride=2)
        self.b3_1 = BasicBlock(c256, c256, c256)
        self.b3_2 = BasicBlock(c256, c256, c256)
        self.b4 = BasicBlock(c256, c512, c512, stride=2)
        for i in range(1, 6):
            self.add_module(f"b4_{i}", BasicBlock(c512, c512, c512))
        self.b5 = BasicBlock(c512, c512, c1024, dilation=2, first_dilation=1)
        self.b5_1 = BasicBlock(c1024, c512, c1024, dilation=2)
        self.b5_2 = BasicBlock(c1024, c512, c1024, dilation=2)
        self.b6 = BottleneckBlock(c1024, c512, c1024, c2048, dilation=4, dropout=DROPOUT_B6 * dropout)
        self.b7 = BottleneckBlock(c2048, c1024, c2048, c4096, dilation=4, dropout=DROPOUT_B7 * dropout)
        self.bn7 = nn.BatchNorm2d(c4096)
        self.side_channels = (c512, c1024)
        self.side_dims = (scaled(64, width), scaled(128, width))
        self.affinity_dim = scaled(192, width)
        self.out_channels = c4096
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    @property
    def stem(self) -> list[nn.Module]:
        """Return what the published program never trains."""
        return [self.conv1a, self.b2, self.b2_1, self.b2_2]

    @property
    def head_modules(self) -> list[nn.Module]:
        """Return no layers: all new ones are in the head."""
        return []

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute features.

        Args:
            images: (B, 3, H, W).

        Returns:
            The activated inputs of b5 (512 channels) and b6 (1024) and relu(bn7(b7)) (4096), all at (ceil(H/8), ceil(W/8)).
        """
        # Without gradient the frozen stem keeps no activations.
        frozen = not self.conv1a.weight.requires_grad and not self.b2.bn_branch2a.weight.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            x = self.conv1a(images)
            for block in (self.b2, self.b2_1, self.b2_2):
                x = block(x)[0]
        for name in ("b3", "b3_1", "b3_2", "b4", "b4_1", "b4_2", "b4_3", "b4_4", "b4_5"):
            x = getattr(self, name)(x)[0]
        x, side_a = self.b5(x)
        x = self.b5_2(self.b5_1(x)[0])[0]
        x, side_b = self.b6(x)
        return side_a, side_b, F.relu(self.bn7(self.b7(x)[0]))
