"""Stage cards: written, replaced, read back, moved, damaged."""

import json
import shutil
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.runtime.cards import LABELS, SCORED, StageCard, own_name, read_cards, set_name, write_card


def _card(key: str, order: int = SCORED, **more: object) -> StageCard:
    return StageCard(key, key.upper(), "a.program", order, "out", **more)  # type: ignore[arg-type]


def test_same_key_replaces_its_card(tmp_path: Path) -> None:
    write_card(tmp_path, _card("b", LABELS, seconds=3.0))
    write_card(tmp_path, _card("a", LABELS))
    write_card(tmp_path, _card("z", SCORED, seconds=4.04, settings={"x": 1}, facts=[("one", "two")]))
    write_card(tmp_path, _card("b", LABELS, seconds=5.04))
    cards = read_cards(tmp_path)
    assert [(card.key, card.seconds) for card in cards] == [("z", 4.0), ("a", 0.0), ("b", 5.0)]
    assert 0.001 < cards[0].peak_memory_gib < 1000
    assert cards[0].peak_gpu_memory_gib is None or cards[0].peak_gpu_memory_gib >= 0
    assert cards[0].settings == {"x": 1}
    assert read_cards(tmp_path / "nothing") == []


def test_a_card_of_files_that_are_written_over_goes(tmp_path: Path) -> None:
    write_card(tmp_path, _card("plain", maps="labels", split="train"))
    write_card(tmp_path, _card("other", maps="labels", split="val"))
    (tmp_path / "cards/damaged.json").write_text("{")
    write_card(tmp_path, _card("refined", maps="labels", split="train"))
    assert {path.stem for path in (tmp_path / "cards").iterdir()} == {"other", "refined", "damaged"}


def test_paths_follow_a_run_that_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_card("runs/a", _card("x", maps="runs/a/ms/maps", list_file="data/list.txt"))
    shutil.move("runs/a", "b")
    (card,) = read_cards(Path("b"))
    assert (card.maps, card.list_file) == ("b/ms/maps", str(tmp_path / "data/list.txt"))


def test_experiments_in_one_folder_keep_their_cards(tmp_path: Path) -> None:
    for name in ("one/net", "two/net"):
        write_card(tmp_path, _card("x", maps=str(tmp_path / name)), group=name)
    assert [(card.key, card.maps) for card in read_cards(tmp_path)] == [
        ("x", str(tmp_path / "one/net")), ("x_2", str(tmp_path / "two/net"))
    ]  # fmt: skip


DAMAGED = {"mean_iou": "much", "confusion": [[1, 2], [3]], "settings": 3, "order": "last", "seconds": None, "facts": [1, 2],
           "colour": "red", "title": None, "key": 3, "names": 3, "curve": 0.5, "peak_gpu_memory_gib": [], "threshold": "low",
           "split": ["train"]}  # fmt: skip


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"a": 1}', '{"key": "x"}', '"title"', "[" * 100_000, *DAMAGED])
def test_a_damaged_card_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = write_card(tmp_path, _card("x"))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, text: DAMAGED[text]}) if text in DAMAGED else text)
    with pytest.raises(UserError, match=r"x\.json is no stage card .*; delete it and run its program again"):
        read_cards(tmp_path)


def test_unusual_outputs_are_named_after_their_folders() -> None:
    usual = ("ms", "result", "attention", "val")

    def name(*outputs: str) -> tuple[str, str]:
        return own_name("cam_val", "CAM", "runs/a", outputs, usual)

    assert name("runs/a/ms/result.json", "runs/a/ms/attention") == ("cam_val", "CAM")
    assert name("runs/a/val/ms/result.json") == ("cam_val", "CAM")
    assert name("runs/a/t0.25/ms/result.json") == ("cam_val_t0.25", "CAM (t0.25)")
    assert name("runs/a/ms/result.json", "runs/a/ms/refined") == ("cam_val_refined", "CAM (refined)")
    assert name("elsewhere/labels") == ("cam_val_labels", "CAM (labels)")
    assert name("elsewhere/attention") == ("cam_val", "CAM")


def test_set_names() -> None:
    assert [set_name(n) for n in ("train_aug", "a/val.txt", "train_cls.txt", "mine")] == ["train", "val", "train", "mine"]


def test_half_a_card_of_a_killed_program_is_no_card(tmp_path: Path) -> None:
    path = write_card(tmp_path, _card("x"))
    left = path.with_name(".x.7-0f.tmp.json")
    left.write_text("{")
    assert [card.key for card in read_cards(tmp_path)] == ["x"]
    write_card(tmp_path, _card("x"))
    assert not left.exists()
