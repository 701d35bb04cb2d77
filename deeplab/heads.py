"""Classifiers on a trunk's features, and CDL's affinity head."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 1024
FOV_DILATION = 12
DROPOUT = 0.5
INIT_STD = 0.01
# Of DeepLabv3+'s decoder.
PLUS_WIDTH, DETAIL_WIDTH, GROUPS = 256, 48, 16
# Of CDL's affinity head: channels that the last levels are brought to, and that pixels are compared by.
LEVEL_CHANNELS, AFFINITY_CHANNELS = (32, 32, 64, 128), 128
DEEPEST_LEVEL = 5  # published count of a ResNet's levels, the stem being the first


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: parallel branches c0, c1, ..., summed.

    Args:
        branches: modules from (B, channels, h, w) to (B, classes, h, w).
    """

    def __init__(self, branches: list[nn.Module]) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(f"c{number}", branch)
        init_head(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, h, w) features to (B, classes, h, w) logits."""
        first, *others = (branch(x) for branch in self.children())
        for other in others:
            first = first + other
        return first


def aspp(channels: int, classes: int, rates: list[int]) -> Aspp:
    """Return DeepLab v2's ASPP: one dilated 3x3 convolution per rate."""
    return Aspp([nn.Conv2d(channels, classes, 3, padding=rate, dilation=rate) for rate in rates])


def aspp_deep(channels: int, classes: int, rates: list[int]) -> Aspp:
    """Return the ASPP of the published VGG-16 v2: each branch 3x3, 1x1, 1x1 with ReLU and element dropout between."""
    return Aspp([nn.Sequential(*_deep_branch(channels, classes, rate)) for rate in rates])


def field_of_view(channels: int, classes: int) -> nn.Sequential:
    """Return DeepLab v1's head conv6, conv7, conv8 (dilation 12, ReLU and channel dropout between)."""
    head = nn.Sequential(
        OrderedDict(
            conv6=nn.Conv2d(channels, HIDDEN, 3, padding=FOV_DILATION, dilation=FOV_DILATION),
            relu6=nn.ReLU(inplace=True),
            drop6=nn.Dropout2d(DROPOUT),
            conv7=nn.Conv2d(HIDDEN, HIDDEN, 1),
            relu7=nn.ReLU(inplace=True),
            drop7=nn.Dropout2d(DROPOUT),
            conv8=nn.Conv2d(HIDDEN, classes, 1),
        )
    )
    init_head(head)
    return head


def init_head(head: nn.Module) -> None:
    """Draw weights from N(0, 0.01^2) and zero the biases (published)."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=INIT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _deep_branch(channels: int, classes: int, rate: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, HIDDEN, 3, padding=rate, dilation=rate),
        nn.ReLU(inplace=True),
        nn.Dropout(DROPOUT),
        nn.Conv2d(HIDDEN, HIDDEN, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(DROPOUT),
        nn.Conv2d(HIDDEN, classes, 1),
    ]


class PlusHead(nn.Module):
    """DeepLabv3+'s decoder (Chen et al., ECCV 2018): context of the deep features, joined with shallow ones.

    Normalisation is by groups: mini-batches are small here, and the trunk's BatchNorm is fixed.

    Args:
        shallow, deep: channels of both features.
        classes: of the logits.
        rates: dilations of the context's 3x3 branches, in deep cells.
        width: channels of the context and the decoder.
    """

    def __init__(self, shallow: int, deep: int, classes: int, rates: Sequence[int], width: int = PLUS_WIDTH) -> None:
        super().__init__()
        branches = [_group_norm(nn.Conv2d(deep, width, 1, bias=False))]
        branches += [_group_norm(nn.Conv2d(deep, width, 3, padding=r, dilation=r, bias=False)) for r in rates]
        self.branches = nn.ModuleList(branches)
        self.whole = _group_norm(nn.Conv2d(deep, width, 1, bias=False))
        self.join = _group_norm(nn.Conv2d((len(branches) + 1) * width, width, 1, bias=False))
        self.detail = _group_norm(nn.Conv2d(shallow, DETAIL_WIDTH, 1, bias=False))
        self.decode = nn.Sequential(
            _group_norm(nn.Conv2d(width + DETAIL_WIDTH, width, 3, padding=1, bias=False)),
            _group_norm(nn.Conv2d(width, width, 3, padding=1, bias=False)),
            nn.Dropout2d(0.1),
        )
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return logits (B, classes, h, w) of levels (B, channels, ., .), shallow first; h x w is the first one's size."""
        shallow, deep = levels[0], levels[-1]
        whole = self.whole(deep.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *deep.shape[2:])
        context = self.join(torch.cat([*(branch(deep) for branch in self.branches), whole], dim=1))
        size = shallow.shape[2:]
        joined = torch.cat([_resized(context, size), self.detail(shallow)], dim=1)
        logits: Tensor = self.classifier(self.decode(joined))
        return logits


def _group_norm(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, convolution.out_channels), nn.ReLU(inplace=True))


class AffinityHead(nn.Module):
    """Features that tell which pixels are of one class (CDL): 1x1 projections of the trunk's levels, joined and reduced.

    Each level is registered twice, as published: aff_module.<i> and aff_conv_<level> are the same layers.

    Args:
        channels: of the levels, shallow first; at most the last four. CDL's are the four stages of ResNet-101.
        dropout: channel dropout 0.5 of each projection (CDL-e).
    """

    def __init__(self, channels: Sequence[int], *, dropout: bool) -> None:
        super().__init__()
        widths = LEVEL_CHANNELS[-len(channels) :]
        self.aff_module = nn.ModuleList(_projection(c, w, dropout) for c, w in zip(channels, widths, strict=True))
        for level, module in enumerate(self.aff_module, DEEPEST_LEVEL + 1 - len(channels)):
            self.add_module(f"aff_conv_{level}", module)
        self.reduce_dim = nn.Conv2d(sum(widths), AFFINITY_CHANNELS, 1, bias=False)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return (B, 128, h, w) of levels (B, channels, ., .), h x w the last one's; the others are resized to it.

        The trunk learns nothing from it (published).
        """
        size = levels[-1].shape[2:]
        parts = [project(_resized(level.detach(), size)) for project, level in zip(self.aff_module, levels, strict=True)]
        reduced: Tensor = self.reduce_dim(torch.cat(parts, dim=1))
        return reduced


def _projection(inputs: int, outputs: int, dropout: bool) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([nn.Dropout2d(DROPOUT)] if dropout else []))


def _resized(level: Tensor, size: Sequence[int]) -> Tensor:
    if level.shape[2:] == tuple(size):
        return level
    return F.interpolate(level, size=list(size), mode="bilinear", align_corners=False)
