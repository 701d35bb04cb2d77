"""The typed configuration of the segmentation stage: the published keys (case is folded), and ours beside them.

Paths are relative to the working directory; `dataset.label_dir` and the paths inside lists are relative to `dataset.root`.
"""

from dataclasses import dataclass, field
from typing import Any

from configs.fields import Checked, key
from configs.schema import CrfConfig

IGNORE_LABEL = 255


@dataclass
class ExpConfig:
    id: str = key("voc12_resnet_v2", "name of the experiment, a folder name below output_dir")
    output_dir: str = key("runs/deeplab", "folder of logs/, models/, features/, predictions/ and scores/")


@dataclass
class SplitConfig:
    train: str = key("train_aug", "name of the training split; file <split>.txt unless dataset.train_list is given")
    val: str = key("val", "name of the split test and crf work on; val_aug is taken for val where only that list exists")
    test: Any = key("test", "name of a split without ground truth (test.unlabelled=true)")


@dataclass
class DatasetConfig:
    name: str = key("vocaug", "free text; voc* and coco* choose class names when dataset.labels is empty")
    root: str = key("data/voc12", "folder the paths in the lists start at")
    labels: str = key("", "class names with background: 'index<TAB>name[,alias]' or one name a line; empty: by dataset.name")
    n_classes: int = key(21, "number of classes, background counted (published convention); > 1")
    ignore_label: int = key(IGNORE_LABEL, "label value that is not trained on nor scored; 255")
    scales: list[float] = key([0.5, 0.75, 1.0, 1.25, 1.5], "random scale factors of training images")
    split: SplitConfig = field(default_factory=SplitConfig)
    train_list: str = key("", "file of '/JPEGImages/<id>.jpg /<labels>/<id>.png' (or '<id>') lines; empty: by split.train")
    val_list: str = key("", "the same for test and crf; empty: by split.val")
    label_dir: str = key("", "folder of training labels <id>.png instead of those in the list, e.g. pseudo_seg_labels")
    image_dir: str = key("JPEGImages", "folder of <id>.jpg, or a name with {id} in it, for lists of bare ids")
    truth_dir: str = key(
        "SegmentationClassAug", "folder of ground-truth <id>.png, or a name with {id} in it, for lists of bare ids"
    )

    @property
    def num_classes(self) -> int:
        """Return the number of foreground classes: what everything inside counts."""
        return self.n_classes - 1


@dataclass
class DataloaderConfig:
    num_workers: int = key(0, "loader processes per training or test process; 0 loads in the main process (published)")


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
    base: Any = key(None, "long side images are brought to before the random scale, pixels; null: none (published)")
    train: int = key(321, "side of training crops, pixels")
    test: int = key(513, "long side of the demo command's images, pixels")


@dataclass
class ImageConfig:
    mean: ChannelsConfig = field(default_factory=_published_mean)
    std: ChannelsConfig = field(default_factory=_no_scaling)
    order: str = key("bgr", "channel order of the network's input: bgr (Caffe weights) or rgb", ("bgr", "rgb"))
    size: ImageSizeConfig = field(default_factory=ImageSizeConfig)


@dataclass
class DeepLabModelConfig:
    name: str = key(
        "DeepLabV2_ResNet101_MSC", "DeepLab{V1,V2}_{ResNet101,VGG16}_MSC, or DeepLabV2_Backbone_MSC for model.backbone"
    )
    n_blocks: list[int] = key([3, 4, 23, 3], "ResNet bottlenecks per stage")
    atrous_rates: list[int] = key([6, 12, 18, 24], "dilations of the ASPP branches, cells")
    msc_scales: list[float] = key([0.5, 0.75], "further scales of the multi-scale wrapper; empty: none")
    init_model: str = key("", "weights to start from; empty: random")
    allow_missing: list[str] = key([], "patterns (fnmatch) of trunk keys the init file may lack")
    freeze_bn: bool = key(True, "BatchNorm keeps statistics and scale (published)")
    backbone: str = key("", "trunk of DeepLabV2_Backbone_MSC, as in the first stage: timm:<name>, resnet38, resnet101, vgg16")
    width: float = key(1.0, "channel multiplier of backbone=resnet38")
    output_stride: int = key(8, "input pixels per logit cell of backbone=resnet101 and timm networks")


@dataclass
class BatchConfig:
    train: int = key(5, "images per mini-batch over all processes")
    test: int = key(1, "images of one size per test forward")


