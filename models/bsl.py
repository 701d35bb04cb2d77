"""The baseline of 1-Stage and WS-FCN: a classifier over mean features; its CAMs are its masks, no pseudo labels are made.

It reads section `wsfcn`: say `method=bsl` on any of its configurations.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from configs.schema import Config
from models.layers.decoders import DROPOUT, resize, size_of
from models.wsfcn import Masks, SingleStageNetwork, Wsfcn

EPSILON = 1e-5
# The one classifier has two more names in published files.
ALIASES = ("cls_branch.2.weight", "mask_branch.0.weight")


class BaselineNetwork(SingleStageNetwork):
    """A 1x1 classifier without bias on the deep features."""

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.fc8 = nn.Conv2d(self.trunk.out_channels, self.num_classes, 1, bias=False)

    def look(self, images: Tensor) -> Masks:
        """Return scores and CAMs, cut at 0 and each divided by its maximum, beside a constant background."""
        _, deep = self.backbone(images)
        pooled = F.dropout2d(deep.mean((2, 3), keepdim=True), DROPOUT, self.training)
        cams = F.relu(resize(self.fc8(deep).float(), size_of(images)))
        cams = cams / (cams.amax((2, 3), keepdim=True) + EPSILON)
        masks = F.pad(cams, (0, 0, 0, 0, 0, 1), value=self.settings.background_score)
        return Masks(self.fc8(pooled).flatten(1).float(), masks, None)

    def to_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename our keys, and write the classifier under all its names."""
        return super().to_published(state) | dict.fromkeys(ALIASES, state["fc8.weight"])

    def from_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename published keys; of the classifier's names the last one counts, as when they are loaded one by one."""
        named = {"fc8.weight" if key in ALIASES else key: value for key, value in state.items()}
        return super().from_published(named)


class Baseline(Wsfcn):
    """See `models.wsfcn.Wsfcn`; only the classification loss is there."""

    name = "bsl"
    Network = BaselineNetwork
