"""The common face of suppression and attention layers: what training may change of them."""

from torch import nn


class Gate(nn.Module):
    """A layer that weighs features; (B, C, H, W) in and out."""

    def published_parameters(self) -> list[nn.Parameter]:
        """Return what the published optimiser holds of it: its 2-D convolutions.

        That program collects nothing else, so the linear layers of squeeze-and-excitation and of learnable suppression keep
        their random start; the published figures come from that.
        """
        return [p for m in self.modules() if isinstance(m, nn.Conv2d) for p in m.parameters(recurse=False)]
