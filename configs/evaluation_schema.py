"""Settings of the programs that look at results: scores of CAMs, scores of label maps."""

import re
from dataclasses import dataclass

from configs.fields import PROCESSES, SIDE, UNIT, Checked, key


@dataclass
class EvalConfig:
    cam_dir: str = key("${cam.dir}", "folder of <id>_<class>.png", filled=True)
    thresholds: list[float] = key([0.1, 0.15, 0.2, 0.25, 0.3], "background thresholds listed in result.json", within=UNIT)
    out: str = key("${run_dir}/ms/result.json", "result file; plots are written beside it", filled=True)
    pick: str = key(
        "none",
        "saliency: name also the threshold where CAMs agree most with saliency, which sees no ground truth, and what it costs",
        ("none", "saliency"),
    )
    workers: int = key(0, "processes; 0 is one per core", within=PROCESSES)
    published_format: str = key("", "also write the published text layout to this file; empty: no")


@dataclass
class BoxConfig:
    """Section `boxes`: localisation by the boxes of maps (scripts.evaluate_boxes)."""

    file: str = key(
        "", "boxes of the objects, '<id> <x> <y> <width> <height> ...' lines, pixels; empty: those of the ground-truth masks"
    )
    cam_dir: str = key("${cam.dir}", "folder of the maps, <id>_<class>.png or <id>.npz", filled=True)
    threshold: float = key(0.1, "share of a map's maximum above which it is object, chosen without the test set", within=UNIT)
    size: list[int] = key(
        [], "height and width that maps and boxes are brought to (published: 224, 224); empty: the picture's own", within=SIDE
    )
    picked: str = key(
        "last",
        "how the epoch of the weights was chosen, for the table of scripts.compare: the last one; by held-out training images; "
        "test: by the scores of these images (published; not comparable with the others)",
        ("last", "held_out", "test"),
    )
    least_area: float = key(0.01, "objects of masks that cover a smaller share of the picture have no box", within=UNIT)
    out: str = key("${run_dir}/boxes/result.json", "result file; the configuration is written beside it", filled=True)
    vis_dir: str = key("", "folder for pictures <id>_<class>.png: heat map with predicted and true boxes; empty: none")
    workers: int = key(0, "processes; 0 is one per core", within=PROCESSES)


@dataclass
class ScoreConfig(Checked):
    """Section `score`: any folder of label maps against the ground truth of data.eval_list (scripts.evaluate_labels)."""

    label_dir: str = key(
        "${pseudo.out_dir}",
        "label maps of any program, palette or grey PNGs: a folder of <id>.png, or a name with {id} in it, e.g. "
        "masks/COCO_val2014_{id}.png; or class maps, <id>.npy or .npz, which become labels at pseudo.threshold",
    )
    out: str = key("${run_dir}/label_scores/result.json", "result file; counts, plots and scores.log are written beside it")
    absent: str = key(
        "omit",
        "a score without pixels to be computed from (IoU of a class in neither ground truth nor label maps): omit: it is left "
        "out of the means; zero: it counts as 0 (published WS-FCN)",
        ("omit", "zero"),
    )
    oracle_from: str = key(
        "",
        "HxW, e.g. 65x65: score what a grid of so many cells can hold of each label map; for the ground truth itself that "
        "is the best a network of this output size can reach; empty: no",
    )
    vis_dir: str = key(
        "", "folder for pictures <id>.png: label maps and ground truth side by side over the picture; empty: none"
    )
    vis_also: list[str] = key([], "further label maps drawn on them, named as label_dir; they are not scored")
    allow_missing: bool = key(False, "score the images that have both files, and say how many have not, instead of stopping")
    workers: int = key(0, "processes; 0 is one per core", within=PROCESSES)

    @property
    def grid(self) -> tuple[int, int] | None:
        """Return the oracle's grid (H, W); None without one."""
        height, _, width = self.oracle_from.partition("x")
        return (int(height), int(width)) if self.oracle_from else None

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        form = re.fullmatch(r"([1-9][0-9]*x[1-9][0-9]*)?", self.oracle_from)
        return [(form is not None, f"{name}oracle_from is '{self.oracle_from}', expected height x width, e.g. 65x65")]
