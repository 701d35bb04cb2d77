"""CRT for localisation: TS-CAM and a ResNet-50 drawn together in every second run of epochs (second half of CRT, 2022)."""

import itertools
from typing import Any, ClassVar, cast

from configs.schema import Config, SampleConfig
from models.crt import CLASSIFICATION, REFINEMENT, Crt
from models.method import Phase
from models.tscam import WsolSettings, decayed_groups


class CrtWsol(Crt):
    """Both branches of CRT with TS-CAM's transformer."""

    name = "crt_wsol"
    Settings: ClassVar[type[SampleConfig]] = WsolSettings

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.own = cast(WsolSettings, cfg.settings)

    def phases(self) -> list[Phase]:
        """Return runs of `l1_period` epochs, without and with the L1 term; the first is an epoch shorter (published)."""
        train, period = self.cfg.train, self.own.l1_period
        edges = [0, *range(period - 1, train.epochs, period), train.epochs]
        names = (CLASSIFICATION, REFINEMENT)
        pairs = enumerate(itertools.pairwise(edges))
        spans = [(names[i % 2], max(start, train.first_epoch), end) for i, (start, end) in pairs]
        return [Phase(name, start, end, train.lr) for name, start, end in spans if end > start]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the transformer's groups and those of the other network, whose rates are constant (published: SGD)."""
        plain = {"lr_scale": 1.0, "optimizer": self.own.cnn_optimizer, "weight_decay": self.own.cnn_weight_decay}
        if self.own.cnn_optimizer == "sgd":
            plain["momentum"] = 0.0
        trunk, classifier = self.cnn.backbone.parameters(), self.cnn.classifier.parameters()
        return [
            *decayed_groups(self.transformer),
            {"params": list(trunk), "fixed_lr": self.own.cnn_lr, **plain},
            {"params": list(classifier), "fixed_lr": 10 * self.own.cnn_lr, **plain},
        ]
