"""The typed configuration every program of the first stage is checked against.

One dataclass a section; each field carries its default, its meaning with unit and range, and, where it is a choice, the
allowed values. `python -m scripts.<program> --help` prints exactly these. YAML files in this folder only hold differences.

Paths are relative to the working directory, except `data.image_dir`, `data.saliency_dir` and `data.label_dir`, which are
relative to `data.root`.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from configs.cam_schema import CamConfig, PseudoConfig, RefineConfig
from configs.crf_schema import CrfConfig
from configs.evaluation_schema import BoxConfig, EvalConfig, ScoreConfig
from configs.fields import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, PROCESSES, SEED, SHARE, Checked, key
from configs.irn_schema import BoundaryConfig, InstanceConfig, SeedConfig
from configs.paste_schema import BankConfig
from configs.sample_schema import SampleConfig
from configs.tools_schema import CheckConfig, SaliencyConfig, ViewConfig


@dataclass
class DataConfig:
    root: str = key("data/voc12", "folder of the dataset", filled=True, free=True)
    num_classes: int = key(20, "number of foreground classes, background not counted", within=COUNT)
    class_names: Any = key(
        "voc12", "voc12, coco14, a text file with one name a line, or a list of num_classes names", free=True
    )
    image_dir: Any = key(
        "JPEGImages",
        "folder of <id>.jpg, or a name with {id} in it, e.g. images/val2014/COCO_val2014_{id}.jpg, relative to data.root; of a "
        "list of these the first that has the file counts",
        filled=True,
    )
    saliency_dir: str = key("Sal", "folder of 8-bit grey <id>.png of the image's size, relative to data.root", filled=True)
    label_dir: str = key(
        "SegmentationClassAug",
        "ground-truth label maps: folder of <id>.png or a name with {id}, as image_dir",
        filled=True,
        free=True,
    )
    paths: str = key(
        "folders",
        "where an image and its ground truth are: folders: in image_dir and label_dir; lists: where its list's line says, "
        "relative to data.root, or else in these",
        ("folders", "lists"),
    )
    labels_from: str = key(
        "lists",
        "image-level labels: lists: train_list, infer_list, label_list; masks: the classes of label maps",
        ("lists", "masks"),
    )
    train_list: str = key(
        "${data.root}/train_cls.txt", "training images: '<id> <class> <class> ...' lines, classes 0-based", filled=True
    )
    infer_list: str = key(
        "${data.root}/train_cls.txt",
        "images to write CAMs for; same format (a bare <id> has no labels)",
        filled=True,
        free=True,
    )
    eval_list: str = key(
        "${data.root}/train_aug.txt",
        "images to evaluate and label; id lines or '/JPEGImages/<id>.jpg /...png' lines",
        filled=True,
        free=True,
    )
    label_list: str = key(
        "${data.root}/train_cls.txt", "image-level labels of eval_list's images, joined by id", filled=True, free=True
    )
    mean: list[float] = key([0.485, 0.456, 0.406], "channel means of RGB in [0, 1]")
    std: list[float] = key([0.229, 0.224, 0.225], "channel standard deviations of RGB in [0, 1]", within=POSITIVE)
    workers: int = key(
        8, "loader processes per training or inference process; 0 loads in the main process", within=PROCESSES, free=True
    )


@dataclass
class GateConfig:
    """Suppression and attention inside a trunk; the defaults add nothing, the places are the published ones of ResNet-38."""

    suppression: str = key(
        "none",
        "cuts a channel's peaks: learnable (share of its maximum from a random layer), fixed",
        ("none", "learnable", "fixed"),
    )
    suppression_places: list[str] = key(
        ["b6", "b7"], "blocks it follows: b2 .. b7 of resnet38, or features (any trunk: what the head gets)"
    )
    suppression_ratio: float = key(0.55, "suppression=fixed: share of the maximum that is left", within=SHARE)
    attention: str = key(
        "none", "se, spatial, eca, simam, nam, pam, cam, gam, polarized_channel, polarized_spatial, none; sums: se+spatial"
    )
    attention_places: list[str] = key(
        ["b6", "b7"], "blocks whose residual branch it weighs: b6, b7 of resnet38, or features (any trunk)"
    )
    attention_reduction: int = key(16, "attention=se: divisor of the channels inside, >= 1", within=COUNT)
    train_gates: bool = key(
        False,
        "suppression and attention learn at the head's rate; published: only their 2-D convolutions learn, at the trunk's",
    )


@dataclass
class TrunkConfig(Checked):
    """What section `model` of both stages says of the trunk."""

    width: float = key(1.0, "channel multiplier of resnet38; 1 is the published network", within=SHARE)
    allow_missing: list[str] = key([], "patterns (fnmatch) of the trunk's keys that the weight file may lack")
    freeze_bn: bool = key(True, "BatchNorm keeps its stored statistics and scale (published); false trains it")
    output_stride: int = key(8, "input pixels per cell of CAMs or logits, for resnet101 and timm networks", within=COUNT)
    checkpoint_activations: bool = key(
        False,
        "ResNets, crt: keep block inputs only and compute blocks again in the backward pass: less memory, more time",
        free=True,
    )

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        wrong = f"{name}checkpoint_activations needs {name}freeze_bn=true, or BatchNorm would see each batch twice"
        return [(self.freeze_bn or not self.checkpoint_activations, wrong)]


@dataclass
class ModelConfig(GateConfig, TrunkConfig):
    backbone: str = key("resnet38", "resnet38, resnet101, vgg16 or timm:<name>", filled=True)
    pretrained: str = key(
        "", "trunk weights: MXNet .params, .pth or .safetensors; hub: torchvision's or timm's, fetched; empty: from scratch"
    )
    allow_unexpected: list[str] = key(
        [], "patterns (fnmatch) of weight-file keys the network may lack, other than its ImageNet classifier's"
    )
    freeze_stem: bool = key(True, "stem (ResNet-38: conv1a, b2*) is not trained (published)")
    dropout: bool = key(True, "Dropout2d inside the last two ResNet-38 blocks while training (published)")


@dataclass
class CourseConfig(Checked):
    """What section `train` of both stages says; the first stage counts batches, the segmentation stage optimiser steps."""

    average_weights: float = key(
        0.0,
        "decay of the exponential moving average of the weights over steps, which is then what is validated and written as the "
        "result, e.g. 0.99; 0: none, the last weights (published)",
        within=BELOW_ONE,
    )
    warmup_iters: int = key(0, "linear warm-up of each phase, optimiser steps; 0 is none (published)", within=NOT_NEGATIVE)
    resume: str = key(
        "",
        "auto: continue from last.pth among the checkpoints if there; a path: from it (a first stage's snapshot too); empty: "
        "start anew",
        free=True,
    )
    overwrite: bool = key(False, "set an earlier training of this run or experiment aside and start anew", free=True)
    images_every: int = key(500, "batches or steps between TensorBoard pictures; 0 is never", within=NOT_NEGATIVE, free=True)
    save_every: int = key(
        1000,
        "batches or steps between checkpoints last.pth, which resuming needs; also at every epoch's end; 0 only then",
        within=NOT_NEGATIVE,
        free=True,
    )

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        wrong = f"{name}overwrite=true starts anew, but {name}resume is '{self.resume}'; leave one of them out"
        return [(not (self.overwrite and self.resume), wrong)]


@dataclass
class TrainConfig(CourseConfig):
    epochs: int = key(10, "passes over train_list, classify_epochs included", within=COUNT, free=True)
    classify_epochs: int = key(
        0,
        "first epochs of plain classification: l2g's networks both start from it, wsfcn does not learn from its masks in it",
        within=NOT_NEGATIVE,
    )
    batch_size: int = key(3, "images per step over all processes", within=COUNT)
    iter_size: int = key(1, "batches accumulated per optimiser step", within=COUNT)
    optimizer: str = key("sgd", "optimiser", ("sgd", "adamw"))
    lr: float = key(0.001, "learning rate of pretrained convolutions; biases x2, new layers x lr_head_factor", within=POSITIVE)
    classify_lr: float = key(0.0, "learning rate of the classify_epochs; 0 means train.lr", within=NOT_NEGATIVE)
    lr_head_factor: float = key(10.0, "learning-rate factor of the CAM head's layers (published 10)", within=NOT_NEGATIVE)
    momentum: float = key(0.9, "SGD momentum", within=BELOW_ONE)
    nesterov: bool = key(True, "Nesterov momentum")
    weight_decay: float = key(0.0005, "L2 penalty (sgd) or decoupled decay (adamw)", within=NOT_NEGATIVE)
    schedule: str = key(
        "step", "step: x decay_factor at decay_epochs; poly: x (1 - t/T)^poly_power per iteration", ("step", "poly")
    )
    decay_epochs: list[int] = key(
        [5], "0-based epochs at whose start the rate is multiplied by decay_factor", within=NOT_NEGATIVE
    )
    decay_factor: float = key(0.1, "factor of the step schedule", within=POSITIVE)
    poly_power: float = key(0.7, "power of the poly schedule", within=NOT_NEGATIVE)
    shuffle: bool = key(False, "new order each epoch; the published L2G runs keep the list order")
    drop_last: bool = key(False, "an epoch's images that fill no batch are left out (published WS-FCN)")
    first_epoch: int = key(
        0, "0-based epoch to begin with, for a run that continues another one's with init_from", within=NOT_NEGATIVE
    )
    init_from: str = key("", "checkpoint both networks start from (published layout or ours); the optimiser starts anew")
    init_local: str = key(
        "global", "which network of init_from the local one starts from: global or its own (local)", ("global", "local")
    )
    log_every: int = key(100, "batches between log lines and TensorBoard scalars", within=COUNT, free=True)
    keep_epochs: list[int] = key(
        [], "0-based epochs whose checkpoint is kept as model/epoch_<n>.pth", within=NOT_NEGATIVE, free=True
    )
    published_name: str = key(
        "",
        "also write the last and the kept epochs in the published layout as model/<published_name>_epoch_<n>.pth, e.g. "
        "pascal_voc or mscoco; empty: no",
        free=True,
    )
    clip_grad: float = key(0.0, "gradient-norm limit; 0 is none (published)", within=NOT_NEGATIVE)


@dataclass
class ValidationConfig:
    """Section `validation`: epochs at whose end losses and average precision are computed, and weights selected."""

    image_list: str = key("", "image-level labels of the images to validate on, as data.train_list; empty: no validation")
    log_list: str = key(
        "",
        "a second list that is logged as well but not selected by (published WS-FCN: train_voc); where it names no classes, "
        "those of data.train_list count; empty: none",
        free=True,
    )
    every: int = key(1, "epochs between validations", within=COUNT)
    from_epoch: int = key(0, "passes after which weights may be selected", within=NOT_NEGATIVE)
    ties: bool = key(True, "an equal score replaces the best one (WS-FCN); false: only a higher one (1-Stage)")
    views: str = key(
        "fixed",
        "fixed: the same view of each image every time; random: drawn anew as for training, so scores are noisy (published); "
        "corner: the top left input_size^2 pixels, neither resized nor mirrored (published CRT)",
        ("fixed", "random", "corner"),
    )
    snapshots: int = key(
        0,
        "selected weights also stay as model/model_enc_e<epoch>Xs<score>.pth, the optimiser's state as opt_enc_..., at most so "
        "many (WS-FCN 10, 1-Stage 5); 0: only model/best.pth",
        within=NOT_NEGATIVE,
        free=True,
    )


@dataclass
class MachineConfig(Checked):
    """What both stages say of where and how they compute."""

    seed: int = key(0, "seed of every random draw", within=SEED)
    device: str = key("auto", "auto (cuda if there is one), cpu, cuda or cuda:<n>", filled=True, free=True)
    precision: str = key(
        "fp32",
        "fp32: float32 without TF32 (published); bf16: autocast, faster and half the memory on a GPU; auto: bf16 on cuda, fp32 "
        "on cpu",
        ("auto", "fp32", "bf16"),
        free=True,
    )
    threads: int = key(0, "CPU threads per process; 0 leaves torch's default", within=PROCESSES, free=True)
    compile: bool = key(
        False,
        "training and inference compile the networks with torch.compile; meant for CUDA (on a CPU: minutes at the start)",
        free=True,
    )


@dataclass
class Config(MachineConfig):
    """The sections all methods share; the picked method's own section is added by `scripts.build.config_schema`."""

    section: ClassVar[str] = ""  # of the picked method
    method: str = key("l2g", "what to train and to infer with: the name of a file in models/, e.g. l2g, cam")
    name: str = key("exp_voc", "name of the run; outputs go to run_dir", filled=True, free=True)
    run_dir: str = key("runs/${name}", "folder of everything the run writes", filled=True, free=True)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    cam: CamConfig = field(default_factory=CamConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    boxes: BoxConfig = field(default_factory=BoxConfig)
    pseudo: PseudoConfig = field(default_factory=PseudoConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    seeds: SeedConfig = field(default_factory=SeedConfig)
    boundaries: BoundaryConfig = field(default_factory=BoundaryConfig)
    instances: InstanceConfig = field(default_factory=InstanceConfig)
    bank: BankConfig = field(default_factory=BankConfig)
    view: ViewConfig = field(default_factory=ViewConfig)
    crf: CrfConfig = field(default_factory=CrfConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    saliency: SaliencyConfig = field(default_factory=SaliencyConfig)

    @property
    def settings(self) -> SampleConfig:
        """Return the section of the picked method."""
        settings: SampleConfig = getattr(self, self.section)
        return settings

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values that would otherwise fail late or silently."""
        train = self.train
        return [
            (len(self.data.mean) == len(self.data.std) == 3, "data.mean and data.std need three numbers each (RGB)"),
            (
                "/" not in self.train.published_name,
                f"train.published_name is '{self.train.published_name}', expected a bare name",
            ),
            (
                train.first_epoch < train.epochs,
                f"train.first_epoch is {train.first_epoch}, expected below train.epochs ({train.epochs})",
            ),
            (
                max(train.keep_epochs, default=0) < train.epochs,
                f"train.keep_epochs is {train.keep_epochs}, expected epochs below train.epochs ({train.epochs})",
            ),
        ]
