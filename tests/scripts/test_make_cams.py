"""CAM inference as a program: published numbers, skipping, sharding, bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from configs.schema import Config
from scripts import make_cams
from scripts import train as train_l2g
from scripts.build import build_inference_network, load_config
from tests.golden_weights import values
from tests.tiny_data import tiny_config, write_tiny_voc
from utils.config import save_config
from utils.data.classes import palette
from utils.data.images import read_cam, read_label_map
from utils.data.lists import read_label_list
from utils.errors import UserError
from utils.runtime.cards import read_cards
from utils.training.weights import published_state

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "msf_cam_merge.npz"


def _ready(tmp_path: Path, *overrides: str) -> Config:
    """Return a tiny configuration whose checkpoint exists, with random weights."""
    cfg = tiny_config(tmp_path, f"cam.checkpoint={tmp_path / 'net.pth'}", "cam.scales=[0.5,1.0]", *overrides)
    checkpoint = tmp_path / "net.pth"
    if not checkpoint.exists():
        torch.manual_seed(0)
        network = build_inference_network(cfg)
        torch.save(published_state(network), checkpoint)
    return cfg


def _cams(folder: str | Path) -> dict[str, np.ndarray]:
    return {path.name: read_cam(path) for path in sorted(Path(folder).glob("*.png"))}


def _expected_names(cfg: Config) -> set[str]:
    labels = read_label_list(cfg.data.infer_list, cfg.data.num_classes)
    return {f"{image_id}_{k}.png" for image_id, classes in labels.items() for k in classes}


def _equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _start(cfg: Config, path: Path, **environment: str) -> "subprocess.Popen[str]":
    save_config(cfg, path)
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.make_cams", "--config", str(path)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _golden_state(cfg: Config) -> dict[str, torch.Tensor]:
    """Return the fixture's weights under their published names (the network itself takes no memory here)."""
    with torch.device("meta"):
        network = build_inference_network(cfg)
    return {
        key: torch.from_numpy(values(key, tuple(value.shape))) if value.is_floating_point() else torch.tensor(0)
        for key, value in published_state(network).items()
    }


def test_whole_program_gives_the_published_cams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full-width ResNet-38 with the fixture's weights, images on disk, PNGs read back."""
    with np.load(GOLDEN) as file:
        golden = dict(file)
    classes = {"2007_000001": (3, 14), "2007_000002": (0,)}
    (tmp_path / "JPEGImages").mkdir()
    for image_id in classes:  # PNG content under the expected name: JPEG would lose bits
        Image.fromarray(golden[f"img_{image_id}"]).save(tmp_path / "JPEGImages" / f"{image_id}.jpg", format="PNG")
    lines = [" ".join([image_id, *map(str, present)]) for image_id, present in classes.items()]
    (tmp_path / "train_cls.txt").write_text("\n".join(lines))
    cfg = load_config(
        ROOT / "configs" / "l2g_voc.yaml",
        [f"data.root={tmp_path}", f"run_dir={tmp_path}", "data.workers=0", "device=cpu", f"cam.checkpoint={tmp_path}/net.pth"],
    )
    # Without half a gigabyte written and read again; reading checkpoints has its own tests.
    Path(cfg.cam.checkpoint).write_bytes(b"stands for the weights")
    monkeypatch.setattr(make_cams, "read_weights", lambda path, network: _golden_state(cfg))
    result = make_cams.run(cfg)
    assert result["cams_written"] == 3
    for image_id, present in classes.items():
        for k in present:
            found = read_cam(Path(cfg.cam.dir) / f"{image_id}_{k}.png").astype(int)
            assert np.abs(found - golden[f"real_png_{image_id}_{k}"].astype(int)).max() <= 1
        labels = read_label_map(Path(cfg.cam.label_dir) / f"{image_id}.png", cfg.data.num_classes)
        assert (labels != golden[f"real_pred_{image_id}"]).mean() <= 0.002


