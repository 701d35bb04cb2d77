"""What there is to run on a GPU in the first stage, found in `models/` and `configs/`, and how a method is run there."""

import functools
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import models
from configs.paste_schema import PasteConfig
from configs.schema import Config
from models.irn import boundary_fields
from models.layers.lean import INFERENCE_FORMAT
from models.method import Method, find_method
from scripts import make_cams
from scripts.build import build_inference_network, build_method, load_config
from tests.gpu.fake_gpu import GPU, FakeGpu, fake_gpu
from utils.cams.store import CamWriter
from utils.config import read_flat
from utils.data.loading import SizedBatch
from utils.data.samples import blank_batch
from utils.runtime.device import autocast_for
from utils.runtime.processes import Dist
from utils.training.journal import draw_picture
from utils.training.optim import build_optimizer
from utils.training.trainer import to_device
from utils.training.validation import Validation, validate

CONFIGS = Path(__file__).parents[2] / "configs"
SIZE = (60, 48)
PLACE = Dist(rank=0, world=1, local_rank=0, device=GPU)
# Nothing is read: no weights, no data set.
NO_FILES = ["model.pretrained=", "train.init_from=", "data.workers=0", "validation.image_list=", "validation.log_list="]


def methods() -> list[str]:
    """Return the names of all methods in `models/`."""
    found = []
    for entry in pkgutil.iter_modules(models.__path__):
        if not entry.ispkg and entry.name != "method":
            module = importlib.import_module(f"models.{entry.name}")
            own = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Method)]
            found += [kind.name for kind in own if kind.__module__ == module.__name__ and hasattr(kind, "name")]
    return sorted(found)


def presets(folder: Path = CONFIGS) -> list[Path]:
    """Return the first stage's configurations: those that, with the files they stand on, do not speak of `solver`."""
    return [path for path in sorted(folder.glob("*.yaml")) if not any(key.startswith("solver.") for key in _keys(path))]


def _keys(path: Path) -> Iterator[str]:
    content = read_flat(path)
    yield from content
    base = next((line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("base:")), "")
    if base:
        yield from _keys(path.parent / base.partition(":")[2].strip())


@functools.cache
def _sections(folder: Path) -> dict[Path, tuple[str, str]]:
    loaded = {path: load_config(path) for path in presets(folder)}
    return {path: (cfg.section, cfg.method) for path, cfg in loaded.items()}


def preset_path(name: str, folder: Path = CONFIGS) -> Path:
    """Return a configuration for the method: its own preset, or one of its section.

    Raises:
        LookupError: where there is none.
    """
    section = find_method(name).section or name
    fitting = sorted((method != name, path) for path, (other, method) in _sections(folder).items() if other == section)
    if not fitting:
        raise LookupError(f"nothing in {folder} is a configuration of method={name}: add configs/{name}_<data>.yaml")
    return fitting[0][1]


def preset_of(name: str, *overrides: str, folder: Path = CONFIGS) -> Config:
    """Return the configuration at `preset_path`, with that method and other overrides."""
    return load_config(preset_path(name, folder), [*NO_FILES, f"method={name}", *overrides])


def run_method(cfg: Config, *, maps: bool = True) -> None:
    """Run on a fake GPU what the programs run on a real one: a step of every phase and, with `maps`, validation and CAMs.

    Raises:
        AssertionError: for results that are elsewhere, or a step that waits for the GPU.
        FakeTensorDeviceMismatchError, RuntimeError: for tensors that are not where they should be.
    """
    if hasattr(cfg.settings, "vit"):
        cfg.settings.vit.depth = 2  # later blocks repeat the operations of these
    with fake_gpu() as gpu:
        with gpu:
            method = build_method(cfg, GPU, initial=False)
        assert_placed(method)
        build_optimizer(method.parameter_groups(), kind=cfg.train.optimizer, lr=cfg.train.lr, weight_decay=0.0, momentum=0.9)
        with gpu.running():
            method.finish([torch.zeros(2, 3, 64, 64, device=GPU)])
        module: nn.Module = method
        for number, phase in enumerate(method.phases()):
            with gpu.running():
                if number:
                    method.begin(phase)
                module = method.step_module(phase)
            _step(cfg, gpu, method, module)
        if maps:
            _validate(cfg, gpu, method, module)
            _maps(cfg, gpu)


def run_maps(cfg: Config) -> None:
    """Run CAM inference alone, as scripts.make_cams does it."""
    with fake_gpu() as gpu:
        _maps(cfg, gpu)


