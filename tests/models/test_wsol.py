"""TS-CAM and CRT for localisation against the published program: names, maps, losses, gradients, rates; a run of both."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from models.crt import CnnBranch, Refinement, TransformerBranch
from models.crt_wsol import CrtWsol
from models.layers.vit import Block
from models.method import Batch
from models.tscam import WsolSettings
from scripts import evaluate_boxes, make_cams
from scripts import train as training
from scripts.build import load_config, parse_args
from tests.golden_weights import filled_branches
from tests.tiny_data import CLASSES, tiny_config, write_tiny_voc
from utils.data.lists import read_label_list
from utils.errors import UserError
from utils.training.optim import Schedule, SideBySide, build_optimizer, set_learning_rate

GOLDEN = Path(__file__).parents[1] / "golden" / "crt"
PUBLISHED = ["data.class_names=[" + ",".join(f"bird{k}" for k in range(200)) + "]", "crt_wsol.vit.drop_path=0"]


@pytest.fixture(scope="module")
def method() -> CrtWsol:
    """Both networks with the recipe's weights; of names for the same tensor the first counts."""
    return filled_branches(CrtWsol, load_config("configs/wsol_cub.yaml", PUBLISHED))


@pytest.mark.parametrize(("kind", "name"), [("transformer", "deits_tscam"), ("cnn", "resnet50_cam")])
def test_keys_and_shapes_are_the_published_ones(method: CrtWsol, kind: str, name: str) -> None:
    network = cast(TransformerBranch | CnnBranch, getattr(method, kind))
    found = {key: list(value.shape) for key, value in network.to_published(network.state_dict()).items()}
    assert found == json.loads((GOLDEN / f"state_dict_wsol_{name}_cub.json").read_text())


def _images(golden: Any) -> torch.Tensor:
    drawn = np.random.RandomState(int(golden["input_seed"])).standard_normal((2, 3, 224, 224))  # noqa: NPY002
    return torch.from_numpy(drawn.astype(np.float32))


