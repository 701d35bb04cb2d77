"""Settings of the programs that make maps, refine them, and turn them into labels."""

from dataclasses import dataclass
from typing import Any

from configs.fields import COUNT, GREY, NOT_NEGATIVE, POSITIVE, PROCESSES, SIDE, UNIT, Checked, key


@dataclass
class CamConfig(Checked):
    """Section `cam`: maps of whole images (scripts.make_cams)."""

    checkpoint: str = key(
        "${run_dir}/model/final.pth", "network to use: training checkpoint, weights export or published .pth", filled=True
    )
    network: str = key(
        "global",
        "which network of a training checkpoint: global; local of l2g; cnn, the branch of crt that refines",
        ("global", "local", "cnn"),
    )
    scales: list[float] = key([0.5, 1.0, 1.5, 2.0], "image scales averaged", within=POSITIVE)
    flip: bool = key(True, "average with the mirrored image")
    activation: str = key(
        "relu",
        "relu: positive scores (published); softmax: probability against background and the image's other classes, which is "
        "what the transfer trains (not for networks that only learned to classify)",
        ("relu", "softmax"),
    )
    merge: str = key(
        "max",
        "max: scores are averaged, cut at 0 and divided by their maximum (CAMs); sum: they are cut at 0 in each scale and "
        "mirror image, then added (IRN, CRT); mean: maps are masks in [0, 1], averaged as they are (single-stage methods)",
        ("max", "sum", "mean"),
    )
    pad_size: list[int] = key(
        [], "height and width that scaled images are centred in, pixels, mean colour around; empty: none (WS-FCN: 1024, 1024)"
    )
    crop_size: list[int] = key(
        [], "height and width of overlapping crops of the padded image that are seen one by one, pixels; empty: the whole image"
    )
    crop_grid: list[int] = key([2, 2], "rows and columns of such crops")
    format: str = key(
        "png",
        "png: 8-bit <id>_<class>.png; npz: float32 <id>.npz, larger (classes, cam, background; with merge=sum cam is a quarter "
        "as wide and high, for random walks, and high_res of full size)",
        ("png", "npz"),
    )
    size: str = key(
        "image",
        "image: maps are resized to the image; network: they stay as coarse as the network's first scale, for localisation",
        ("image", "network"),
    )
    input_size: list[int] = key(
        [],
        "height and width images are resized to before scales, pixels, aspect lost (localisation: 224, 224); empty: none",
        within=SIDE,
    )
    top: int = key(
        0,
        "also maps of so many classes of the highest scores; format=npz then holds the scores of all classes (localisation: 5)",
        within=NOT_NEGATIVE,
    )
    dir: str = key(
        "${run_dir}/ms/attention", "folder for <id>_<class>.png, 8-bit grey, class 0-based, or <id>.npz", filled=True
    )
    label_dir: str = key("${run_dir}/cam_png", "folder for label maps <id>.png (palette) at label_threshold; empty writes none")
    label_threshold: float = key(0.25, "background score of those label maps", within=UNIT)
    label_power: float = key(
        0.0,
        "cam.merge=mean: background scores its mean mask to this power (1-Stage: 3) in them; 0: label_threshold",
        within=NOT_NEGATIVE,
    )
    refine_dir: str = key(
        "", "also write maps for refinement networks (AffinityNet, IRN) as <id>.npz: classes, labels, cam, high_res; empty: no"
    )
    batch_size: int = key(1, "images of one size per forward (each is doubled by flip)", within=COUNT)
    labels: str = key(
        "list", "list: classes of infer_list; predict: classes whose score exceeds score_threshold", ("list", "predict")
    )
    score_threshold: float = key(0.5, "class probability above which a class is present", within=UNIT)
    score_views: str = key(
        "mean",
        "labels=predict: mean: of the mean score over scales and flips, and the most probable class at least; any: of any of "
        "them, and possibly no class (WS-FCN, 1-Stage)",
        ("mean", "any"),
    )
    overwrite: bool = key(False, "redo finished images instead of skipping them")

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        pairs = {key: getattr(self, key) for key in ("pad_size", "crop_size", "crop_grid")}
        masks = self.merge == "mean"
        return [
            (len(self.scales) > 0, f"{name}scales needs at least one number"),
            *[
                (len(v) in (0, 2) and all(x > 0 for x in v), f"{name}{k} is {v}, expected two positive numbers or none")
                for k, v in pairs.items()
            ],
            (
                self.merge != "sum" or self.activation == "relu",
                f"{name}merge=sum cuts scores at 0; set {name}activation=relu, or {name}merge=max",
            ),
            (
                len(self.input_size) in (0, 2),
                f"{name}input_size is {self.input_size}, expected height and width, or none",
            ),
            (
                self.size == "image" or (self.merge == "max" and not self.label_dir and not self.refine_dir),
                f"{name}size=network is for {name}merge=max and no label maps; leave label_dir and refine_dir empty",
            ),
            (self.label_power == 0 or masks, f"{name}label_power needs a background mask; set {name}merge=mean, or 0"),
            (
                not masks or (self.activation == "relu" and not self.refine_dir),
                f"{name}merge=mean is for masks: set {name}activation=relu and leave {name}refine_dir empty",
            ),
            (
                masks or not (self.pad_size or self.crop_size),
                f"{name}pad_size and crop_size need masks, which have the image's size; leave them out or set {name}merge=mean",
            ),
            (
                not self.crop_size or (list(self.scales) == [1.0] and len(self.pad_size) == len(self.crop_grid) == 2),
                f"{name}crop_size needs {name}scales=[1.0], {name}pad_size and {name}crop_grid",
            ),
            (
                not self.crop_size or all(c <= p for c, p in zip(self.crop_size, self.pad_size, strict=False)),
                f"{name}crop_size is {self.crop_size}, expected at most {name}pad_size ({self.pad_size})",
            ),
        ]