def assert_placed(module: nn.Module) -> None:
    """Check that all weights and buffers are on the GPU."""
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    assert {name for name, tensor in held.items() if tensor.device != GPU} == set()


def assert_on_gpu(values: Any, *, gradient: bool = False) -> None:
    """Check where the tensors of a step's results are, and that they hold no graph."""
    for name, value in values.items():
        assert isinstance(value, Tensor) and value.device == GPU, f"{name} is not on the GPU"
        assert value.requires_grad == gradient, f"{name} holds the graph"


def _step(cfg: Config, gpu: FakeGpu, method: Method, module: nn.Module) -> None:
    """One step up to the loss, without waiting for the GPU, and the pictures of it."""
    gpu.waits.clear()
    with gpu.running():
        batch: Any = to_device(blank_batch(cfg.data, cfg.settings, 2), GPU)
        with autocast_for(cfg.precision, GPU):
            output = module.train()(batch)
        assert gpu.waits == [], f"a step of {cfg.method} waits for the GPU: {gpu.waits}"
        assert_on_gpu({"loss": output["loss"]}, gradient=True)
        assert output["loss"].shape == ()
        assert_on_gpu({**output["losses"], **output["views"], **({"scores": output["scores"]} if "scores" in output else {})})
        for picture in method.pictures(batch, output["views"]).values():
            assert draw_picture(picture, batch["labels"][0], cfg.data.mean, cfg.data.std).device.type == "cpu"


class _Blank:
    """Two samples to validate on."""

    def __init__(self, cfg: Config) -> None:
        batch = blank_batch(cfg.data, replace(cfg.settings, paste=PasteConfig()), 1)
        self.sample = {name: value[0] for name, value in batch.items()}

    def __len__(self) -> int:
        return 2

    def __getitem__(self, key: Any) -> dict[str, Any]:
        return self.sample


def _validate(cfg: Config, gpu: FakeGpu, method: Method, module: nn.Module) -> None:
    names = [str(k) for k in range(cfg.data.num_classes)]
    data = _Blank(cfg)
    with gpu.running():
        found = validate(
            module, data, 0, validation=Validation({"val": data}, method.validation_score, names, 2, 0), place=PLACE,
            autocast=lambda: autocast_for(cfg.precision, GPU), to_device=lambda batch: to_device(batch, GPU), what="validate",
        )  # fmt: skip
        assert method.validation_score(found.means()) == method.validation_score(found.means())


def _maps(cfg: Config, gpu: FakeGpu) -> None:
    """CAM inference as scripts.make_cams does it: a wait a batch where classes are predicted, and one for the best ones.

    A method that makes boundaries instead makes these.
    """
    kind = find_method(cfg.method)
    with gpu:
        if boundaries := kind.boundary_network.__func__ is not Method.boundary_network.__func__:  # type: ignore[attr-defined]
            network = kind.boundary_network(cfg)
        else:
            network = build_inference_network(cfg, cfg.cam.network)
        network = network.eval().to(GPU).to(memory_format=INFERENCE_FORMAT)
    assert_placed(network)
    gpu.waits.clear()
    if boundaries:
        with gpu.running(), torch.inference_mode():
            found = boundary_fields(network, torch.zeros(2, 3, *SIZE, device=GPU), 64)
        assert_on_gpu(dict(enumerate(found)))
        return
    scales = [torch.zeros(2, 3, round(SIZE[0] * s), round(SIZE[1] * s)) for s in cfg.cam.scales]
    batch = SizedBatch(["a", "b"], [(0,), (0, 1)], SIZE, scales)
    with TemporaryDirectory() as folder, gpu.running(), torch.inference_mode():
        place = Path(folder)
        (place / "labels").mkdir()
        refine_dir = place / "refine" if cfg.cam.refine_dir else None
        labels = place / "labels" if cfg.cam.label_dir else None
        planned: list[bool] = []  # a size that few images have needs no plans of cuDNN
        network.register_forward_pre_hook(lambda *_: planned.append(torch.backends.cudnn.enabled))
        with CamWriter(place, labels, npz=cfg.cam.format == "npz", refine_dir=refine_dir) as writer:
            counts = list(make_cams._images(cfg, PLACE, network, [batch], writer))
        assert planned and not any(planned)
        reads = (cfg.cam.labels == "predict") + (cfg.cam.top > 0)
        assert counts == [1, 2] or reads
        assert len(set(gpu.waits)) <= reads, f"CAM inference waits for the GPU: {gpu.waits}"
        assert len(list(place.rglob("a*.*"))) >= 1
