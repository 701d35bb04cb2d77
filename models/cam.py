"""The plain CAM baseline (Zhou et al., CVPR 2016): one network classifies whole images; its class score maps are the CAMs.

It reads the settings of L2G, so that both see the very same views of the very same images: say `method=cam` on any of L2G's
configurations.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from configs.schema import Config
from models.cam_net import CamNetwork, cam_network, refuse_masks
from models.l2g import CLASSIFICATION, Classification, L2GSettings
from models.method import Batch, Method, Phase, Picture


class PlainCam(Method):
    """A classifier with one phase, `train.classify_lr` its rate where that is set."""

    name = "cam"
    Settings = L2GSettings
    section = "l2g"

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.network = cam_network(cfg.model, cfg.data.num_classes)

    @classmethod
    def inference_network(cls, cfg: Config, network: str = "global") -> CamNetwork:
        """Build the network. Raises ValueError for `cam.activation=softmax`, which nothing trains, and `cam.merge=mean`."""
        refuse_masks(cfg)
        if cfg.cam.activation == "softmax":
            raise ValueError(
                "cam.activation=softmax, but a plain classifier (method=cam) has never learned its background channel; set "
                "cam.activation=relu"
            )
        return cam_network(cfg.model, cfg.data.num_classes)

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        train = self.cfg.train
        return [Phase(CLASSIFICATION, train.first_epoch, train.epochs, train.classify_lr or train.lr)]

    def step_module(self, phase: Phase) -> nn.Module:
        """Return the classification step."""
        return Classification(self.network)

    def pictures(self, batch: Batch, views: Mapping[str, Tensor]) -> dict[str, Picture]:
        """Return the view and the network's attention."""
        return {**super().pictures(batch, views), "global_cam": Picture("scores", views["global_map"])}