@dataclass
class SolverConfig:
    batch_size: BatchConfig = field(default_factory=BatchConfig)
    iter_max: int = key(20000, "optimiser steps")
    iter_size: int = key(2, "mini-batches accumulated per step")
    iter_save: int = key(5000, "steps between kept weights checkpoint_<n>.pth")
    iter_tb: int = key(100, "steps between TensorBoard scalars and log lines")
    lr_decay: int = key(10, "steps between changes of the learning rate")
    lr: float = key(2.5e-4, "base learning rate; head weights x10, head biases x20")
    momentum: float = key(0.9, "SGD momentum")
    optimizer: str = key("sgd", "optimiser; sgd is published, adamw learns faster from scratch", ("sgd", "adamw"))
    poly_power: float = key(0.9, "power of the poly schedule")
    weight_decay: float = key(5e-4, "L2 penalty; head biases have none")
    average_loss: int = key(20, "iterations the logged loss is averaged over")


@dataclass
class TrainExtrasConfig:
    loss: str = key(
        "ce",
        "ce: mean over labelled pixels (published); balanced: background and foreground weigh the same",
        ("ce", "balanced"),
    )
    resume: str = key("", "auto: continue from last.pth if there; a path: continue from it; empty: start anew")
    save_every: int = key(1000, "steps between writings of last.pth, which resuming needs")
    warmup_iters: int = key(0, "steps of linear warm-up (published: none)")
    untrained_fov: bool = key(
        False, "leave the V1 head of ResNet-101 out of the optimiser, as published: it keeps its random start"
    )
    images_every: int = key(500, "steps between TensorBoard pictures; 0 is never")


@dataclass
class TestConfig:
    save_logits: str = key(
        "none", "none; npy: float32 as published; fp16: compressed half precision (.npz)", ("none", "npy", "fp16")
    )
    save_predictions: bool = key(True, "write palette PNGs of the predictions")
    scales: list[float] = key([1.0], "input scales averaged; [1.0] is published")
    flip: bool = key(False, "average with the mirrored image (published: no)")
    unlabelled: bool = key(False, "the split has no ground truth: write predictions and the test server's archive, no scores")


@dataclass
class DeepLabConfig(Checked):
    exp: ExpConfig = field(default_factory=ExpConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    dataloader: DataloaderConfig = field(default_factory=DataloaderConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    model: DeepLabModelConfig = field(default_factory=DeepLabModelConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    train: TrainExtrasConfig = field(default_factory=TrainExtrasConfig)
    test: TestConfig = field(default_factory=TestConfig)
    refine: Any = key("dense_crf", "refiner of the crf command (dense_crf, pamr), or several in the order they run")
    crf: CrfConfig = field(default_factory=CrfConfig)
    fully_supervised: bool = key(False, "allow training on the ground-truth folder")
    seed: int = key(0, "seed of every random draw; >= 0")
    device: str = key("auto", "auto (cuda if there is one), cpu, cuda or cuda:<n>")
    precision: str = key("auto", "auto: bf16 autocast on cuda, fp32 on cpu", ("auto", "fp32", "bf16"))
    threads: int = key(0, "CPU threads per process; 0 leaves torch's default")
    compile: bool = key(
        False, "training and testing compile the network with torch.compile; meant for CUDA (on a CPU: minutes at the start)"
    )

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values that would otherwise fail late or silently."""
        solver, dataset, size = self.solver, self.dataset, self.image.size
        counts = {
            "solver.iter_max": solver.iter_max,
            "solver.iter_size": solver.iter_size,
            "solver.iter_save": solver.iter_save,
            "solver.iter_tb": solver.iter_tb,
            "solver.lr_decay": solver.lr_decay,
            "solver.average_loss": solver.average_loss,
            "solver.batch_size.train": solver.batch_size.train,
            "solver.batch_size.test": solver.batch_size.test,
            "image.size.train": size.train,
            "image.size.test": size.test,
            "crf.iter_max": self.crf.iter_max,
        }
        whole_base = size.base is None or (isinstance(size.base, int) and size.base > 0)
        return [
            *((value >= 1, f"{name} is {value}, expected at least 1") for name, value in counts.items()),
            (dataset.n_classes > 1, f"dataset.n_classes is {dataset.n_classes}, expected at least 2 (background counts)"),
            (dataset.ignore_label == IGNORE_LABEL, f"dataset.ignore_label is {dataset.ignore_label}, expected {IGNORE_LABEL}"),
            (len(dataset.scales) > 0 and min(dataset.scales) > 0, "dataset.scales needs positive numbers"),
            (len(self.test.scales) > 0 and min(self.test.scales) > 0, "test.scales needs positive numbers"),
            (len(self.model.n_blocks) == 4, "model.n_blocks needs four numbers, one a stage"),
            (len(self.model.atrous_rates) > 0, "model.atrous_rates needs at least one dilation"),
            (solver.lr > 0, f"solver.lr is {solver.lr}, expected > 0"),
            (min(self.image.std.r, self.image.std.g, self.image.std.b) > 0, "image.std must be positive"),
            (whole_base, f"image.size.base is {size.base}, expected null or a number of pixels"),
            (self.seed >= 0, f"seed is {self.seed}, expected >= 0"),
        ]
