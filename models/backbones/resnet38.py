"""ResNet-38 ("A1" of Wu et al., Wider or Deeper), the wide pre-activation trunk of the published CAM networks, stride 8."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.layers.attention import Gate
from models.layers.gates import GateOptions
from models.layers.lean import PointwiseConv2d

# Widths are kept multiples of this at any `width`.
CHANNEL_MULTIPLE = 8
DROPOUT_B6, DROPOUT_B7 = 0.3, 0.5
# The blocks of each stage, by the name of its first.
STAGES = {
    "b2": ("b2", "b2_1", "b2_2"),
    "b3": ("b3", "b3_1", "b3_2"),
    "b4": ("b4", "b4_1", "b4_2", "b4_3", "b4_4", "b4_5"),
    "b5": ("b5", "b5_1", "b5_2"),
    "b6": ("b6",),
    "b7": ("b7",),
}


def scaled(channels: int, width: float) -> int:
    """Return `channels * width` rounded to a multiple of 8, at least 8."""
    return max(CHANNEL_MULTIPLE, round(channels * width / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    kind = PointwiseConv2d if kernel == 1 else nn.Conv2d
    return kind(inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)


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
        activated = F.relu_(self.bn_branch2a(x))
        shortcut = x if self.same_shape else self.conv_branch1(activated)
        main = self.conv_branch2b1(F.relu_(self.bn_branch2b1(self.conv_branch2a(activated))))
        return main.add_(shortcut), activated


class BottleneckBlock(nn.Module):
    """1 x 1, dilated 3 x 3, 1 x 1 with Dropout2d between; the shortcut is always a convolution.

    `attention`, if any, weighs the residual branch before the two are added; its keys start with the published `se_layer`.
    """

    def __init__(
        self,
        inputs: int,
        middle: int,
        wide: int,
        outputs: int,
        dilation: int,
        dropout: float,
        attention: Gate | None = None,
    ) -> None:
        super().__init__()
        self.se_layer = attention
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
        activated = F.relu_(self.bn_branch2a(x))
        main = self.dropout_2b1(F.relu_(self.bn_branch2b1(self.conv_branch2a(activated))))
        main = self.dropout_2b2(F.relu_(self.bn_branch2b2(self.conv_branch2b1(main))))
        main = self.conv_branch2b2(main)
        if self.se_layer is not None:
            main = self.se_layer(main)
        return self.conv_branch1(activated).add_(main), activated


class ResNet38(nn.Module):
    """The trunk; key names are the published ones.

    Args:
        width: channel multiplier; 1 is the published network (4096 output channels).
        dropout: Dropout2d in b6 and b7 while training.
        gates: suppression after stages b2 to b7 (after b7 means before bn7) and attention in b6 and b7; none by default.
        outputs: features that come out, in this order: "b5_in" and "b6_in" (activated inputs of these blocks), the raw output
            of a stage's last block ("b3_2": not activated, so it may be negative) or "bn7" (activated). The last are *the*
            features, those before it the side features.

    Attributes:
        checkpoint_activations: keep only each block's input for the backward pass and compute the block again there: more
            time, less memory. For frozen BatchNorm: trained statistics would move twice a step.
    """

    stride = 8
    key_prefix = ""
    head_names = {"classifier": "fc8", "side_a": "f8_3", "side_b": "f8_4", "affinity": "f9"}
    classifier_keys = ("linear1000.*",)
    head_modules: tuple[nn.Module, ...] = ()
    suppression_places = tuple(STAGES)
    attention_places = ("b6", "b7")

    def __init__(
        self,
        width: float = 1.0,
        dropout: bool = True,
        gates: GateOptions | None = None,
        outputs: tuple[str, ...] = ("b5_in", "b6_in", "bn7"),
    ) -> None:
        super().__init__()
        gates = gates or GateOptions()
        self.outputs = outputs
        self.checkpoint_activations = False
        c64, c128, c256, c512, c1024, c2048, c4096 = (scaled(64 * 2**i, width) for i in range(7))
        for place, channels in zip(STAGES, (c128, c256, c512, c1024, c2048, c4096), strict=True):
            self.add_module(_suppression_name(place), gates.suppression_at(place, channels))
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
        attention = gates.attention_at("b6", c2048)
        self.b6 = BottleneckBlock(c1024, c512, c1024, c2048, 4, DROPOUT_B6 * dropout, attention)
        attention = gates.attention_at("b7", c4096)
        self.b7 = BottleneckBlock(c2048, c1024, c2048, c4096, 4, DROPOUT_B7 * dropout, attention)
        self.bn7 = nn.BatchNorm2d(c4096)
        widths = {"b3_2": c256, "b4_5": c512, "b5_in": c512, "b5_2": c1024, "b6_in": c1024}
        self.side_channels = tuple(widths[name] for name in outputs[:-1])
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

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features `outputs` names of (B, 3, H, W) images.

        b3_2: 256 channels at (ceil(H/4), ceil(W/4)); b5_in, b6_in, bn7: 512, 1024, 4096 at (ceil(H/8), ceil(W/8)).
        """
        # Without gradient the frozen stem keeps no activations.
        frozen = not self.conv1a.weight.requires_grad and not self.b2.bn_branch2a.weight.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            x = self.conv1a(images)
            x, _ = self._stage("b2", x)
        found: dict[str, Tensor] = {}
        for name in ("b3", "b4", "b5", "b6", "b7"):
            x, activated = self._stage(name, x)
            seen = {f"{name}_in": activated, STAGES[name][-1]: x}
            found |= {key: value for key, value in seen.items() if key in self.outputs}
        found["bn7"] = F.relu_(self.bn7(x))
        return tuple(found[name] for name in self.outputs)

    def _stage(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run a stage and its suppression, if any; return (output, activated input of its first block)."""
        first, *rest = STAGES[name]
        x, activated = self._block(first, x)
        for block in rest:
            x = self._block(block, x)[0]
        suppression = getattr(self, _suppression_name(name))
        return (x if suppression is None else suppression(x)), activated

    def _block(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        block = getattr(self, name)
        if self.checkpoint_activations and torch.is_grad_enabled():
            outputs: tuple[Tensor, Tensor] = checkpoint(block, x, use_reentrant=False)  # draws the same dropout again
            return outputs
        output: tuple[Tensor, Tensor] = block(x)
        return output


def _suppression_name(place: str) -> str:
    """Return the published name of the suppression layer after a stage: DRS_learnable_layer6 after b6."""
    return f"DRS_learnable_layer{place.removeprefix('b')}"
