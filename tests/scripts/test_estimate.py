"""`--estimate` of every method and of the segmentation stage, without data and weights."""

from pathlib import Path

import pytest

from deeplab.settings import deeplab_schema
from deeplab.train import estimated as estimated_segmentation
from models.method import find_method
from scripts import train
from scripts.build import load_config
from scripts.train import estimated
from tests.gpu.first_stage import NO_FILES, methods, presets
from utils.config import load_schema
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("forgets_tensors")
CONFIGS = Path(__file__).parents[2] / "configs"
QUICK = [*NO_FILES, "train.batch_size=2"]
DEMO = "configs/l2g_demo.yaml"
# Fewer operations of the same kinds, by section.
LIGHT = {
    "l2g": ["model.backbone=vgg16", "train.classify_epochs=0"],
    "wsfcn": ["model.backbone=vgg16", "wsfcn.pamr.iterations=1"],
    "irn": ["irn.radius=2"],
    "crt": ["crt.vit.depth=1"],
    "crt_wsol": ["crt_wsol.vit.depth=1", "train.optimizer=sgd", "crt_wsol.cnn_optimizer=sgd"],
}


def _demo(name: str) -> Path:
    """Return the preset for the drawn pictures of a method's section."""
    section = find_method(name).section or name
    return next(path for path in presets() if path.stem.endswith("_demo") and load_config(path).section == section)


@pytest.mark.parametrize("name", methods())
def test_every_method(name: str) -> None:
    section = find_method(name).section or name
    cfg = load_config(_demo(name), [*QUICK, f"method={name}", *LIGHT.get(section, LIGHT["l2g"])])
    found = estimated(cfg)
    memory = found.memory
    lasting = memory.weights + memory.optimizer + memory.activations
    assert 0 < memory.gradients <= memory.weights
    assert lasting < memory.peak < 5 * lasting
    assert found.flops > 0
    assert f"{cfg.data.train_list} is not there" in str(found) or Path(cfg.data.train_list).is_file()


@pytest.mark.parametrize("name", ["demo_dplv2", "demo_cdl_b", "demo_cdl_e"])
def test_the_segmentation_stage(name: str) -> None:
    cfg = load_schema(CONFIGS / f"{name}.yaml", ["image.size.train=65", "model.init_model="], deeplab_schema)
    found = estimated_segmentation(cfg)
    assert found.steps == cfg.solver.iter_max * cfg.solver.iter_size
    assert found.memory.peak > found.memory.activations > 0


def test_checkpointed_activations_are_fewer_and_cost_operations() -> None:
    # So many pictures in float32, as a network so narrow keeps little beside weights and their bf16 copies.
    narrow = ["model.freeze_bn=true", "model.width=0.0625", "method=cam", "precision=fp32", "train.batch_size=8"]
    kept, again = (
        estimated(load_config(DEMO, [*QUICK, *narrow, f"model.checkpoint_activations={value}"])) for value in ("false", "true")
    )
    assert again.memory.activations < 0.7 * kept.memory.activations
    assert again.memory.peak < kept.memory.peak
    assert again.step_flops > kept.step_flops


def test_the_program_prints_it_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(Path(DEMO).resolve()), "--estimate", "method=cam", *LIGHT["l2g"], "model.pretrained=gone.pth"]
    monkeypatch.chdir(tmp_path)
    train.main(argv)
    out = capsys.readouterr().out
    assert "memory of a step" in out
    assert "H100" in out
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="unknown key 'train.batches'"):
        train.main([*argv, "train.batches=2"])
    with pytest.raises(UserError, match=r"mini-batch|batch"):
        train.main([*argv, "train.batch_size=5000", "train.drop_last=true"])
