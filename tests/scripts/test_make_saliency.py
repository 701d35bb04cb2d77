"""Saliency maps from a tiny ONNX model made here, and from a stand-in for rembg."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.schema import Config
from scripts.make_saliency import main, run
from tests.tiny_data import tiny_config
from utils.config import save_config
from utils.data.images import read_saliency
from utils.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SIDE = 16


def write_model(path: Path, *, side: int | str = SIDE, scale: float = 1.0, channels: int = 1) -> Path:
    """Write a network whose map is `scale` times the red channel: a 1x1 convolution."""
    weight = np.zeros((channels, 3, 1, 1), np.float32)
    weight[:, 0] = scale
    node = onnx.helper.make_node("Conv", ["picture", "weight"], ["map"])
    other = onnx.helper.make_node("Relu", ["map"], ["other"])
    shapes = [("picture", [1, 3, side, side]), ("map", [1, channels, side, side]), ("other", [1, channels, side, side])]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes]
    graph = onnx.helper.make_graph(
        [node, other], "tiny", values[:1], values[1:], [onnx.numpy_helper.from_array(weight, "weight")]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """The tiny set without its saliency maps; the left half of img_000 is red."""
    cfg = tiny_config(tmp_path, f"saliency.model={write_model(tmp_path / 'red.onnx')}", "saliency.workers=1")
    root = Path(cfg.data.root)
    for path in (root / "Sal").iterdir():
        path.unlink()
    picture = np.zeros((40, 48, 3), np.uint8)
    picture[:, :24, 0] = 200
    Image.fromarray(picture).save(root / "JPEGImages" / "img_000.jpg", quality=100)
    return cfg


def _map(cfg: Config, image_id: str = "img_000") -> Any:
    return np.asarray(read_saliency(Path(cfg.data.root, "Sal", f"{image_id}.png"), (48, 40)), np.float32)


def test_maps_of_every_picture_of_the_list(cfg: Config) -> None:
    assert run(cfg) == 6
    found = _map(cfg)
    assert found[:, :20].min() > 250 and found[:, 28:].max() < 5
    assert sorted(p.name for p in Path(cfg.data.root, "Sal").glob("*.png")) == [f"img_{i:03d}.png" for i in range(6)]


def test_a_stopped_run_continues_and_overwrite_starts_anew(cfg: Config, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (48, 40), 7).save(Path(cfg.data.root, "Sal", "img_000.png"))
    assert run(cfg) == 5
    assert "1 were there" in capsys.readouterr().out
    assert (_map(cfg) == 7).all()
    cfg.saliency.overwrite = True
    assert run(cfg) == 6
    assert _map(cfg).max() > 250


def test_settings_of_the_network(cfg: Config, tmp_path: Path) -> None:
    # An open input size, no stretching, values known by hand: 200 / 255 = 0.784 -> 200.
    cfg.saliency.model = str(write_model(tmp_path / "open.onnx", side="side"))
    cfg.saliency.input_size, cfg.saliency.stretch, cfg.saliency.divide = 48, False, "255"
    cfg.saliency.mean, cfg.saliency.std = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    run(cfg)
    assert abs(_map(cfg)[:, :20].mean() - 200) < 2
    cfg.saliency.sigmoid, cfg.saliency.overwrite, cfg.saliency.output = True, True, 1
    run(cfg)
    assert abs(_map(cfg)[:, :20].mean() - 255 / (1 + np.exp(-200 / 255))) < 2
    assert abs(_map(cfg)[:, 28:].mean() - 127.5) < 2


def test_all_pictures_and_several_processes(cfg: Config) -> None:
    Path(cfg.data.train_list).write_text("img_001 0\n")
    assert run(cfg) == 1
    one = _map(cfg, "img_001")
    cfg.saliency.image_list, cfg.saliency.workers, cfg.saliency.overwrite = "all", 2, True
    assert run(cfg) == 6
    np.testing.assert_array_equal(_map(cfg, "img_001"), one)


def test_rembg(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def new_session(name: str) -> str:
        if name != "u2net":
            raise ValueError(f"no model {name}")
        return name

    def remove(image: Image.Image, session: str, only_mask: bool) -> Image.Image:
        assert session == "u2net" and only_mask
        return image.getchannel("R")

    stand_in = types.SimpleNamespace(new_session=new_session, remove=remove)
    monkeypatch.setitem(sys.modules, "rembg", stand_in)
    cfg.saliency.model = "rembg:u2net"
    assert run(cfg) == 6
    assert abs(_map(cfg)[:, :20].mean() - 200) < 5
    cfg.saliency.model = "rembg:none"
    with pytest.raises(UserError, match="rembg has no model 'none'"):
        run(cfg)


def test_bad_input_is_one_sentence(cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    write_model(tmp_path / "three.onnx", channels=3)
    write_model(tmp_path / "nan.onnx", scale=float("nan"))
    for model, message in (
        ("", "saliency.model is empty"),
        ("none.onnx", "none.onnx does not exist"),
        (str(tmp_path / "text.onnx"), "is no ONNX file that can run here"),
        (str(tmp_path / "three.onnx"), "expected one map"),
        (str(tmp_path / "nan.onnx"), "not finite"),
    ):
        cfg.saliency.model = model
        with pytest.raises(UserError, match=message):
            run(cfg)
    for library, model in (("onnxruntime", "x.onnx"), ("rembg", "rembg:u2net")):
        monkeypatch.setitem(sys.modules, library, None)
        cfg.saliency.model = model
        with pytest.raises(UserError, match=f"python -m pip install '?{library}"):
            run(cfg)


def test_a_linked_saliency_folder_is_not_written_to(cfg: Config, tmp_path: Path) -> None:
    folder = Path(cfg.data.root, "Sal")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link to"):
        run(cfg)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_command_line(cfg: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_config(cfg, tmp_path / "config.yaml")
    main(["--config", str(tmp_path / "config.yaml"), "saliency.image_list=all"])
    assert "6 saliency maps made" in capsys.readouterr().out
