"""The time of a run, told before it starts."""

import re
from pathlib import Path

from benchmarks.foretell import foretell
from tests.deeplab.tiny_deeplab import tiny_deeplab
from tests.tiny_data import tiny_config


def test_both_stages_are_counted_by_their_steps(tmp_path: Path) -> None:
    few = foretell(tiny_config(tmp_path, "train.epochs=1"), tiny_deeplab(tmp_path))
    pattern = r"^on this CPU it will take about \S+ in all \(h:mm:ss; training (\S+), CAMs (\S+), segmentation network (\S+)\)$"
    assert re.match(pattern, few)
    many = foretell(tiny_config(tmp_path, "train.epochs=100000"), tiny_deeplab(tmp_path, "solver.iter_max=1000000"))
    found = re.match(pattern, many)
    assert found and all(len(found[part]) > len("00:00") for part in (1, 3)) and len(found[2]) == len("00:00")