def test_writes_what_it_says_and_skips_what_is_finished(tmp_path: Path) -> None:
    cfg = _ready(tmp_path)
    first = make_cams.run(cfg)
    before = _cams(cfg.cam.dir)
    assert set(before) == _expected_names(cfg)
    assert {p.stem for p in Path(cfg.cam.label_dir).glob("*.png")} == set(read_label_list(cfg.data.infer_list, 3))
    with Image.open(Path(cfg.cam.label_dir) / "img_000.png") as labels:
        assert labels.mode == "P" and bytes(labels.getpalette() or []).startswith(palette()[:12])
    assert (first["images"], first["done"], first["skipped"]) == (6, 6, 0)
    assert 0 < first["loader_wait"] < 1
    assert json.loads((Path(cfg.cam.dir).parent / "infer.json").read_text()) == first
    assert (Path(cfg.cam.dir).parent / "infer.yaml").exists()
    (card,) = read_cards(Path(cfg.run_dir))
    assert (card.key, card.images, card.seconds) == ("cams_train", 6, first["seconds"])
    gone = sorted(Path(cfg.cam.dir).glob("*.png"))[0]
    gone.unlink()
    kept = sorted(Path(cfg.cam.dir).glob("*.png"))[-1]
    os.utime(kept, (1, 1))
    assert (again := make_cams.run(cfg))["done"] == 1
    assert again["skipped"] == 5
    assert kept.stat().st_mtime == 1
    assert make_cams.run(_ready(tmp_path, "cam.overwrite=true"))["done"] == 6
    assert _equal(before, _cams(cfg.cam.dir))


def test_what_cannot_be_read_is_made_again_and_leftovers_go(tmp_path: Path) -> None:
    cfg = _ready(tmp_path, f"cam.refine_dir={tmp_path / 'refine'}")
    make_cams.run(cfg)
    before, folders = _cams(cfg.cam.dir), [Path(cfg.cam.dir), Path(cfg.cam.label_dir), Path(cfg.cam.refine_dir)]
    cam, label, maps = (sorted(path for path in folder.iterdir() if path.suffix in (".png", ".npz")) for folder in folders)
    cam[0].write_bytes(cam[0].read_bytes()[:-9])
    label[2].write_bytes(b"")
    maps[4].write_bytes(maps[4].read_bytes()[:-9])
    for folder in folders:
        (folder / ".img_000.7-0f.tmp.png").touch()
    assert make_cams.run(cfg)["done"] == 3
    assert _equal(before, _cams(cfg.cam.dir))
    assert make_cams.run(cfg)["done"] == 0
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_a_finished_pipeline_can_be_repeated(tmp_path: Path) -> None:
    """Training and inference, both twice, and also where the weights were deleted in between or moved to other hands."""
    cfg = tiny_config(tmp_path, "train.epochs=1", "train.resume=auto")
    assert train_l2g.run(cfg) == 0
    assert make_cams.run(cfg)["done"] == 6
    final = Path(cfg.cam.checkpoint)
    before = final.stat().st_mtime_ns
    assert train_l2g.run(cfg) == 0
    assert final.stat().st_mtime_ns == before
    assert make_cams.run(cfg)["done"] == 0
    final.unlink()
    assert train_l2g.run(cfg) == 0
    assert make_cams.run(cfg)["done"] == 0


def test_maps_for_refinement_are_written_on_request(tmp_path: Path) -> None:
    plain = _ready(tmp_path)
    make_cams.run(plain)
    before = _cams(plain.cam.dir)
    cfg = _ready(tmp_path, f"cam.refine_dir={tmp_path / 'refine'}", "cam.scales=[0.5,1.0]", "cam.overwrite=true")
    assert make_cams.run(cfg)["done"] == 6
    classes = read_label_list(cfg.data.infer_list, 3)
    for name, present in classes.items():
        with np.load(tmp_path / "refine" / f"{name}.npz", allow_pickle=False) as maps:
            assert tuple(maps["classes"]) == present and tuple(maps["labels"]) == (0, *(k + 1 for k in present))
            assert maps["high_res"].shape == (len(present), 40, 48) and maps["cam"].shape == (len(present), 10, 12)
            assert maps["high_res"].min() >= 0 and maps["high_res"].max() <= 1
    (tmp_path / "refine" / "img_001.npz").unlink()
    again = _ready(tmp_path, f"cam.refine_dir={tmp_path / 'refine'}", "cam.scales=[0.5,1.0]")
    assert make_cams.run(again)["done"] == 1
    assert set(before) == set(_cams(cfg.cam.dir))


