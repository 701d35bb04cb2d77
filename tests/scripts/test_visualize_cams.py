"""Drawing maps as a program: which files appear, from which maps, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.schema import Config
from scripts import visualize_cams
from tests.tiny_data import tiny_config
from utils.errors import UserError

MAPS = {"img_000": (0, 1), "img_001": (1,), "img_002": (2,), "img_003": (0,)}


def _config(tmp_path: Path, *overrides: str) -> Config:
    cfg = tiny_config(tmp_path, "view.workers=1", *overrides)
    folder = Path(cfg.view.cam_dir)
    folder.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 255, 48).astype(np.uint8)[None].repeat(40, axis=0)
    for name, classes in MAPS.items():
        for k in classes:
            Image.fromarray(ramp).save(folder / f"{name}_{k}.png")
    return cfg


def _names(cfg: Config) -> set[str]:
    return {path.name for path in Path(cfg.view.out_dir).iterdir()}


def test_every_map_in_the_folder_is_drawn(tmp_path: Path) -> None:
    cfg = _config(tmp_path)
    assert visualize_cams.run(cfg) == list(MAPS)
    per_class = {f"{name}_{k}.png" for name, classes in MAPS.items() for k in classes}
    assert _names(cfg) == per_class | {f"{name}.png" for name in MAPS} | {"overview.png"}
    assert Image.open(Path(cfg.view.out_dir) / "img_000_1.png").size[1] == 40


def test_a_list_and_a_limit_choose_images(tmp_path: Path) -> None:
    assert visualize_cams.run(_config(tmp_path, "view.limit=2")) == ["img_000", "img_002"]
    chosen = tmp_path / "mine.txt"
    chosen.write_text("img_003\nimg_001\n")
    cfg = _config(tmp_path, f"view.ids={chosen}", "view.overview=0", f"view.out_dir={tmp_path / 'other'}")
    assert visualize_cams.run(cfg) == ["img_003", "img_001"]
    assert _names(cfg) == {"img_003.png", "img_003_0.png", "img_001.png", "img_001_1.png"}


def test_published_style_writes_bare_maps(tmp_path: Path) -> None:
    cfg = _config(tmp_path, "view.style=published")
    visualize_cams.run(cfg)
    assert _names(cfg) == {f"{name}_{k}.png" for name, classes in MAPS.items() for k in classes}
    picture = np.array(Image.open(Path(cfg.view.out_dir) / "img_002_2.png"))
    assert picture.shape == (40, 48, 3)
    assert picture[0, 0].tolist() == [0, 0, 128] and picture[0, -1].tolist() == [128, 0, 0]  # jet's ends


def test_what_cannot_be_drawn_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="view.colormap is 'none_such'"):
        visualize_cams.run(_config(tmp_path, "view.colormap=none_such"))
    with pytest.raises(UserError, match="whose maps would be lost"):
        visualize_cams.run(_config(tmp_path, f"view.out_dir={tmp_path / 'run' / 'ms' / 'attention'}"))
    with pytest.raises(UserError, match=r"holds no map of 'img_005' of .* \(1 such images\)"):
        (tmp_path / "list.txt").write_text("img_001\nimg_005\n")
        visualize_cams.run(_config(tmp_path, f"view.ids={tmp_path / 'list.txt'}"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no <id>_<class>.png; run scripts.make_cams first"):
        visualize_cams.run(tiny_config(tmp_path, f"view.cam_dir={tmp_path / 'empty'}"))
    with pytest.raises(UserError, match="view.opacity is 2"):
        _config(tmp_path, "view.opacity=2")
