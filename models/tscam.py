"""TS-CAM (Gao et al., ICCV 2021): a classifying transformer whose class token says where to look; for localisation.

The transformer of CRT, with one pass over one tile: `method=crt_wsol` without the network that refines it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from configs.fields import COUNT, NOT_NEGATIVE, POSITIVE, again, key
from configs.schema import Config
from models.crt import CLASSIFY, TRANSFORMER_KEY, CrtSettings, CrtVitConfig, TransformerBranch
from models.method import Batch, Method, Picture, StepOutput


@dataclass
class WsolVitConfig(CrtVitConfig):
    """Section `crt_wsol.vit`: one pass, no tiles beside the one, stochastic depth."""

    tile_stride: int = again(CrtVitConfig, "tile_stride", 224)
    passes: int = again(CrtVitConfig, "passes", 1)
    outer_residual: bool = again(CrtVitConfig, "outer_residual", False)
    padding: str = again(CrtVitConfig, "padding", "exact")
    drop_path: float = again(CrtVitConfig, "drop_path", 0.1)


@dataclass
class WsolSettings(CrtSettings):
    """Section `crt_wsol`: that of CRT, with what is other in its second half, localisation on CUB-200-2011."""

    vit: WsolVitConfig = field(default_factory=WsolVitConfig)
    input_size: int = again(CrtSettings, "input_size", 224)
    resize: str = again(CrtSettings, "resize", "stretch")
    short_side: int = again(CrtSettings, "short_side", 256)
    crop: str = again(CrtSettings, "crop", "correct")
    flip: bool = again(CrtSettings, "flip", True)
    color_jitter: list[float] = again(CrtSettings, "color_jitter", [0.0] * 4)
    saliency: str = again(CrtSettings, "saliency", "none")
    loss: str = again(CrtSettings, "loss", "cross_entropy")
    l1_size: str = again(CrtSettings, "l1_size", "map")
    l1_weight: float = again(CrtSettings, "l1_weight", 1.0)
    l1_period: int = key(
        5,
        "the L1 term counts in every second run of so many epochs: with 5 in 5-9, 15-19, ..., counted from 1 (published)",
        within=COUNT,
    )
    cnn_lr: float = key(0.005, "constant rate of the CNN's trunk, SGD without momentum; its classifier x10", within=POSITIVE)
    cnn_optimizer: str = key(
        "sgd",
        "its optimiser: sgd (published), or that of the transformer, for networks without ImageNet weights",
        ("sgd", "adamw"),
    )
    cnn_weight_decay: float = key(0.0001, "its L2 penalty", within=NOT_NEGATIVE)


class TsCam(Method):
    """The transformer alone."""

    name = "tscam"
    Settings = WsolSettings
    section = "crt_wsol"

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.transformer = TransformerBranch(cfg)

    def networks(self) -> dict[str, nn.Module]:
        """Return the transformer."""
        return {TRANSFORMER_KEY: self.transformer}

    @classmethod
    def pretrained(cls, cfg: Config) -> dict[str, str]:
        """Return the transformer's weight file."""
        return {TRANSFORMER_KEY: cast(WsolSettings, cfg.settings).vit.pretrained}

    @classmethod
    def inference_network(cls, cfg: Config, network: str = "global") -> nn.Module:
        """Build the transformer.

        Raises:
            ValueError: for another network, or a background score, which it does not learn.
        """
        if network != "global" or cfg.cam.activation == "softmax" or cfg.cam.merge == "mean":
            raise ValueError("method=tscam has one network without background; set cam.network=global and cam.activation=relu")
        return TransformerBranch(cfg)

    def forward(self, batch: Batch) -> StepOutput:
        """Return the classification loss of the mean of the class maps."""
        maps = self.transformer.class_maps(batch["images"])
        scores = maps.mean(dim=(2, 3))
        loss = CLASSIFY[cast(WsolSettings, self.cfg.settings).loss](scores, batch["labels"])
        views = {"vit_map": maps[:1].detach()}
        return {"loss": loss, "losses": {"cls_vit": loss.detach()}, "views": views, "scores": scores.detach()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the transformer's groups."""
        return decayed_groups(self.transformer)

    def pictures(self, batch: Batch, views: Mapping[str, Tensor]) -> dict[str, Picture]:
        """Return the view and the class maps."""
        shown = Picture("scores", F.pad(views["vit_map"], (0, 0, 0, 0, 0, 1)))
        return {"input": super().pictures(batch, views)["input"], "vit_map": shown}


def decayed_groups(transformer: TransformerBranch) -> list[dict[str, Any]]:
    """Return two groups as published: what decays, and vectors, biases, class token and positions, which do not."""
    named = list(transformer.named_parameters())
    free = [p.dim() < 2 or name.endswith(("cls_token", "pos_embed")) for name, p in named]
    return [
        {"params": [p for (_, p), no in zip(named, free, strict=True) if not no], "lr_scale": 1.0},
        {"params": [p for (_, p), no in zip(named, free, strict=True) if no], "lr_scale": 1.0, "weight_decay": 0.0},
    ]
