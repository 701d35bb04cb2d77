"""Notes of what programs took."""

import json
from pathlib import Path

from utils.runtime.log import read_stage_records, record_stage


def test_same_program_and_output_replaces_its_note(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record_stage(run, "gen_gt", 3.0, output="a", images=10)
    record_stage(run, "gen_gt", 4.0, output="b", images=10)
    record_stage(run, "gen_gt", 5.04, output="a", images=11)
    notes = read_stage_records(run / "stages.json")
    assert [(n["output"], n["seconds"], n["images"]) for n in notes] == [("b", 4.0, 10), ("a", 5.0, 11)]
    assert 0.001 < notes[0]["peak_memory_gib"] < 1000
    assert notes[0]["peak_gpu_memory_gib"] is None or notes[0]["peak_gpu_memory_gib"] >= 0


def test_damaged_or_missing_notes_are_none(tmp_path: Path) -> None:
    assert read_stage_records(tmp_path / "stages.json") == []
    (tmp_path / "stages.json").write_text('[{"program": "x"')
    assert read_stage_records(tmp_path / "stages.json") == []
    record_stage(tmp_path, "x", 1, output="o", images=1)
    assert len(json.loads((tmp_path / "stages.json").read_text())) == 1
