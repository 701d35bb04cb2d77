"""Settings of the programs that look at results: scores of CAMs, scores of label maps, pictures of CAMs."""

import re
from dataclasses import dataclass

from configs.fields import Checked, key


@dataclass
class EvalConfig:
    cam_dir: str = key("${cam.dir}", "folder of <id>_<class>.png")
    thresholds: list[float] = key([0.1, 0.15, 0.2, 0.25, 0.3], "background thresholds listed in result.json, in [0, 1]")
    out: str = key("${run_dir}/ms/result.json", "result file; plots are written beside it")
    workers: int = key(0, "processes; 0 is one per core")
    published_format: str = key("", "also write the published text layout to this file; empty: no")


@dataclass
class ScoreConfig(Checked):
    """Section `score`: any folder of label maps against the ground truth of data.eval_list (scripts.evaluate_labels)."""

    label_dir: str = key(
        "${pseudo.out_dir}",
        "label maps of any program, palette or grey PNGs: a folder of <id>.png, or a name with {id} in it, e.g. "
        "masks/COCO_val2014_{id}.png",
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
    allow_missing: bool = key(False, "score the images that have both files, and say how many have not, instead of stopping")
    workers: int = key(0, "processes; 0 is one per core")

    @property
    def grid(self) -> tuple[int, int] | None:
        """Return the oracle's grid (H, W); None without one."""
        height, _, width = self.oracle_from.partition("x")
        return (int(height), int(width)) if self.oracle_from else None

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        form = re.fullmatch(r"([1-9][0-9]*x[1-9][0-9]*)?", self.oracle_from)
        return [(form is not None, f"{name}oracle_from is '{self.oracle_from}', expected height x width, e.g. 65x65")]


@dataclass
class ViewConfig(Checked):
    cam_dir: str = key("${cam.dir}", "folder of <id>_<class>.png, of any network")
    out_dir: str = key("${run_dir}/cam_pictures", "folder to write: <id>_<class>.png, <id>.png (all classes) and overview.png")
    ids: str = key("", "images to draw, an id list; empty: all in cam_dir")
    limit: int = key(0, "most images to draw, spread evenly over the list; 0 is all")
    style: str = key(
        "overlay",
        "overlay: heat over the picture, with a colour bar; published: the bare jet map, stretched to its own range",
        ("overlay", "published"),
    )
    colormap: str = key("turbo", "matplotlib name of the heat's colours (style=overlay)")
    opacity: float = key(0.65, "share of the heat's colours at the maximum, in [0, 1]")
    outline: float = key(0.0, "draw a line where a map crosses this value in (0, 1), e.g. the background threshold; 0: none")
    overview: int = key(12, "images on overview.png; 0 writes none")
    workers: int = key(0, "processes; 0 is one per core")

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        return [
            (0 <= self.opacity <= 1, f"view.opacity is {self.opacity}, expected in [0, 1]"),
            (0 <= self.outline < 1, f"view.outline is {self.outline}, expected in [0, 1)"),
            (
                min(self.limit, self.overview, self.workers) >= 0,
                "view.limit, view.overview and view.workers must not be negative",
            ),
        ]
