"""Settings of L2G and of its plain baseline, beside them in a file of their own: it loads without torch.

Programs without networks (and their worker processes) read the configuration from here and start in a fraction of a second.
"""

from dataclasses import dataclass

from configs.fields import key
from configs.schema import SampleConfig


@dataclass
class L2GSettings(SampleConfig):
    """Section `l2g`: the sample, and the transfer. Defaults are the published VOC values."""

    patches: int = key(6, "local views per image; >= 4 with boxes=corners")
    saliency: str = key(
        "map", "map: saliency PNGs shape the target; none: the target is the winner map itself", ("map", "none")
    )
    saliency_grid: str = key(
        "nearest", "how saliency reaches the CAM grid: nearest (published) or the mean over each cell", ("nearest", "area")
    )
    kd_weight: float = key(10.0, "weight of the transfer loss, mean squared error over all channels (published: 10, COCO 30)")
    bg_threshold: float = key(0.001, "winner score above which a cell takes part in the target")
    background_target: str = key(
        "indicator",
        "indicator: 1[T>thr](1-s), VOC; value: T(1-s), COCO; complement: 1-s everywhere",
        ("indicator", "value", "complement"),
    )
    background_row: str = key(
        "compete",
        "compete: the untrained local background row competes (published); drop: left out; train: learns 1-s and competes",
        ("compete", "drop", "train"),
    )
    cam_norm: str = key(
        "patch",
        "local CAMs are divided by their maximum over one patch (published) or all patches of the image",
        ("patch", "image"),
    )
    roi_aligned: bool = key(False, "half-pixel correction of RoIAlign (published: none)")
    target_dropout: bool = key(
        True, "dropout stays on while the local network makes targets (published); false costs a second local forward"
    )
    global_cls_weight: float = key(0.0, "weight of the global network's classification loss (published: 0, only logged)")
    global_cls_pool: str = key(
        "mean", "pooling of that loss: mean over all cells, or saliency-weighted mean", ("mean", "saliency")
    )

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        return [
            *super().rules(name),
            (self.patches > 0, f"{name}patches is {self.patches}, expected at least 1"),
            (self.bg_threshold >= 0, f"{name}bg_threshold is {self.bg_threshold}, expected >= 0"),
        ]