def test_batches_of_one_size_give_the_same_cams(tmp_path: Path) -> None:
    write_tiny_voc(tmp_path / "data", images=5, size=(48, 40))
    lines = (tmp_path / "data" / "train_cls.txt").read_text()
    for index in (1, 3):  # two images of another size in between
        path = tmp_path / "data" / "JPEGImages" / f"img_{index:03d}.jpg"
        Image.open(path).resize((40, 56)).save(path)
    assert len(lines.splitlines()) == 5
    single, batched = (
        _ready(tmp_path),
        _ready(tmp_path, f"run_dir={tmp_path / 'batched'}", "cam.batch_size=3", "data.workers=1"),
    )
    make_cams.run(single)
    make_cams.run(batched)
    one, other = _cams(single.cam.dir), _cams(batched.cam.dir)
    assert one.keys() == other.keys()
    assert max(np.abs(one[name].astype(int) - other[name].astype(int)).max() for name in one) <= 1


def test_two_processes_share_the_list(tmp_path: Path) -> None:
    alone, shared = _ready(tmp_path), _ready(tmp_path, f"run_dir={tmp_path / 'shared'}")
    expected = make_cams.run(alone)
    settings = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29611"}
    ranks = [_start(shared, tmp_path / f"{r}.yaml", RANK=str(r), LOCAL_RANK=str(r), **settings) for r in (0, 1)]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    result = json.loads((Path(shared.cam.dir).parent / "infer.json").read_text())
    assert {k: result[k] for k in ("images", "done", "cams_written")} == {
        k: expected[k] for k in ("images", "done", "cams_written")
    }
    assert _equal(_cams(alone.cam.dir), _cams(shared.cam.dir))


def test_single_scale_without_mirroring(tmp_path: Path) -> None:
    cfg = _ready(tmp_path, "cam.scales=[1.0]", "cam.flip=false", "cam.label_dir=")
    make_cams.run(cfg)
    assert set(_cams(cfg.cam.dir)) == _expected_names(cfg)
    assert not (Path(cfg.run_dir) / "cam_png").exists()


def test_classes_are_predicted_for_images_without_labels(tmp_path: Path) -> None:
    cfg = _ready(tmp_path, "cam.labels=predict", "cam.score_threshold=1")
    ids = list(read_label_list(cfg.data.infer_list, 3))
    Path(cfg.data.infer_list).write_text("\n".join(ids))
    assert make_cams.run(cfg)["cams_written"] == len(ids)  # nothing exceeds 1: the most probable class alone
    everything = _ready(tmp_path, "cam.labels=predict", "cam.score_threshold=0", "cam.overwrite=true")
    assert make_cams.run(everything)["cams_written"] == 3 * len(ids)
    back = _ready(tmp_path, "cam.labels=predict", "cam.score_threshold=1", "cam.overwrite=true")
    make_cams.run(back)
    assert len(_cams(cfg.cam.dir)) == len(ids)  # the other classes' files are gone
    assert make_cams.run(cfg)["skipped"] == len(ids)


def test_cams_of_another_checkpoint_are_not_kept_silently(tmp_path: Path) -> None:
    cfg = _ready(tmp_path)
    make_cams.run(cfg)
    state = torch.load(cfg.cam.checkpoint, weights_only=True)
    state["fc8.weight"] += 1
    torch.save(state, cfg.cam.checkpoint)
    with pytest.raises(UserError, match=r"another checkpoint .*cam\.overwrite=true"):
        make_cams.run(cfg)
    with pytest.raises(UserError, match="another checkpoint"):
        make_cams.run(_ready(tmp_path, "cam.scales=[1.0]"))


def test_weights_that_are_not_finite_make_no_cams(tmp_path: Path) -> None:
    """They would all be empty, without an error."""
    cfg = _ready(tmp_path)
    state = torch.load(cfg.cam.checkpoint, weights_only=True)
    state["fc8.weight"][0] = float("nan")
    torch.save(state, cfg.cam.checkpoint)
    with pytest.raises(UserError, match=r"NaN or infinite values in 1 of \d+ entries \(fc8.weight\)"):
        make_cams.run(cfg)
    assert not list(Path(cfg.cam.dir).glob("*.png"))


@pytest.mark.parametrize(("first", "second"), [("relu", "softmax"), ("softmax", "relu")])
def test_cams_read_by_another_activation_are_not_kept_silently(tmp_path: Path, first: str, second: str) -> None:
    cfg = _ready(tmp_path, f"cam.activation={first}")
    make_cams.run(cfg)
    with pytest.raises(UserError, match=r"another activation .*cam\.overwrite=true"):
        make_cams.run(_ready(tmp_path, f"cam.activation={second}"))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_truncated_image_is_named(tmp_path: Path, workers: int, batch_size: int) -> None:
    cfg = _ready(tmp_path, f"data.workers={workers}", f"cam.batch_size={batch_size}")
    path = tmp_path / "data" / "JPEGImages" / "img_002.jpg"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UserError, match=r"img_002\.jpg") as caught:
        make_cams.run(cfg)
    assert "\n" not in str(caught.value)


