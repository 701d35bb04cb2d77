"""Settings and final scores of a run for TensorBoard's HPARAMS tab, in the run's own log folder (no sub-runs)."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.files import atomic_path

SUFFIX = ".hparams"
SCORE_PREFIX = "score/"


def log_hparams(folder: Path, settings: Mapping[str, Any], scores: Mapping[str, float]) -> Path:
    """Write an event file with hyper-parameters and final scores; the one of an earlier call is replaced.

    Args:
        folder: log folder of the run; its name is the row of the HPARAMS tab.
        settings: name -> text, number or truth value.
        scores: name -> value in [0, 1], written as the scalars score/<name>.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # slow to import
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import HParam, Metric, hparams_config_pb, hparams_pb
    from tensorboard.summary.writer.record_writer import RecordWriter

    metrics = [Metric(SCORE_PREFIX + name, display_name=name) for name in scores]
    summaries = [
        hparams_config_pb([HParam(name) for name in settings], metrics),
        hparams_pb(dict(settings)),
        *(Summary(value=[Summary.Value(tag=SCORE_PREFIX + name, simple_value=value)]) for name, value in scores.items()),
    ]
    now = time.time()
    events = [Event(wall_time=now, file_version="brain.Event:2"), *(Event(wall_time=now, summary=s) for s in summaries)]
    path = folder / f"events.out.tfevents.{int(now):010d}.scores{SUFFIX}"
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
    for earlier in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
        if earlier != path:
            earlier.unlink(missing_ok=True)
    return path