@torch.no_grad()
def test_published_maps_for_localisation(method: CrtWsol) -> None:
    golden = np.load(GOLDEN / "wsol_model.npz")
    maps, logits = method.transformer.eval()(_images(golden))
    cams = maps[:, :-1].clamp_min(0)
    np.testing.assert_allclose(logits, golden["eval_logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(cams[:, ::10], golden["eval_cams_slice"], rtol=0, atol=1e-4)
    assert float(cams.double().sum()) == pytest.approx(golden["eval_cams_stats"][0], rel=1e-5)


@pytest.mark.parametrize("bound", [False, True])
def test_published_training_step(method: CrtWsol, bound: bool) -> None:
    golden, settings = np.load(GOLDEN / "wsol_model.npz"), cast(WsolSettings, method.cfg.settings)
    labels = nn.functional.one_hot(torch.from_numpy(golden["target"]), 200).float()
    method.zero_grad(set_to_none=True)
    batch: Batch = {"images": _images(golden), "labels": labels}
    output = Refinement(method.transformer, method.cnn, settings, bound=bound).train()(batch)
    np.testing.assert_allclose(output["scores"], golden["train_logits_vit"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(output["views"]["vit_map"][0, ::20], golden["train_map_vit_slice"][0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(output["views"]["cnn_map"][0, ::20], golden["train_map_cnn_slice"][0], rtol=0, atol=1e-3)
    expected = dict(zip(("cls_vit", "cls_cnn", "l1"), golden["losses"], strict=True))
    for name, value in output["losses"].items():
        assert float(value) == pytest.approx(expected[name], rel=1e-4), name
    output["loss"].backward()
    for network, branch in ((method.cnn, "cnn"), (method.transformer, "vit")):
        parameters = dict(cast(nn.Module, network).named_parameters())
        norms = golden[f"gradnorm_{branch}_{'mutual' if bound else 'base'}"]
        for name, norm in zip(golden[f"names_{branch}"], norms, strict=True):
            gradient = parameters[next(iter(network.from_published({str(name): torch.zeros(1)})))].grad
            found = np.nan if gradient is None else float(gradient.norm())
            assert found == pytest.approx(norm, rel=1e-3, nan_ok=True), name


def test_published_rates_and_epochs_of_the_l1_term() -> None:
    golden, cfg = np.load(GOLDEN / "wsol_lr.npz"), load_config("configs/wsol_cub.yaml", PUBLISHED)
    with torch.device("meta"):
        phases = CrtWsol(cfg).phases()
    assert [(phase.start, phase.end) for phase in phases[:3]] == [(0, 4), (4, 9), (9, 14)]
    bound = [phase.name.startswith("refinement") for phase in phases for _ in range(phase.end - phase.start)]
    np.testing.assert_array_equal(bound, golden["mutual_loss_on"])
    schedule = Schedule("step", epochs=cfg.train.decay_epochs, factor=cfg.train.decay_factor)
    rates = [schedule.rate(cfg.train.lr, epoch=epoch, step=0, steps=60) for epoch in range(60)]
    np.testing.assert_allclose(rates, golden["lr_by_epoch"], rtol=1e-12)


def _two_weights() -> tuple[nn.Parameter, nn.Parameter, list[dict[str, Any]]]:
    one, other = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3))
    sgd = {"lr_scale": 1.0, "optimizer": "sgd", "fixed_lr": 0.5, "momentum": 0.9, "weight_decay": 0.1}
    return one, other, [{"params": [other], **sgd}, {"params": [one], "lr_scale": 1.0}]


def test_two_optimisers_step_side_by_side_and_resume() -> None:
    def steps(count: int, state: dict[str, Any] | None = None) -> tuple[list[torch.Tensor], dict[str, Any]]:
        torch.manual_seed(0)
        one, other, groups = _two_weights()
        optimizer = build_optimizer(groups, kind="adamw", lr=0.1, weight_decay=0.05, momentum=0.0)
        assert isinstance(optimizer, SideBySide)
        assert [group["optimizer"] for group in optimizer.param_groups] == ["sgd", "adamw"]
        if state is not None:
            with torch.no_grad():
                one.copy_(state["one"])
                other.copy_(state["other"])
            optimizer.load_state_dict(state["optimizer"])
        for _ in range(count):
            (one.square().sum() + other.pow(3).sum()).backward()
            set_learning_rate(optimizer, 0.05)
            optimizer.step()
            optimizer.zero_grad()
        kept = {"one": one.detach().clone(), "other": other.detach().clone(), "optimizer": optimizer.state_dict()}
        return [one.detach(), other.detach()], kept

    whole, _ = steps(3)
    _, half = steps(1)
    resumed, _ = steps(2, half)
    apart_one, apart_other, _ = _two_weights()
    adamw = torch.optim.AdamW([apart_one], lr=0.05, weight_decay=0.05)
    sgd = torch.optim.SGD([apart_other], lr=0.5, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        (apart_one.square().sum() + apart_other.pow(3).sum()).backward()
        adamw.step()
        sgd.step()
        adamw.zero_grad()
        sgd.zero_grad()
    for found, again, apart in zip(whole, resumed, (apart_one.detach(), apart_other.detach()), strict=True):
        assert torch.equal(found, again)
        assert torch.equal(found, apart)


def test_stochastic_depth_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = Block(8, 2, drop_path=0.5)
    tokens = torch.randn(1, 4, 8)
    torch.testing.assert_close(block.eval()(tokens)[0], block(tokens)[0])
    branch = torch.ones(4000, 1, 1)
    dropped = block.train()._dropped(branch)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert float(dropped.mean()) == pytest.approx(1, abs=0.1)


FILE = """
BASIC: {SEED: 26, BACKUP_CODES: True, BACKUP_LIST: [lib, tools_cam, configs]}
MODEL: {ARCH: deit_tscam_small_patch16_224, CAM_THR: 0.1, TOP_K: 1}
DATA: {DATASET: CUB, DATADIR: data/CUB_200_2011, NUM_CLASSES: 200, RESIZE_SIZE: 256, CROP_SIZE: 224,
       IMAGE_MEAN: [0.485, 0.456, 0.406], IMAGE_STD: [0.229, 0.224, 0.225]}
TRAIN: {BATCH_SIZE: 64}
TEST: {BATCH_SIZE: 64, SAVE_BOXED_IMAGE: False, TEN_CROPS: False}
SOLVER: {START_LR: 0.0005, LR_STEPS: [30], NUM_EPOCHS: 60, LR_FACTOR: 0.1, MUMENTUM: 0.9, WEIGHT_DECAY: 0.0005}
CUDNN: {BENCHMARK: False, DETERMINISTIC: True, ENABLE: True}
"""


def test_published_files_and_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(FILE)
    ours = load_config("configs/wsol_cub.yaml")
    same = ["data.workers=8", f"train.log_every={ours.train.log_every}", f"cam.batch_size={ours.cam.batch_size}"]
    read = parse_args(["--config_file", str(file), "--lr", "5e-5", "--resume", ours.cam.checkpoint, *same], "")
    assert read == ours  # the file says what configs/wsol_cub.yaml does
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("published settings without effect here: BASIC.BACKUP_CODES, ")
    assert all(told.count(key) == 1 for key in ("SOLVER.START_LR", "SOLVER.MUMENTUM", "SOLVER.WEIGHT_DECAY", "MODEL.TOP_K"))
    pairs = ["MODEL.CAM_THR", "0.2", "SOLVER.NUM_EPOCHS", "12", "SOLVER.LR_STEPS", "[5]", "DATA.CROP_SIZE", "448"]
    changed = parse_args(["--config_file", str(file), *pairs, "TEST.SAVE_BOXED_IMAGE", "True", "train.lr=0.5"], "")
    assert (changed.boxes.threshold, changed.train.decay_epochs, changed.train.keep_epochs) == (0.2, [4, 9], [])
    assert (changed.cam.input_size, changed.boxes.size) == ([448, 448], [448, 448])
    assert (changed.train.lr, changed.boxes.vis_dir) == (0.5, "runs/wsol_cub/boxes/pictures")
    assert parse_args(["--config", "configs/wsol_cub.yaml", "MODEL.CAM_THR", "0.3"], "").boxes.threshold == 0.3
    assert parse_args(["--config_file", str(file)], "").train.lr == 0.0005  # that of --lr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL.CAM_THRESHOLD", "0.1"], "published key 'MODEL.CAM_THRESHOLD' is unknown"),
        (["SOLVER.NUM_EPOCHS", "many"], "'SOLVER.NUM_EPOCHS' is 'many', expected a value of type int such as 60"),
        (["MODEL.ARCH", "deit_tscam_tiny"], "expected one of deit_tscam_small_patch16_224"),
        (["MODEL.CAM_THR"], "as a published KEY has no VALUE"),
        (["--cfg", "theirs.yaml"], "--cfg and --config_file are of different published programs"),
    ],
)
def test_published_settings_that_cannot_be(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "theirs.yaml").write_text(FILE)
    with pytest.raises(UserError, match=message):
        parse_args(["--config_file", str(tmp_path / "theirs.yaml"), *arguments], "")


@pytest.mark.parametrize("name", ["crt_wsol", "tscam"])
def test_from_training_to_boxes(tmp_path: Path, name: str) -> None:
    root = write_tiny_voc(tmp_path / "data")
    # One class an image.
    lines = [f"{image_id} {classes[0]}" for image_id, classes in read_label_list(root / "train_cls.txt", CLASSES).items()]
    (root / "train_cls.txt").write_text("\n".join(lines) + "\n")
    listed = [f"data.{key}={root / 'train_cls.txt'}" for key in ("infer_list", "eval_list", "label_list")]
    published = tmp_path / "model_epoch3.pth"
    cfg = tiny_config(tmp_path, f"method={name}", "train.epochs=3", f"cam.checkpoint={published}", *listed)
    assert training.run(cfg) == 0
    state = torch.load(Path(cfg.run_dir) / "model/final.pth", weights_only=True)
    wrapped = {f"module.{key}": value for key, value in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "best_map": np.float64(0.9)}, published)  # with a number of NumPy
    make_cams.run(cfg)
    result = evaluate_boxes.run(cfg)
    assert result["objects"] > 0
    assert set(result["at_threshold"]) >= {"cls_top1", "loc_top1", "gt_known"}
    with np.load(next(Path(cfg.cam.dir).glob("*.npz"))) as file:
        assert file["cam"].shape[1:] == (4, 4)
        assert len(file["classes"]) == CLASSES