def test_wrong_input_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    cfg = _ready(tmp_path, "data.workers=1")
    path = tmp_path / "data" / "JPEGImages" / "img_000.jpg"
    path.write_bytes(path.read_bytes()[:400])
    process = _start(cfg, tmp_path / "cfg.yaml")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert [line for line in errors.splitlines() if line.startswith("error: ")] == [errors.strip().splitlines()[-1]]
    assert "img_000.jpg" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.num_classes=4", "num_classes"),
        ("cam.checkpoint=nowhere.pth", r"nowhere\.pth"),
        ("cam.network=local", "local"),
        ("data.infer_list=nowhere.txt", r"nowhere\.txt"),
        ("cam.label_threshold=25", r"cam\.label_threshold is 25"),
        ("cam.activation=softmax train.classify_epochs=2", r"never learned .* set cam\.activation=relu"),
        ("cam.activation=softmax cam.network=local", r"the local network \(l2g\.background_row=compete\)"),
        ("cam.label_dir=${data.root}/${data.label_dir}", r"data\.label_dir"),
    ],
)
def test_wrong_settings_get_one_sentence(tmp_path: Path, override: str, message: str) -> None:
    _ready(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        make_cams.run(_ready(tmp_path, *override.split()))
    assert "\n" not in str(caught.value)


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    from utils.files import lock_folder

    cfg = _ready(tmp_path)
    with lock_folder(Path(cfg.cam.dir)), pytest.raises(UserError, match="in use"):
        make_cams.run(cfg)


@pytest.mark.parametrize(("kind", "writes"), [(Path, "write_bytes"), (Image.Image, "save")])  # maps, label maps
def test_writing_failure_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, writes: str) -> None:
    def full(*arguments: Any, **named: Any) -> int:
        raise OSError(28, "No space left on device")

    cfg = _ready(tmp_path)
    monkeypatch.setattr(kind, writes, full)
    with pytest.raises(UserError, match=r"img_00\d.*No space left"):
        make_cams.run(cfg)


def test_bf16_moves_cams_of_a_trained_network_by_three_levels_at_most_on_average(tmp_path: Path) -> None:
    """Untrained networks differ more: they amplify what is rounded in their first layers (see benchmarks/README.md)."""
    settings = (
        "model.freeze_bn=false",
        "model.freeze_stem=false",
        "train.epochs=12",
        "train.classify_epochs=12",
        "train.optimizer=adamw",
        "train.lr=0.003",
        "train.lr_head_factor=1",
        "l2g.color_jitter=[0,0,0,0]",
        "cam.scales=[1.0,1.5]",
    )
    train_l2g.run(tiny_config(tmp_path, *settings))
    cams = []
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision / "cams"
        make_cams.run(tiny_config(tmp_path, *settings, f"precision={precision}", f"cam.dir={folder}"))
        cams.append(np.stack([cam.astype(int) for cam in _cams(folder).values()]))
    difference = np.abs(cams[0] - cams[1])
    assert difference.max() > 0  # bf16 was on
    assert difference.mean() <= 3  # 2.4 where bf16 is emulated


def test_highest_classes_at_the_networks_size_with_all_scores(tmp_path: Path) -> None:
    """What localisation takes: the maps of the listed and of the most probable classes, coarse, and the scores of all."""
    coarse = ("cam.format=npz", "cam.size=network", "cam.label_dir=", "cam.scales=[1.0]", "cam.top=2")
    cfg = _ready(tmp_path, *coarse)
    make_cams.run(cfg)
    listed = read_label_list(cfg.data.infer_list, cfg.data.num_classes)
    for image_id, classes in listed.items():
        with np.load(Path(cfg.cam.dir) / f"{image_id}.npz") as file:
            best = np.argsort(-file["scores"])[:2].tolist()
            assert file["classes"].tolist() == sorted({*classes, *best})
            assert file["scores"].shape == (cfg.data.num_classes,)
            height, width = file["cam"].shape[1:]
        assert height < 40 and width < 48  # of the picture's pixels
    with pytest.raises(UserError, match="top"):
        make_cams.run(_ready(tmp_path, *coarse[:4], "cam.top=1"))
    with pytest.raises(UserError, match="cam.size=network is for cam.merge=max and no label maps"):
        _ready(tmp_path, "cam.size=network")
