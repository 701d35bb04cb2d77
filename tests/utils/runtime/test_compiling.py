"""torch.compile in the programs; the compiled code itself is torch's, so a backend that counts stands for inductor."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deeplab import predict as deeplab_test
from deeplab import train as deeplab_train
from deeplab.outputs import FINAL, models_dir
from scripts import make_cams
from scripts.build import build_inference_network
from tests.deeplab.tiny_deeplab import tiny_deeplab
from tests.tiny_data import tiny_config, write_tiny_voc
from utils.data.images import read_cam
from utils.errors import UserError
from utils.runtime.device import compile_in_place
from utils.training.weights import published_state


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Return a list that gets an entry (number of operations) for each code compiled."""
    sizes: list[int] = []

    def count(graph: Any, _inputs: Any) -> Any:
        sizes.append(len(graph.graph.nodes))
        return graph

    torch._dynamo.reset()
    monkeypatch.setattr("utils.runtime.device.BACKEND", count)
    yield sizes
    torch._dynamo.reset()


def _cams(folder: str) -> dict[str, np.ndarray]:
    return {path.name: read_cam(path).astype(int) for path in Path(folder).glob("*.png")}


def test_cam_inference_compiles_one_code_for_all_sizes(tmp_path: Path, compiled: list[int]) -> None:
    write_tiny_voc(tmp_path / "data", images=3)
    path = tmp_path / "data" / "JPEGImages" / "img_001.jpg"
    Image.open(path).resize((56, 36)).save(path)
    checkpoint = tmp_path / "net.pth"
    # Fewer than 16 channels take another way (models/pointwise.py) at some sizes.
    common = (f"cam.checkpoint={checkpoint}", "cam.scales=[0.5,1.0]", "cam.label_dir=", "model.width=0.25")
    plain = tiny_config(tmp_path, *common)
    network = build_inference_network(plain)
    torch.save(published_state(network), checkpoint)
    make_cams.run(plain)
    assert not compiled
    fast = tiny_config(tmp_path, *common, f"run_dir={tmp_path / 'fast'}", "compile=true")
    make_cams.run(fast)
    assert len(compiled) == 1 and compiled[0] > 38
    one, other = _cams(plain.cam.dir), _cams(fast.cam.dir)
    assert one.keys() == other.keys()
    assert max(np.abs(one[name] - other[name]).max() for name in one) <= 1


def test_segmentation_compiles_a_code_for_each_training_scale_and_not_for_each_test_size(
    tmp_path: Path, compiled: list[int]
) -> None:
    # 3 of 6 images: no smaller last batch.
    common = (
        "solver.batch_size.train=3", "solver.iter_max=2", "solver.lr=1e-4", "model.name=DeepLabV2_ResNet101_MSC",
        "model.n_blocks=[1,1,1,1]", "model.freeze_bn=true",
    )  # fmt: skip
    plain, fast = (
        tiny_deeplab(tmp_path, "exp.id=plain", *common),
        tiny_deeplab(tmp_path, "exp.id=fast", *common, "compile=true"),
    )
    for cfg in (plain, fast):
        deeplab_train.run(cfg)
    assert len(compiled) == 1 + len(fast.model.msc_scales)
    weights = [torch.load(models_dir(cfg) / FINAL, weights_only=True) for cfg in (plain, fast)]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-5)
    compiled.clear()
    for index, size in enumerate([(56, 40), (48, 64), (72, 56)]):
        for path in (tmp_path / "data").glob(f"*/img_{index:03d}.*"):
            Image.open(path).resize(size, Image.Resampling.NEAREST).save(path)
    assert deeplab_test.run(fast)["Mean IoU"] == pytest.approx(deeplab_test.run(plain)["Mean IoU"], abs=0.01)
    assert len(compiled) <= 4  # of 8 sizes; torch convolves the smallest in ways of their own, real ones take 1 or 2


def test_without_a_compiler_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"no no-such-compiler.*compile=false"):
        compile_in_place(torch.nn.Identity(), torch.device("cpu"), sizes_vary=False)
