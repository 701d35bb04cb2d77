"""The typed configuration of the segmentation stage: the published keys (case is folded), and ours beside them.

Paths are relative to the working directory; `dataset.label_dir` and the paths inside lists are relative to `dataset.root`.
"""

from dataclasses import dataclass, field
from typing import Any

from configs.crf_schema import CrfConfig
from configs.fields import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, PROCESSES, SIDE, UNIT, Range, key
from configs.schema import CourseConfig, MachineConfig, TrunkConfig

IGNORE_LABEL = 255
PLAIN = "plain"


@dataclass
class ExpConfig:
    id: str = key("voc12_resnet_v2", "name of the experiment, a folder name below output_dir", filled=True, free=True)
    output_dir: str = key(
        "runs/deeplab", "folder of logs/, models/, features/, predictions/ and scores/", filled=True, free=True
    )


@dataclass
class SplitConfig:
    train: str = key(
        "train_aug", "name of the training split; file <split>.txt unless dataset.train_list is given", filled=True, free=True
    )
    val: str = key(
        "val",
        "name of the split test and crf work on; val_aug is taken for val where only that list exists",
        filled=True,
        free=True,
    )
    test: Any = key("test", "name of a split without ground truth (test.unlabelled=true)", free=True)


@dataclass
class DatasetConfig:
    name: str = key("vocaug", "free text; voc* and coco* choose class names when dataset.labels is empty", free=True)
    root: str = key("data/voc12", "folder the paths in the lists start at", filled=True, free=True)
    labels: str = key(
        "", "class names with background: 'index<TAB>name[,alias]' or one name a line; empty: by dataset.name", free=True
    )
    n_classes: int = key(21, "number of classes, background counted (published convention)", within=Range(2))
    ignore_label: int = key(IGNORE_LABEL, "label value that is not trained on nor scored; 255")
    scales: list[float] = key([0.5, 0.75, 1.0, 1.25, 1.5], "random scale factors of training images", within=POSITIVE)
    split: SplitConfig = field(default_factory=SplitConfig)
    train_list: str = key("", "file of '/JPEGImages/<id>.jpg /<labels>/<id>.png' (or '<id>') lines; empty: by split.train")
    val_list: str = key("", "the same for test and crf; empty: by split.val", free=True)
    label_dir: str = key("", "folder of training labels <id>.png instead of those in the list, e.g. pseudo_seg_labels")
    label_dirs: list[str] = key([], "several such folders, joined by label_fusion; instead of label_dir", filled=True)
    label_fusion: str = key(
        "agree",
        "where label sets differ: agree: the pixel is ignored; vote: the most frequent label, of equally frequent ones that of "
        "the folder named first; first: the first that is not ignored",
        ("agree", "vote", "first"),
    )
    allow_missing_labels: bool = key(False, "train on the images that have label maps, leaving out the others")
    image_dir: str = key("JPEGImages", "folder of <id>.jpg, or a name with {id} in it, for lists of bare ids", filled=True)
    truth_dir: str = key(
        "SegmentationClassAug", "folder of ground-truth <id>.png, or a name with {id} in it, for lists of bare ids", filled=True
    )

    @property
    def num_classes(self) -> int:
        """Return the number of foreground classes: what everything inside counts."""
        return self.n_classes - 1


@dataclass
class DataloaderConfig:
    num_workers: int = key(
        0, "loader processes per training or test process; 0 loads in the main process (published)", within=PROCESSES, free=True
    )


@dataclass
class ChannelsConfig:
    r: float = key(0.0, "red, grey levels")
    g: float = key(0.0, "green, grey levels")
    b: float = key(0.0, "blue, grey levels")


def _published_mean() -> ChannelsConfig:
    return ChannelsConfig(122.675, 116.669, 104.008)


def _no_scaling() -> ChannelsConfig:
    return ChannelsConfig(1.0, 1.0, 1.0)


@dataclass
class ImageSizeConfig:
    base: Any = key(
        None, "long side images are brought to before the random scale, pixels; null: none (published)", within=SIDE
    )
    train: int = key(321, "side of training crops, pixels", within=SIDE)
    test: int = key(513, "long side of the demo command's images, pixels", within=SIDE, free=True)


@dataclass
class ImageConfig:
    mean: ChannelsConfig = field(default_factory=_published_mean)
    std: ChannelsConfig = field(default_factory=_no_scaling)
    order: str = key("bgr", "channel order of the network's input: bgr (Caffe weights) or rgb", ("bgr", "rgb"))
    size: ImageSizeConfig = field(default_factory=ImageSizeConfig)


