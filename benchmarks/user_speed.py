"""Measure every stage as a user runs it: real programs, loaders, JPEGs on disk, PNG writing; and project a full run.

    python -m benchmarks.user_speed                      # published VOC setting on the first GPU, some minutes
    python -m benchmarks.user_speed --set coco --stages train,infer
    python -m benchmarks.user_speed --size cpu           # a quarter of the width, half the side: minutes on a CPU
    python -m benchmarks.user_speed --size tiny          # a minute on a CPU; checks the program, measures nothing
    python -m benchmarks.user_speed --stages train,infer train.batch_size=6 cam.batch_size=4     # with other settings

Prints a Markdown table: images/s of the published procedure as a plain program (plain_run.py, plain_segment.py; VOC only) and
of ours once it runs, the seconds of our program beyond that (imports, first batches, plots), the part of the time it waited for
pictures, GPU busy share of the whole program (nvidia-smi, sampled), peak memory, and what a full run takes at that rate (VOC:
10 epochs of 10582 images, their CAMs and labels, 20000 iterations of 10 images and 1449 of val in the segmentation stage),
with its sum.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.l2g_inputs import make_network
from benchmarks.program_runs import (
    LIST_NAME,
    gpu_busy,
    inference,
    launch,
    logged_values,
    rate_of_files,
    recorded,
    repeat_set,
    run_module,
    write_set,
)
from benchmarks.user_sizes import SETS, SIZES, STAGES, Published, Size
from utils.training.weights import save_weights

PLAIN_IMAGES = 24
# Seconds below which a difference of two programs is noise.
SHORTEST = 0.05


@dataclass
class Measured:
    """One stage.

    Attributes:
        ours: images/s once it runs.
        images: how many our program worked on.
        plain: the same of the plain program; 0 where there is none.
        start: seconds of the whole program beyond its images at that rate.
        waited: part of the time.
        memory: peak, GiB.
        busy: percentages of the GPU.
    """

    ours: float
    images: int = 0
    plain: float = 0.0
    start: float | None = None
    waited: float | None = None
    memory: float | None = None
    busy: list[float] = field(default_factory=list)


class Bench:
    """The programs of one run below `folder`, on pictures made up there."""

    def __init__(self, folder: Path, size: Size, published: Published, settings: list[str]) -> None:
        self.folder, self.size, self.published, self.settings = folder, size, published, settings
        self.data, self.run_dir, self.segmentation = folder / "data", folder / "run", folder / "deeplab"
        write_set(self.data, size.images, size.picture, published.classes)
        network = make_network(size.width, published.classes, torch.device("cpu"), seed=0)
        save_weights(network.to_published(network.state_dict()), folder / "weights.pth")

    def measure(self, stages: list[str]) -> dict[str, Measured]:
        """Run the named stages (keys of `Published.full`), each after those it needs."""
        programs: dict[str, Callable[[], Measured]] = {
            "train": self._train,
            "infer": self._infer,
            "sweep": self._sweep,
            "labels": self._labels,
            "deeplab": self._deeplab,
            "test": lambda: self._evaluated("test"),
            "crf": lambda: self._evaluated("crf"),
        }
        measured = {}
        for stage in stages:
            started = time.monotonic()
            with gpu_busy(self.folder / "busy.txt") as busy:
                row = measured[stage] = programs[stage]()
            row.busy = busy
            if row.start is None:
                row.start = max(time.monotonic() - started - row.images / row.ours, 0.0)
        if self.published is SETS["voc"]:
            for stage in stages:
                measured[stage].plain = self._plain(stage)
        return measured

    def _plain(self, stage: str) -> float:
        """Return images/s of the plain program for a stage; 0 where it lacks a library."""
        segments = {"deeplab": "train", "test": "test", "crf": "crf"}
        arguments = [segments.get(stage, stage), str(self.data), "--images", str(min(PLAIN_IMAGES, self.size.images))]
        if stage in segments:
            return float(run_module("benchmarks.plain_segment", [*arguments, *self.size.plain_segmentation]))
        return float(run_module("benchmarks.plain_run", [*arguments, "--width", str(self.size.width), *self.size.plain]))

    def _launch(self, program: str, *more: str) -> None:
        overrides = [
            f"run_dir={self.run_dir}",
            f"data.root={self.data}",
            f"model.pretrained={self.folder / 'weights.pth'}",
            f"model.width={self.size.width}",
            f"train.epochs={self.size.epochs}",
            "train.keep_epochs=[]",
            f"train.log_every={self.size.images}",
            "train.images_every=0",
            f"pseudo.out_dir={self.folder / 'labels'}",
            f"data.eval_list={self.data / 'train_cls.txt'}",
        ]
        launch(program, self.published.config, [*overrides, *self.size.settings, *self.settings, *more])

    def _train(self) -> Measured:
        self._launch("scripts.train")
        logged = {n: logged_values(self.run_dir, n) for n in ("images_per_second", "loader_wait", "memory_gib")}
        return _from_log(logged, self.size.epochs * self.size.images)

    def _infer(self) -> Measured:
        self._launch("scripts.make_cams")
        measured = _from_files(self.run_dir / "cam_png", self.run_dir, "scripts.make_cams")
        measured.waited = inference(self.run_dir)["loader_wait"]
        return measured

    def _sweep(self) -> Measured:
        """Sweep the set, and the set `repeats` times over: the difference has no start-up in it."""
        many = self.folder / "many"
        repeat_set(self.data, self.run_dir / "ms" / "attention", many, self.size.repeats)
        seconds = []
        for folder, cams in ((self.data, self.run_dir / "ms" / "attention"), (many, many / "cams")):
            started = time.monotonic()
            lists = [f"data.{key}_list={folder / LIST_NAME}" for key in ("eval", "label")]
            self._launch("scripts.evaluate_cams", f"data.root={folder}", f"eval.cam_dir={cams}", *lists)
            seconds.append(time.monotonic() - started)
        images, (_, memory) = self.size.images, recorded(self.run_dir, "scripts.evaluate_cams")
        speed = (self.size.repeats - 1) * images / max(seconds[1] - seconds[0], SHORTEST)
        return Measured(speed, images, start=max(seconds[0] - images / speed, 0.0), memory=memory)

    def _labels(self) -> Measured:
        self._launch("scripts.gen_gt")
        return _from_files(self.folder / "labels", self.run_dir, "scripts.gen_gt")

    def _segment(self, command: str) -> None:
        settings = [
            f"exp.output_dir={self.segmentation}",
            "exp.id=speed",
            f"dataset.root={self.data}",
            f"dataset.train_list={self.data / 'train_cls.txt'}",
            f"dataset.val_list={self.data / 'train_cls.txt'}",
            "dataset.label_dir=SegmentationClassAug",
            "fully_supervised=true",
            "model.init_model=",
            "train.images_every=0",
        ]
        run_module("deeplab", [command, "--config-path", self.published.segmentation, *settings, *self.size.segmentation])

    def _deeplab(self) -> Measured:
        self._segment("train")
        path = self.segmentation / "logs" / "speed"
        logged = {n: logged_values(path, n)[1:] for n in ("images_per_second", "loader_wait", "memory_gib")}
        return _from_log(logged, recorded(self.segmentation, "deeplab train")[0])

    def _evaluated(self, command: str) -> Measured:
        self._segment(command)
        kind = "_crf" if command == "crf" else ""
        folder = next(self.segmentation.glob(f"predictions/speed/*/val{kind}"))
        return _from_files(folder, self.segmentation, f"deeplab {command}")


def table(measured: dict[str, Measured], full: dict[str, int] | None) -> str:
    """Return a Markdown table; with `full` (images a stage has in a full run) hours and their sum."""
    lines = [
        "| stage | plain, images/s | ours, images/s | ratio | start, s | waited | GPU busy | peak memory | full run |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    hours = {stage: ((row.start or 0) + full[stage] / row.ours) / 3600 for stage, row in measured.items()} if full else {}
    for stage, row in measured.items():
        cells = [
            stage,
            f"{row.plain:.3g}" if row.plain else "",
            f"{row.ours:.3g}",
            f"{row.ours / row.plain:.2f}x" if row.plain else "",
            f"{row.start or 0:.1f}",
            "" if row.waited is None else f"{row.waited:.0%}",
            f"{statistics.mean(row.busy):.0f} %" if row.busy else "not measured",
            "" if row.memory is None else f"{row.memory:.1f} GiB",
            f"{hours[stage]:.2g} h" if full else "not projected",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if full:
        lines.append(f"\nAll stages above: {60 * sum(hours.values()):.0f} minutes")
    return "\n".join(lines)


def _from_files(folder: Path, run_dir: Path, program: str) -> Measured:
    images, memory = recorded(run_dir, program)
    return Measured(rate_of_files(folder), images, memory=memory)


def _from_log(logged: dict[str, list[float]], images: int) -> Measured:
    speed, waited = (statistics.median(logged[n]) for n in ("images_per_second", "loader_wait"))
    return Measured(speed, images, waited=waited, memory=max(logged["memory_gib"]))


def run(size: str, settings: list[str], *, dataset: str = "voc", stages: tuple[str, ...] = STAGES) -> str:
    """Measure at one of `SIZES` with further `key=value` settings of the first stage; returns the table."""
    published = SETS[dataset]
    with tempfile.TemporaryDirectory(prefix="user_speed_") as path:
        measured = Bench(Path(path), SIZES[size], published, settings).measure([s for s in STAGES if s in stages])
    return table(measured, published.full if size == "gpu" else None)


def main(argv: list[str]) -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="gpu", help="sizes and device (default gpu)")
    parser.add_argument("--set", choices=SETS, default="voc", help="whose published setting (default voc)")
    parser.add_argument("--stages", default=",".join(STAGES), help="comma-separated (default %(default)s)")
    parser.add_argument("settings", nargs="*", help="key=value settings of the first stage's programs")
    arguments = parser.parse_args(argv)
    stages = tuple(arguments.stages.split(","))
    if unknown := [stage for stage in stages if stage not in STAGES]:
        parser.error(f"--stages names '{unknown[0]}', expected some of {', '.join(STAGES)}")
    print(run(arguments.size, arguments.settings, dataset=arguments.set, stages=stages))


if __name__ == "__main__":
    main(sys.argv[1:])