@dataclass
class PseudoConfig(Checked):
    """Section `pseudo`: labels from maps (scripts.gen_gt)."""

    fusion: str = key(
        "threshold", "threshold: constant background score (published); saliency: fuse with the map", ("threshold", "saliency")
    )
    threshold: float = key(0.25, "background score of fusion=threshold", within=UNIT)
    pick: str = key(
        "none",
        "saliency: fusion=threshold takes the threshold at which the CAMs of all images agree most with saliency, without any "
        "ground truth; none: threshold as given",
        ("none", "saliency"),
    )
    background: str = key(
        "constant",
        "fusion=threshold: background scores threshold (constant), (1 - highest map)^background_power (inverse; 1-Stage and "
        "WS-FCN before their CRF: 5), or its own mask to that power (mask; 1-Stage: 3)",
        ("constant", "inverse", "mask"),
    )
    background_power: float = key(5.0, "that power", within=NOT_NEGATIVE)
    cam_dir: str = key("${cam.dir}", "folder of the maps, <id>_<class>.png, <id>.npz or IRNet's <id>.npy", filled=True)
    out_dir: str = key("${data.root}/pseudo_seg_labels", "folder for palette PNGs <id>.png", filled=True)
    cam_floor: float = key(0.3, "fusion=saliency: class scores below are dropped", within=UNIT)
    conflict: float = key(0.9, "fusion=saliency: a pixel with more than one score above is ignored (255)", within=UNIT)
    conflict_counts: str = key(
        "all",
        "scores that may be in conflict: all: background's 1 - saliency too (published: a class above 0.9 where saliency is "
        "below 0.1 is ignored); classes: those of classes only",
        ("all", "classes"),
    )
    salient: int = key(32, "fusion=saliency: background pixels at least this salient are ignored, of 255", within=GREY)
    cam_salient: float = key(0.8, "fusion=saliency: background pixels with a CAM above are ignored", within=UNIT)
    min_foreground: float = key(0.01, "fusion=saliency: images with a smaller labelled share are ignored entirely", within=UNIT)
    workers: int = key(0, "processes; 0 is one per core", within=PROCESSES)
    refine: Any = key(
        "none",
        "refiners of the class scores before labelling, a name or several in order: none (published), dense_crf (section crf), "
        "pamr (section pamr, half of its time); random_walk (section random_walk, first: of the CAMs themselves)",
    )

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        constant = self.fusion == "threshold" and self.background == "constant"
        picks = f"{name}pick={self.pick} picks the threshold of {name}fusion=threshold with {name}background=constant"
        return [(self.pick == "none" or constant, f"{picks}; set these, or {name}pick=none")]


@dataclass
class RefineConfig:
    """Section `refine`: CAMs refined as a whole folder (scripts.refine_cams)."""

    by: Any = key("dense_crf", "refiner (dense_crf, pamr, random_walk), or several in the order they run")
    cam_dir: str = key("${cam.dir}", "folder of the maps to refine, <id>_<class>.png, <id>.npz or <id>.npy", filled=True)
    out_dir: str = key("${run_dir}/ms/refined", "folder for the refined <id>_<class>.png", filled=True)
    background: float = key(0.25, "score of background beside the CAMs", within=UNIT)
    workers: int = key(0, "processes; 0 is one per core", within=PROCESSES)
    overwrite: bool = key(False, "redo finished images instead of skipping them")
