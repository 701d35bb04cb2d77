"""The worked examples of docs/add_a_method.md, word for word: files written as the page says, then run by the programs."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import models.backbones
import models.refiners
from configs.deeplab_schema import DeepLabConfig
from configs.schema import Config
from deeplab.network import build_deeplab
from deeplab.weights import load_initial
from scripts import compare, evaluate_cams, gen_gt, make_cams, refine_cams, report, train
from scripts.build import load_config
from tests.gpu import first_stage
from tests.tiny_data import CLASSES, tiny_config, write_tiny_voc
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add_a_method.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`([\w/.]+)`:\n\n```(?:python|yaml)\n(.*?)```", PAGE, flags=re.DOTALL))


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files in a folder of their own that stands beside the program's packages."""
    before = set(sys.modules)
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for package in (models, importlib.import_module("models.backbones"), importlib.import_module("models.refiners")):
        inside = tmp_path.joinpath(*package.__name__.split("."))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(inside)])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("models."):
            del sys.modules[name]


def _config(house: Path, name: str, *overrides: str) -> Config:
    root = write_tiny_voc(house / "data")
    tiny = [
        f"run_dir={house / name}",
        f"data.root={root}",
        f"data.num_classes={CLASSES}",
        "data.class_names=[red,green,blue]",
        "device=cpu",
        "train.epochs=2",
        "train.batch_size=2",
        "train.log_every=1",
        "train.images_every=1",
        "toy.input_size=32",
        "toy.short_side=40",
        "model.width=0.0625",
        "eval.workers=1",
        "pseudo.workers=1",
    ]
    return load_config(house / "configs" / "toy.yaml", [*tiny, *overrides])


def test_a_single_stage_method_is_one_file_and_one_yaml(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        cfg = _config(house, f"toy_{seed}", f"seed={seed}")
        assert train.run(cfg) == 0
        assert make_cams.run(cfg)["cams_written"] > 0
        assert 0 <= evaluate_cams.run(cfg)["best"]["mean_iou"] <= 1
        assert gen_gt.run(cfg)["images"] == 6
    checkpoint = torch.load(house / "toy_0" / "model" / "last.pth", weights_only=True)
    assert "local_dict" not in checkpoint
    assert {group["lr_scale"] for group in checkpoint["optimizer"]["param_groups"]} == {1.0}
    report.main(["--run", str(house / "toy_0"), "--run", str(house / "toy_1")])
    page = (house / "toy_0" / "report" / "index.html").read_text(encoding="utf-8")
    assert "toy" in page and "Pseudo labels" in page
    compare.main([str(house / "toy_0"), str(house / "toy_1")])
    assert "±" in capsys.readouterr().out  # two seeds of one setting are one row


def test_the_method_resumes_exactly(house: Path) -> None:
    whole = _config(house, "whole")
    assert train.run(whole) == 0
    half = _config(house, "half", "train.keep_epochs=[0]")
    assert train.run(half) == 0
    again = _config(house, "again", f"train.resume={house / 'half' / 'model' / 'epoch_0.pth'}")
    assert train.run(again) == 0
    one, other = (torch.load(house / name / "model" / "final.pth", weights_only=True) for name in ("whole", "again"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_page_shows_nothing_else_is_needed() -> None:
    assert set(FILES) >= {"models/toy.py", "configs/toy.yaml"}
    assert not [path for path in FILES if path.startswith(("scripts/", "utils/"))]


def test_a_method_is_run_on_a_fake_gpu_by_itself(house: Path) -> None:
    assert "toy" in first_stage.methods()
    assert first_stage.preset_path("toy", house / "configs") == house / "configs" / "toy.yaml"
    first_stage.run_method(first_stage.preset_of("toy", folder=house / "configs"))


def test_a_card_of_each_stage_is_written(house: Path) -> None:
    cfg = _config(house, "cards")
    train.run(cfg)
    card = json.loads((house / "cards" / "cards" / "training.json").read_text(encoding="utf-8"))
    assert ("method", "toy") in [tuple(fact) for fact in card["facts"]]


def test_a_refiner_is_one_file_and_one_line(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, target = re.findall(r'`"(blur)": "([\w.:]+)",`', PAGE)[0]
    monkeypatch.setitem(models.refiners.REFINERS, name, target)
    cfg = _config(house, "refined", "refine.by=blur", "blur.side=9", "pseudo.refine=[blur,dense_crf]", "refine.workers=1")
    train.run(cfg)
    make_cams.run(cfg)
    assert refine_cams.run(cfg) == 6
    assert gen_gt.run(cfg)["refined"]["blur"] == {"side": 9}
    with pytest.raises(UserError, match="blur.side is 4, expected an odd number"):
        gen_gt.run(_config(house, "even", "pseudo.refine=blur", "blur.side=4"))


def test_a_trunk_is_one_file_and_one_line(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert '`"tiny_vit": lambda options: TinyVit(),`' in PAGE
    kind = importlib.import_module("models.backbones.tiny_vit").TinyVit
    monkeypatch.setitem(models.backbones.TRUNKS, "tiny_vit", lambda options: kind())
    published = {key.removeprefix("vit."): value for key, value in kind().state_dict().items()}
    assert {key.partition(".")[0] for key in published} == {"patch_embed", "blocks"}
    torch.save(published, house / "vit.pth")
    overrides = ["model.backbone=tiny_vit", "l2g.input_size=48", "l2g.crop_size=32", "train.epochs=1", "cam.scales=[1.0]"]
    weights = [f"model.pretrained={house / 'vit.pth'}", "model.allow_missing=['head.*']"]
    cfg = tiny_config(house, *overrides, *weights, "data.workers=0")
    assert train.run(cfg) == 0
    final = torch.load(Path(cfg.run_dir) / "model" / "final.pth", weights_only=True)
    assert published.keys() < final.keys()
    deeplab = DeepLabConfig()
    deeplab.model.name, deeplab.model.backbone = "DeepLabV2_Backbone_MSC", "tiny_vit"
    network = build_deeplab(deeplab)
    assert "head starts at random" in load_initial(network, house / "vit.pth", []).told
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 21, 4, 4)


def test_a_method_may_select_by_a_score(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = _config(house, "selected", "validation.image_list=${data.train_list}")
    scores = iter([0.9, 0.1])
    toy = importlib.import_module("models.toy").Toy
    monkeypatch.setattr(toy, "validation_score", lambda self, means: next(scores))
    assert train.run(cfg) == 0
    best, final = (torch.load(house / "selected" / "model" / name, weights_only=True) for name in ("best.pth", "final.pth"))
    assert best.keys() == final.keys() and any(not torch.equal(best[key], final[key]) for key in best)
