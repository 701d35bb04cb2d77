"""Classifiers on top of a trunk: the ASPP of DeepLab v2 and the single field of view of v1."""

from collections import OrderedDict

from torch import Tensor, nn

HIDDEN = 1024
FOV_DILATION = 12
DROPOUT = 0.5
INIT_STD = 0.01


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
