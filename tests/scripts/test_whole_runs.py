"""run_voc.sh and run_custom.sh: which programs they call, in which order, with what; what is wrong is told first."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDER = """#!/bin/sh
if [ "$1" = -c ]; then echo _cpu; exit; fi
printf '%s\\n' "$(for a in "$@"; do printf '%s\\001' "$a"; done)" >>"$CALLS"
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Return a Python that only notes how it is called; it says that there is no GPU."""
    path = tmp_path / "python"
    path.write_text(RECORDER)
    path.chmod(0o755)
    return path


def _calls(script: str, *arguments: str, python: Path, cwd: Path = ROOT, **environment: str) -> list[list[str]]:
    calls = python.with_name("calls")
    calls.unlink(missing_ok=True)
    given = {**os.environ, "PYTHON": str(python), "INTERPRETER": str(python), "CALLS": str(calls), **environment}
    done = subprocess.run([ROOT / script, *arguments], capture_output=True, text=True, env=given, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split("\001")[1:-1] for line in calls.read_text().splitlines()]


def test_a_reproduction_goes_through_all_stages_and_each_can_be_resumed(tmp_path: Path, python: Path) -> None:
    (tmp_path / "init.pth").touch()
    calls = _calls("run_voc.sh", "l2g.kd_weight=15", python=python, EXP="some", INIT=str(tmp_path / "init.pth"))
    names = [" ".join(call[: 1 + (call[0] == "deeplab")]) for call in calls]
    assert names == [
        "scripts.check_data", "scripts.train", "scripts.make_cams", "scripts.evaluate_cams", "scripts.gen_gt",
        "scripts.evaluate_labels", "deeplab train", "deeplab test", "deeplab crf", "scripts.report", "scripts.compare",
    ]  # fmt: skip
    trainings = [call for call in calls if "train" in call[0] or call[:2] == ["deeplab", "train"]]
    assert all("train.resume=auto" in call for call in trainings)
    assert all(
        "l2g.kd_weight=15" in call for call in calls if call[0] in ("scripts.train", "scripts.gen_gt", "scripts.make_cams")
    )
    labels = next(a for a in calls[4] if a.startswith("pseudo.out_dir=")).partition("=")[2]
    assert "pseudo.fusion=threshold" in calls[4]
    assert f"dataset.label_dir={ROOT}/{labels}" in calls[6] and f"score.label_dir={labels}" in calls[5]
    assert f"model.init_model={tmp_path}/init.pth" in calls[6]
    assert calls[-1] == ["scripts.compare", "l2g=runs/some", "--expected", "l2g_voc", "--out", "runs/some/table.md"]
    single = _calls("run_voc.sh", python=python, METHOD="wsfcn", INIT="")
    assert not any(call[0] == "deeplab" for call in single) and single[1][:3] == [
        "scripts.train",
        "--config",
        "configs/wsfcn_voc.yaml",
    ]


def test_other_methods_go_the_same_way(tmp_path: Path, python: Path) -> None:
    (tmp_path / "init.pth").touch()
    given = {"python": python, "INIT": str(tmp_path / "init.pth"), "EXP": "some"}
    crt = _calls("run_voc.sh", METHOD="crt", DATA="data/xml", IRN_OVERRIDES="irn.radius=4", **given)  # type: ignore[arg-type]
    names = [" ".join(call[: 1 + (call[0] == "deeplab")]) for call in crt]
    assert names == [
        "scripts.check_data", "scripts.train", "scripts.make_cams", "scripts.evaluate_cams", "scripts.make_seeds",
        "scripts.train", "scripts.make_boundaries", "scripts.gen_gt", "scripts.evaluate_labels", "deeplab train",
        "deeplab test", "deeplab crf", "scripts.report", "scripts.compare",
    ]  # fmt: skip
    assert all("data.root=data/xml" in call for call in crt[:9]) and "dataset.root=data/xml" in crt[9]
    assert {"irn.radius=4", "pseudo.out_dir=runs/some/pseudo_seg_labels"} <= set(crt[7])
    assert f"dataset.label_dir={ROOT}/runs/some/pseudo_seg_labels" in crt[9]
    assert not any(argument.startswith("pseudo.fusion") for call in crt for argument in call)
    best = _calls("run_voc.sh", METHOD="l2g_best", **given)  # type: ignore[arg-type]
    assert [call[2].removeprefix("configs/") for call in best[1:9]] == ["l2g_voc_improved.yaml"] * 4 + [
        "recipes/l2g_best.yaml"
    ] * 4
    assert best[3][0] == "scripts.gen_gt" and best[3][-1] == "pseudo.out_dir=runs/some_stage_a/pseudo_seg_labels"
    assert {"bank.source=labels", "bank.label_dir=runs/some_stage_a/pseudo_seg_labels"} <= set(best[4])
    # The first training gives the objects and nothing else; INIT is the segmentation network's.
    assert "l2g.paste.bank=runs/some_stage_a/foreground_bank" in best[5]
    assert not any(argument.startswith("train.init_from") for argument in best[5])
    assert best[8][0] == "scripts.gen_gt" and "pseudo.fusion=saliency" in best[8]
    assert best[10][3] == "configs/recipes/l2g_best_dplv2.yaml" and f"model.init_model={given['INIT']}" in best[10]
    mini = _calls("run_voc.sh", METHOD="l2g_sa_cda", EVAL_LIST="data/some list.txt", **given)  # type: ignore[arg-type]
    assert mini[1][2] == "configs/l2g_voc_sa.yaml" and "train.init_from=runs/some_stage_a/model/last.pth" in mini[4]
    assert mini[3][0] == "scripts.make_foreground_bank" and not any(argument.startswith("bank.source") for argument in mini[3])
    named = _calls("run_voc.sh", METHOD="l2g_sa_cda", BANK_SOURCE="cams", **given)  # type: ignore[arg-type]
    assert "bank.source=cams" in named[3] and not any(argument.startswith("bank.label_dir") for argument in named[3])
    assert "data.eval_list=data/some list.txt" in mini[8]
    cdl = _calls("run_voc.sh", METHOD="cdl", VARIANT="e", **given)  # type: ignore[arg-type]
    assert [call[2] for call in cdl if "--config" in call][:4] == ["configs/l2g_voc.yaml"] * 4
    segment = [call for call in cdl if call[0] == "deeplab"]
    assert [call[1] for call in segment] == ["train", "test", "crf"]
    assert all(call[3] == "configs/voc12_coco_pretrain.yaml" and "method=cdl_e" in call for call in segment)
    assert cdl[-1] == ["scripts.compare", "cdl=runs/some", "--out", "runs/some/table.md"]  # no figure is known


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "message"),
    [
        ("run_voc.sh", [], {"METHOD": "l3g"}, "METHOD is 'l3g', expected l2g"),
        (
            "run_voc.sh",
            [],
            {"INIT": "gone.pth"},
            "gone.pth is not there, which the segmentation network starts from;",
        ),
        ("run_custom.sh", [], {}, "nothing is no folder of pictures; usage:"),
        ("run_custom.sh", ["gone photos"], {}, "gone photos is no folder of pictures; usage:"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(
    python: Path, script: str, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    given = {**os.environ, "PYTHON": str(python), "CALLS": str(python.with_name("calls")), **environment}
    done = subprocess.run([ROOT / script, *arguments], capture_output=True, text=True, env=given, check=False)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not python.with_name("calls").exists()


@pytest.mark.parametrize("masks", [False, True])
def test_a_folder_of_pictures_becomes_labels_a_network_and_a_page(tmp_path: Path, python: Path, masks: bool) -> None:
    """Relative paths with spaces, from another folder than the program's."""
    name = f"test_{tmp_path.parent.name}_{os.getpid()}"
    (tmp_path / "my photos").mkdir()
    (tmp_path / "my labels.csv").touch()
    data = ROOT / "data" / name
    data.mkdir(parents=True)
    (data / "classes.txt").write_text("cat\ndog\n")
    (data / "val_cls.txt").touch()
    if masks:
        (data / "train_masked.txt").touch()
        (data / "val_aug.txt").touch()
    (ROOT / "runs" / name / "deeplab").mkdir(parents=True)
    try:
        calls = _calls(
            "run_custom.sh", "my photos", "my labels.csv", "train.epochs=2", python=python, cwd=tmp_path, NAME=name,
            SEG_OVERRIDES="solver.iter_max=3 threads=1", SALIENCY_MODEL="rembg:u2net",
        )  # fmt: skip
    finally:
        for path in (*data.iterdir(), data, ROOT / "runs" / name / "deeplab", ROOT / "runs" / name):
            path.rmdir() if path.is_dir() else path.unlink()
    names = [" ".join(call[: 1 + (call[0] == "deeplab")]) for call in calls]
    assert names == [
        "scripts.prepare_custom", "scripts.make_saliency", "scripts.check_data", "benchmarks.foretell", "scripts.train",
        "scripts.make_cams", *(["scripts.evaluate_cams"] if masks else []), "scripts.gen_gt", "deeplab train", "deeplab test",
        "deeplab crf", "scripts.report",
    ]  # fmt: skip
    prepare, train, segment = calls[0], calls[4], calls[names.index("deeplab train")]
    assert prepare[2] == str(tmp_path / "my photos") and prepare[4] == str(tmp_path / "my labels.csv")
    assert prepare[prepare.index("--preset") + 1] == "own_pictures_cpu"
    assert {"train.epochs=2", "train.resume=auto", "l2g.saliency=map", "pseudo.fusion=saliency"} <= set(train)
    assert {"dataset.n_classes=3", "solver.iter_max=3", "threads=1", "train.resume=auto"} <= set(segment)
    assert ("test.unlabelled=true" in calls[-2]) is not masks
    assert shlex.join(calls[3]).count(" -- ") == 1
