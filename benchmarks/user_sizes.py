"""What `benchmarks.user_speed` runs: published sets, and sizes for a GPU, a CPU and a check."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A full run on a published set: configurations, classes, and how many images each stage works on."""

    config: str
    segmentation: str
    classes: int
    full: dict[str, int]


SETS = {
    "voc": Published(
        "configs/l2g_voc.yaml", "configs/voc12_resnet_dplv2.yaml", 20,
        {"train": 105820, "infer": 10582, "sweep": 10582, "labels": 10582, "deeplab": 200000, "test": 1449, "crf": 1449},
    ),
    "coco": Published(
        "configs/l2g_coco.yaml", "configs/coco_resnet_dplv2.yaml", 80,
        {"train": 1231215, "infer": 82081, "sweep": 82081, "labels": 82081, "deeplab": 1000000, "test": 40137, "crf": 40137},
    ),
}  # fmt: skip
STAGES = tuple(SETS["voc"].full)


@dataclass(frozen=True)
class Size:
    """`images` made-up pictures of `picture` (W, H) pixels, `epochs` over them (the first does not count), and settings.

    `repeats`: how often the sweep sees each.
    `width`: of ResNet-38, whose weights are made up too, with norm statistics that fit them (others give no finite loss).
    `segmentation`: settings of that stage; `plain`, `plain_segmentation`: arguments of benchmarks/plain_run.py and
    benchmarks/plain_segment.py.
    """

    images: int
    repeats: int
    picture: tuple[int, int]
    epochs: int
    width: float
    settings: tuple[str, ...]
    segmentation: tuple[str, ...]
    plain: tuple[str, ...]
    plain_segmentation: tuple[str, ...]


SIZES = {
    "gpu": Size(
        images=96, repeats=40, picture=(500, 375), epochs=4, width=1.0,
        settings=("device=cuda", "precision=auto"),
        segmentation=("device=cuda", "precision=auto", "solver.iter_max=40", "solver.iter_tb=10"),
        plain=("--device", "cuda"),
        plain_segmentation=("--device", "cuda"),
    ),
    "cpu": Size(
        images=16, repeats=20, picture=(250, 188), epochs=3, width=0.25,
        settings=(
            "device=cpu", "l2g.input_size=224", "l2g.crop_size=160", "l2g.short_side=256", "data.workers=0",
            "eval.workers=1", "pseudo.workers=1",
        ),
        segmentation=(
            "device=cpu", "solver.iter_max=6", "solver.iter_tb=2", "solver.iter_size=1", "solver.batch_size.train=2",
            "image.size.train=129", "dataloader.num_workers=0", "crf.workers=1",
        ),
        plain=("--images", "8", "--sizes", "256", "224", "160", "--workers", "0"),
        plain_segmentation=("--images", "6", "--batch", "2", "--crop", "129", "--workers", "1"),
    ),
    "tiny": Size(
        images=4, repeats=5, picture=(64, 48), epochs=2, width=0.0625,
        settings=("device=cpu", "l2g.input_size=48", "l2g.crop_size=32", "l2g.short_side=48", "data.workers=0"),
        segmentation=(
            "device=cpu", "solver.iter_max=2", "solver.iter_tb=1", "solver.iter_size=1", "solver.batch_size.train=1",
            "image.size.train=65", "model.n_blocks=[1,1,1,1]", "dataloader.num_workers=0", "crf.workers=1",
        ),
        plain=("--sizes", "48", "48", "32", "--workers", "0"),
        plain_segmentation=("--batch", "1", "--crop", "65", "--workers", "1", "--blocks", "1", "1", "1", "1"),
    ),
}  # fmt: skip
