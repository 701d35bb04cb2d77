"""Every network, method, loss and refiner of the segmentation stage on a GPU that need not be there."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.deeplab_schema import PLAIN, DeepLabConfig
from deeplab.crf import _batch_labels
from deeplab.dataset import blank_batch
from deeplab.inference import predict
from deeplab.labelling import Labelling
from deeplab.network import NETWORKS, build_deeplab
from deeplab.settings import deeplab_schema
from deeplab.train import Segmentation
from models.layers.lean import training_format
from models.refiners import REFINERS, build_refiner, find_refiner
from models.refiners.dense_crf import DenseCrf
from tests.gpu.fake_gpu import GPU, FakeGpu, fake_gpu
from tests.gpu.first_stage import CONFIGS, PLACE, assert_on_gpu, assert_placed, presets
from utils.config import load_schema
from utils.data.classes import label_count
from utils.runtime.device import autocast_for
from utils.training.trainer import to_device

METHODS = next(entry.metadata["choices"] for entry in fields(DeepLabConfig) if entry.name == "method")
# Fewer blocks of each kind and smaller crops than published: the same operations in less time.
FEWER = ("model.n_blocks=[1,1,1,1]", "image.size.train=65", "model.init_model=")
SMALL = ("model.name=DeepLabV2_Backbone_MSC", "model.backbone=resnet50")
OPTIONS = ("train.loss=balanced", "model.freeze_bn=false model.msc_scales=[]", "precision=bf16")


def load(path: Path, *overrides: str) -> DeepLabConfig:
    return load_schema(path, [*FEWER, *overrides], deeplab_schema)


def _different(paths: Sequence[Path]) -> list[Path]:
    """Return one preset of each network, method and loss."""
    found: dict[Any, Path] = {}
    for path in paths:
        cfg = load(path)
        found.setdefault((cfg.method, cfg.model.name, cfg.model.backbone, cfg.model.freeze_bn, cfg.train.loss), path)
    return list(found.values())


PRESETS = _different(sorted(set(CONFIGS.glob("*.yaml")) - set(presets())))


def run_segmentation(cfg: DeepLabConfig) -> None:
    """Run training steps up to the loss, their pictures, and inference with views and labels, on a fake GPU."""
    with fake_gpu() as gpu:
        with gpu:
            network = build_deeplab(cfg).to(GPU)
            network.to(memory_format=training_format(network, GPU))
        assert_placed(network)
        stage = Segmentation(cfg, network, PLACE)
        batch = blank_batch(cfg, 2)
        # The first and the last step, and that of a process without images.
        for share, step in ((1.0, 0), (1.0, cfg.solver.iter_max - 1), (0.0, 0)):
            _step(cfg, gpu, stage, {**batch, "share": share, "step": step})
        gpu.waits.clear()
        labelling = Labelling(cfg.dataset.num_classes, {"a": (0, 1)}, ignore_below=0.5)
        with gpu.running(), torch.inference_mode():
            logits = predict(cfg, network.eval(), torch.zeros(2, 3, 65, 49), PLACE)
            labels = labelling.labels("a", logits[0], (65, 49))
        assert_on_gpu({"logits": logits, "labels": labels})
        assert gpu.waits == [], f"inference waits for the GPU: {gpu.waits}"


def _step(cfg: DeepLabConfig, gpu: FakeGpu, stage: Segmentation, host: dict[str, Any]) -> None:
    gpu.waits.clear()
    with gpu.running():
        batch = to_device(host, GPU)
        with autocast_for(cfg.precision, GPU):
            output = stage.step_module(None).train()(batch)
        # CDL has to: the GPU alone knows which pixels are in doubt, and which pairs of them count.
        waits = [wait for wait in gpu.waits if cfg.method == PLAIN or "aten.nonzero" not in wait]
        assert waits == [], f"a step waits for the GPU: {waits}"
        assert_on_gpu({"loss": output["loss"]}, gradient=True)
        assert_on_gpu({**output["losses"], **output["views"]})
        assert {"input", "label"} < set(stage.pictures(batch, output["views"]))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset(path: Path) -> None:
    run_segmentation(load(path))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network(name: str) -> None:
    run_segmentation(load(PRESETS[0], *SMALL, f"model.name={name}", "test.flip=true", "test.scales=[1.0,0.5]"))


@pytest.mark.parametrize("option", [*OPTIONS, *(f"method={method}" for method in METHODS)])
def test_every_option(option: str) -> None:
    run_segmentation(load(PRESETS[0], *SMALL, *option.split()))


def _scores(classes: int, height: int, width: int) -> NDArray[np.float32]:
    raw = np.random.default_rng(classes).random((classes, height, width)).astype(np.float32) ** 4
    return raw / raw.sum(axis=0)


def _picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", REFINERS)
def test_every_refiner_works_there_and_gives_what_the_cpu_gives(name: str) -> None:
    expected = _refined(name, None)
    with fake_gpu(follows=True) as gpu, gpu.running():
        found = _refined(name, str(GPU))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def _refined(name: str, device: str | None) -> Any:
    kind: Any = find_refiner(name)
    settings = kind.Settings()
    for key, value in {"backend": "torch", "exp_times": 2}.items():
        if hasattr(settings, key):
            setattr(settings, key, value)
    refiner = kind.from_settings(settings, mean=(122.675, 116.669, 104.008), device=device)
    if hasattr(refiner, "refine_cams"):
        return refiner.refine_cams(_scores(3, 6, 5), _scores(2, 6, 5)[0], (24, 20))
    return refiner.refine(_scores(3, 24, 20), _picture(24, 20))


@pytest.mark.parametrize("overrides", [["crf.drop_below=0.05"], ["crf.image=published"], ["crf.pos_w=0"], ["crf.bi_w=0"]])
def test_the_crf_of_a_batch_of_logits(overrides: Sequence[str]) -> None:
    """Pictures of different sizes together, as `deeplab crf` takes them on a GPU."""
    cfg = load(PRESETS[0], "crf.backend=torch", *overrides)
    pictures = [_picture(20, 24), _picture(17, 21)]
    logits = [torch.from_numpy(_scores(label_count(cfg.dataset.num_classes), 5, 6)).log() for _ in pictures]
    on_cpu = _labels(cfg, logits, pictures, None)
    with fake_gpu(follows=True) as gpu, gpu.running():
        found = _labels(cfg, [one.to(GPU) for one in logits], pictures, str(GPU))
        assert_on_gpu({str(number): one for number, one in enumerate(found)})
        values = [one.cpu() for one in found]
    assert all(torch.equal(one, other) for one, other in zip(values, on_cpu, strict=True))


def _labels(
    cfg: DeepLabConfig, logits: Sequence[Tensor], pictures: Sequence[NDArray[np.uint8]], device: str | None
) -> list[Tensor]:
    refiner = build_refiner("dense_crf", cfg, device=device)
    assert isinstance(refiner, DenseCrf)
    return _batch_labels(refiner, logits, pictures, Labelling(cfg.dataset.num_classes), ["a", "b"])
