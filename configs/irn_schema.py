"""Settings of the programs around IRNet: confident labels to learn from, boundaries, instances."""

from dataclasses import dataclass, field

from configs.crf_schema import CrfConfig
from configs.fields import BELOW_ONE, COUNT, POSITIVE, PROCESSES, UNIT, Checked, key


@dataclass
class SeedConfig(Checked):
    """Section `seeds`: labels where CAMs are sure, 255 elsewhere (scripts.make_seeds). Defaults are CRT's published values."""

    cam_dir: str = key("${cam.dir}", "folder of the CAMs, of any method or program", filled=True)
    out_dir: str = key("${run_dir}/seeds", "folder for palette PNGs <id>.png", filled=True)
    conf_fg: float = key(
        0.35, "background score of the first look, in which a foreground pixel is sure (CRT 0.35, IRNet 0.30)", within=UNIT
    )
    conf_bg: float = key(
        0.15, "background score of the second look, in which a background pixel is sure (CRT 0.15, IRNet 0.05)", within=UNIT
    )
    confidence: float = key(0.7, "probability the CRF starts from for the label a pixel has", within=UNIT)
    crf: CrfConfig = field(default_factory=lambda: CrfConfig(pos_xy_std=3.0, bi_w=10.0, bi_xy_std=50.0, bi_rgb_std=5.0))
    overwrite: bool = key(False, "redo finished images instead of skipping them")
    workers: int = key(0, "processes; 0 is one per core", within=PROCESSES)

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        return [
            (
                self.conf_bg <= self.conf_fg,
                f"{name}conf_bg is {self.conf_bg}, expected at most {name}conf_fg ({self.conf_fg}): it is the lower threshold",
            ),
            (0 < self.confidence < 1, f"{name}confidence is {self.confidence}, expected in (0, 1)"),
        ]


@dataclass
class BoundaryConfig:
    """Section `boundaries`: what IRNet says of pictures, written once (scripts.make_boundaries)."""

    checkpoint: str = key("${run_dir}/model/final.pth", "weights of method=irn, ours or published", filled=True)
    dir: str = key("${run_dir}/boundaries", "folder for <id>.npz: boundary and, if asked for, displacement", filled=True)
    displacements: bool = key(False, "write displacements as well, which scripts.make_instances needs")
    image_list: str = key("${data.eval_list}", "images to look at", filled=True)
    batch_size: int = key(4, "images of one size per forward (each is doubled by its mirror image)", within=COUNT)
    overwrite: bool = key(False, "redo finished images instead of skipping them")


@dataclass
class InstanceConfig:
    """Section `instances`: masks of single objects (scripts.make_instances). Defaults are the published ones."""

    cam_dir: str = key("${cam.dir}", "folder of the CAMs, of any method or program", filled=True)
    out_dir: str = key(
        "${run_dir}/instances", "folder for <id>.npz (score, mask, class) and instances.json (COCO)", filled=True
    )
    threshold: float = key(0.25, "background score", within=UNIT)
    steps: int = key(300, "steps along the displacements to an object's centre", within=COUNT)
    still: float = key(2.5, "displacement below which a cell belongs to a centre, cells", within=POSITIVE)
    least_area: float = key(0.01, "components below this share of the picture score 0", within=BELOW_ONE)
    truth_dir: str = key(
        "",
        "ground truth for AP50: a folder of SegmentationObject PNGs <id>.png (classes are those of data.label_dir), or the "
        "folder inst of SBD, <id>.mat; empty: no scores",
    )
    overwrite: bool = key(False, "redo finished images instead of skipping them")
    workers: int = key(0, "processes; 0 is one per core", within=PROCESSES)
