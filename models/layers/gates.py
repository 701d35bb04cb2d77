"""What may be added to a trunk: suppression after a block, attention in a block; which kind, where, how strong."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from configs.schema import GateConfig
from models.layers.attention import ATTENTIONS, Gate, build_attention

SUPPRESSIONS = ("learnable", "fixed")


class LearnableSuppression(Gate):
    """y = min(x, M k) with M the channel's maximum over space and k = sigmoid(W mean over space of x); W has no bias.

    Gradients flow through x, M and k. A channel whose maximum is negative stays as it is, for M k is then above it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, channels, bias=False), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) of (B, C, H, W), any sign."""
        share: Tensor = self.fc(x.mean(dim=(2, 3)))
        return torch.minimum(x, (_peaks(x) * share)[:, :, None, None])


class FixedSuppression(Gate):
    """y = min(x, ratio M) with M the channel's maximum over space; nothing to learn."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) of (B, C, H, W), any sign."""
        return torch.minimum(x, (_peaks(x) * self.ratio)[:, :, None, None])


def build_suppression(kind: str, channels: int, ratio: float) -> Gate:
    """Build "learnable" suppression of `channels` channels, or "fixed" with `ratio` in (0, 1]."""
    return LearnableSuppression(channels) if kind == "learnable" else FixedSuppression(ratio)


def _peaks(x: Tensor) -> Tensor:
    """Return each channel's maximum (B, C); on a tie one place gets the gradient, as published (amax would share it)."""
    return x.flatten(2).max(dim=2).values


NONE = "none"
# The place every trunk has: the features it hands to the head.
FEATURES = "features"


@dataclass
class GateOptions(GateConfig):
    """Makes the layers that `GateConfig` (a part of section `model`) describes."""

    @classmethod
    def of(cls, config: GateConfig) -> "GateOptions":
        """Take the settings over from a section that holds them."""
        return cls(**{entry.name: getattr(config, entry.name) for entry in fields(GateConfig)})

    def suppression_at(self, place: str, channels: int) -> Gate | None:
        """Return a new suppression layer for `place`, or None where there is to be none."""
        if self.suppression == NONE or place not in self.suppression_places:
            return None
        return build_suppression(self.suppression, channels, self.suppression_ratio)

    def attention_at(self, place: str, channels: int) -> Gate | None:
        """Return a new attention layer for `place`, or None where there is to be none."""
        if self.attention == NONE or place not in self.attention_places:
            return None
        return build_attention(self.attention, channels, self.attention_reduction)

    def check(self, backbone: str, suppression_places: tuple[str, ...], attention_places: tuple[str, ...]) -> None:
        """Raise ValueError for an unknown kind, a value out of range, or a place the trunk does not have.

        Args:
            backbone: its name, for messages.
            suppression_places: blocks the trunk can be suppressed after.
            attention_places: blocks with a residual branch to weigh.
        """
        known = (
            ("suppression", self.suppression, SUPPRESSIONS, self.suppression_places, suppression_places),
            ("attention", self.attention, tuple(ATTENTIONS), self.attention_places, attention_places),
        )
        for name, value, kinds, wanted, offered in known:
            if value == NONE:
                continue
            unknown = [kind for kind in value.split("+") if kind not in kinds]
            if unknown:
                raise ValueError(f"model.{name} is '{value}', expected one of {', '.join((NONE, *kinds))}")
            wrong = [place for place in wanted if place not in (*offered, FEATURES)]
            if wrong or not wanted:
                places = ", ".join((*offered, FEATURES))
                found = wrong[0] if wrong else "nothing"
                raise ValueError(f"model.{name}_places names '{found}'; with {backbone} use one or more of {places}")
        if not 0 < self.suppression_ratio <= 1:
            raise ValueError(f"model.suppression_ratio is {self.suppression_ratio}, expected in (0, 1]")
        if self.attention_reduction < 1:
            raise ValueError(f"model.attention_reduction is {self.attention_reduction}, expected at least 1")
