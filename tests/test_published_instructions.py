"""Published commands, taken literally."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from configs.deeplab_schema import DeepLabConfig
from deeplab.losses import multi_scale_loss
from deeplab.outputs import final_weights
from scripts.build import load_config
from utils.config import load_schema, save_config
from utils.errors import UserError
from utils.training.weights import read_weights

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("name", "published"), [("l2g_voc", "pascal_voc"), ("l2g_coco", "mscoco"), ("l2g_voc_improved", "")])
def test_published_presets_write_published_checkpoints(name: str, published: str) -> None:
    assert load_config(ROOT / "configs" / f"{name}.yaml").train.published_name == published


def test_the_published_main_answers_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "deeplab" / "main.py")]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "python -m deeplab train" in shown.stdout
    asked = [*command, "train", "--config-path", "configs/voc12_resnet_dplv2.yaml", f"dataset.root={tmp_path}", "device=cpu",
             f"exp.output_dir={tmp_path / 'out'}"]  # fmt: skip
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "no list of split 'train_aug' found" in done.stderr


@pytest.mark.parametrize("script", ["test_l2g_voc.sh", "gen_gt_voc.sh"])
@pytest.mark.parametrize("trained", [True, False])
def test_the_name_of_a_run_is_enough_for_its_later_stages(tmp_path: Path, script: str, trained: bool) -> None:
    """The published scripts had every setting twice."""
    config = tmp_path / "own.yaml"
    config.write_text(f"base: {ROOT}/configs/l2g_voc_sa_cda.yaml\n")
    name = f"test_{tmp_path.parent.name}_{os.getpid()}"
    saved = ROOT / "runs" / name / "config.yaml"
    saved.parent.mkdir(parents=True)
    try:
        if trained:
            save_config(load_config(config), saved)
            assert load_config(saved).cam.label_threshold == 0.35
        environment = {**os.environ, "PYTHON": "echo", "EXP": name, "CONFIG": "", "FUSION": ""}
        done = subprocess.run([ROOT / script], capture_output=True, text=True, env=environment, check=True)
    finally:
        saved.unlink(missing_ok=True)
        saved.parent.rmdir()
    expected = str(config) if trained else "configs/l2g_voc.yaml"
    assert all(f"--config {expected} name={name}" in line for line in done.stdout.splitlines())


def test_the_loss_beside_pasting_is_averaged_over_all_pixels() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
    labels[:, :3] = 255
    plain = multi_scale_loss([logits], labels)
    over_all = multi_scale_loss([logits], labels, over_all=True)
    torch.testing.assert_close(over_all, plain * 5 / 8)
    preset = load_schema(ROOT / "configs" / "voc12_resnet_dplv2_sa_cda.yaml", [], DeepLabConfig)
    assert (preset.train.loss, preset.solver.lr) == ("ce_all", 1e-4)
    with pytest.raises(UserError, match=r"train\.loss is ce_all, which method=plain has; method=cdl_b takes"):
        load_schema(ROOT / "configs" / "voc12_resnet_dplv2_sa_cda.yaml", ["method=cdl_b"], DeepLabConfig)


def test_weights_are_found_where_published_programs_keep_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pretrained").mkdir()
    torch.save({"a": torch.ones(1)}, "pretrained/init.pth")
    assert read_weights("models/init.pth")["a"] == 1
    with pytest.raises(UserError, match=r"weight file models/other\.pth does not exist"):
        read_weights("models/other.pth")
    Path("models").mkdir()
    torch.save({"a": torch.zeros(1)}, "models/init.pth")
    assert read_weights("models/init.pth")["a"] == 0
    cfg = load_schema(ROOT / "configs" / "voc12_resnet_dplv2.yaml", [], DeepLabConfig)
    place = Path("models", cfg.exp.id, "deeplabv2_resnet101_msc", "train_aug", "checkpoint_final.pth")
    own, published = Path(cfg.exp.output_dir, place), Path("data", place)
    assert final_weights(cfg) == own
    for path in (published, own):
        path.parent.mkdir(parents=True)
        path.touch()
        assert final_weights(cfg) == path
