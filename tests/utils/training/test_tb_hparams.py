"""Hyper-parameters and final scores in the event files of a run."""

from pathlib import Path

from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata

from utils.training.journal import log_hparams


def test_hyper_parameters_and_scores_are_one_run(tmp_path: Path) -> None:
    runs = {"one": 0.25, "other": 0.5}
    for name, score in runs.items():
        settings = {"model.backbone": name, "train.lr": 0.01, "train.epochs": 3, "flip": True}
        log_hparams(tmp_path / name / "tb", settings, {"cam": 0.1})
        log_hparams(tmp_path / name / "tb", settings, {"cam": score})  # a second report replaces the first
        assert len(list((tmp_path / name / "tb").iterdir())) == 1
    events = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    assert set(events.Runs()) == {"one/tb", "other/tb"}  # no sub-runs
    for name, score in runs.items():
        assert [round(e.value, 6) for e in events.Scalars(f"{name}/tb", "score/cam")] == [score]
        content = events.SummaryMetadata(f"{name}/tb", metadata.SESSION_START_INFO_TAG).plugin_data.content
        found = metadata.parse_session_start_info_plugin_data(content).hparams
        assert found["model.backbone"].string_value == name
        assert found["train.lr"].number_value == 0.01
        assert found["flip"].string_value == "true"
        plan = events.SummaryMetadata(f"{name}/tb", metadata.EXPERIMENT_TAG).plugin_data.content
        metrics = metadata.parse_experiment_plugin_data(plan).metric_infos
        assert [m.name.tag for m in metrics] == ["score/cam"]