@dataclass
class DeepLabModelConfig(TrunkConfig):
    name: str = key(
        "DeepLabV2_ResNet101_MSC",
        "DeepLab{V1,V2}_{ResNet101,VGG16}_MSC, or DeepLabV2_Backbone_MSC for model.backbone",
        filled=True,
    )
    n_blocks: list[int] = key([3, 4, 23, 3], "ResNet bottlenecks per stage", within=COUNT)
    atrous_rates: list[int] = key([6, 12, 18, 24], "dilations of the ASPP branches, cells", within=COUNT)
    msc_scales: list[float] = key([0.5, 0.75], "further scales of the multi-scale wrapper; empty: none", within=POSITIVE)
    init_model: str = key("", "weights to start from; hub: torchvision's or timm's of the trunk, fetched; empty: random")
    head: str = key(
        "aspp",
        "classifier of DeepLabV2_Backbone_MSC: aspp: DeepLab v2's (published); v3plus: DeepLabv3+'s decoder, which also sees "
        "features at a quarter of the picture's size",
        ("aspp", "v3plus"),
    )
    backbone: str = key("", "trunk of DeepLabV2_Backbone_MSC, as in the first stage: timm:<name>, resnet38, resnet101, vgg16")


@dataclass
class BatchConfig:
    train: int = key(5, "images per mini-batch over all processes", within=COUNT)
    test: int = key(1, "images of one size per test forward", within=COUNT, free=True)


@dataclass
class SolverConfig:
    batch_size: BatchConfig = field(default_factory=BatchConfig)
    iter_max: int = key(20000, "optimiser steps", within=COUNT, free=True)
    iter_size: int = key(2, "mini-batches accumulated per step", within=COUNT)
    iter_save: int = key(5000, "steps between kept weights checkpoint_<n>.pth", within=COUNT, free=True)
    iter_tb: int = key(100, "steps between TensorBoard scalars and log lines", within=COUNT, free=True)
    lr_decay: int = key(10, "steps between changes of the learning rate", within=COUNT)
    lr: float = key(2.5e-4, "base learning rate; head weights x10, head biases x20", within=POSITIVE)
    momentum: float = key(0.9, "SGD momentum", within=BELOW_ONE)
    optimizer: str = key("sgd", "optimiser; sgd is published, adamw learns faster from scratch", ("sgd", "adamw"))
    poly_power: float = key(0.9, "power of the poly schedule", within=NOT_NEGATIVE)
    weight_decay: float = key(5e-4, "L2 penalty; head biases have none", within=NOT_NEGATIVE)
    average_loss: int = key(20, "iterations the logged loss is averaged over", within=COUNT, free=True)


@dataclass
class SegmentationCrfConfig(CrfConfig):
    """The section as published of this stage: its CRF saw what its network did."""

    image: str = key(
        "published",
        "published: the mean-subtracted picture wrapped to 8 bits (published numbers); true: the picture",
        ("true", "published"),
    )


@dataclass
class TrainExtrasConfig(CourseConfig):
    loss: str = key(
        "ce",
        "ce: mean over labelled pixels (published); ce_all: their sum over the number of all pixels (published beside L2G with "
        "pasting); balanced: background and foreground weigh the same",
        ("ce", "ce_all", "balanced"),
    )
    untrained_fov: bool = key(
        False, "leave the V1 head of ResNet-101 out of the optimiser, as published: it keeps its random start"
    )


@dataclass
class ThresholdsConfig:
    """Section of CDL's published files, by its published name; what a plain training does not read."""

    main_th: float = key(0.9, "confidence from which the first expert is believed, 0 to 1", within=UNIT)
    aux_th: float = key(0.9, "the same of the second expert", within=UNIT)
    aff_loss_weight: float = key(0.4, "weight of the affinity loss", within=NOT_NEGATIVE)
    loss_weight_1st: float = key(0.2, "weight of the first expert's loss", within=NOT_NEGATIVE)
    loss_weight_2nd: float = key(0.2, "weight of the second expert's loss", within=NOT_NEGATIVE)
    loss_weight_3rd: float = key(0.2, "weight of the third head's loss (cdl_e)", within=NOT_NEGATIVE)
    start_ration: float = key(
        0.1, "part of the steps in which labels stay as given and both experts use cross-entropy", within=UNIT
    )
    imagenet_init: bool = key(
        False, "for ImageNet weights: balanced cross-entropy, and losses that rise over the first 100 steps"
    )
    scales: list[float] = key([0.5, 0.75], "further scales in training; tests use model.msc_scales", within=POSITIVE)


@dataclass
class CdlConfig:
    """What the published CDL does by omission, each with its published value."""

    train_affinity: bool = key(
        False, "cdl_e trains its affinity head too; published: it is in no parameter group (cdl_b always trains it)"
    )
    swap_thresholds: bool = key(
        True, "thresholds.main_th is the second expert's threshold and aux_th the first's, as published; equal values: the same"
    )
    credit_ties: bool = key(
        False, "two equally confident experts of one opinion are believed; published: nobody is, not even at confidence 1"
    )
    refresh_ignored: bool = key(True, "ignored pixels, padding beyond the image too, get labels (published)")
    dice_counts_ignored: bool = key(True, "Dice's denominator counts what is said at ignored pixels (published)")
    early_dice: bool = key(True, "Dice begins one step before labels are refreshed (published)")
    output_divisor: float = key(
        2.0, "divides tested logits, a temperature for CRF and saved logits; published 2, 1 is none", within=POSITIVE
    )


@dataclass
class TestConfig:
    save_logits: str = key(
        "none", "none; npy: float32 as published; fp16: compressed half precision (.npz)", ("none", "npy", "fp16")
    )
    save_predictions: bool = key(True, "write palette PNGs of the predictions")
    scales: list[float] = key([1.0], "input scales averaged; [1.0] is published", within=POSITIVE)
    flip: bool = key(False, "average with the mirrored image (published: no)")
    multi_scale: list[float] = key(
        [],
        "scales of a second evaluation, with mirrored images, scored beside the first as <split>_ms; empty: none (published)",
        within=POSITIVE,
    )
    out_dir: str = key(
        "", "folder of the predictions <id>.png; empty: predictions/<exp.id>/<model>/<split>, below exp.output_dir"
    )
    name: str = key("", "put behind the split's name in outputs and reports, for evaluations of other settings")
    class_filter: str = key(
        "",
        "list of image-level labels ('<id> <class> ...'): classes that an image does not have cannot win, for training images; "
        "empty: all can (published)",
    )
    ignore_below: float = key(
        0.0, "pixels whose highest probability is lower become 255, for labels of another round (published: 0)", within=UNIT
    )
    fill_from: str = key("", "folder of earlier labels <id>.png that such pixels are taken from; empty: they stay 255")
    disputed: str = key(
        "network",
        "with fill_from, what becomes of pixels whose earlier class is another than the network is sure of: network: they get "
        "the network's; ignore: 255",
        ("network", "ignore"),
    )
    unlabelled: bool = key(False, "the split has no ground truth: write predictions and the test server's archive, no scores")


@dataclass
class DeepLabConfig(MachineConfig):
    exp: ExpConfig = field(default_factory=ExpConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    dataloader: DataloaderConfig = field(default_factory=DataloaderConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    model: DeepLabModelConfig = field(default_factory=DeepLabModelConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    train: TrainExtrasConfig = field(default_factory=TrainExtrasConfig)
    method: str = key(
        PLAIN, "plain: DeepLab; cdl_b, cdl_e: experts that correct the labels they learn from", (PLAIN, "cdl_b", "cdl_e")
    )
    thresholds: ThresholdsConfig = field(default_factory=ThresholdsConfig)
    cdl: CdlConfig = field(default_factory=CdlConfig)
    test: TestConfig = field(default_factory=TestConfig)
    refine: Any = key("dense_crf", "refiner of the crf command (dense_crf, pamr), or several in the order they run", free=True)
    crf: SegmentationCrfConfig = field(default_factory=SegmentationCrfConfig)
    fully_supervised: bool = key(False, "allow training on the ground-truth folder", free=True)

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values that would otherwise fail late or silently."""
        dataset, size = self.dataset, self.image.size
        whole_base = size.base is None or isinstance(size.base, int)
        return [
            (
                self.method == PLAIN or self.train.loss != "ce_all",
                f"train.loss is ce_all, which method=plain has; method={self.method} takes ce or balanced",
            ),
            (dataset.ignore_label == IGNORE_LABEL, f"dataset.ignore_label is {dataset.ignore_label}, expected {IGNORE_LABEL}"),
            (len(dataset.scales) > 0, "dataset.scales needs at least one number"),
            (len(self.test.scales) > 0, "test.scales needs at least one number"),
            (
                not (dataset.label_dir and dataset.label_dirs),
                "dataset.label_dir and dataset.label_dirs are both set; leave one out",
            ),
            (len(self.model.n_blocks) == 4, "model.n_blocks needs four numbers, one a stage"),
            (len(self.model.atrous_rates) > 0, "model.atrous_rates needs at least one dilation"),
            (min(self.image.std.r, self.image.std.g, self.image.std.b) > 0, "image.std must be positive"),
            (whole_base, f"image.size.base is {size.base}, expected null or a number of pixels"),
        ]
