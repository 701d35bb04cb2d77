"""Where the segmentation stage writes: the published layout below `exp.output_dir`."""

from pathlib import Path

from configs.deeplab_schema import DeepLabConfig

FINAL = "checkpoint_final.pth"


def models_dir(cfg: DeepLabConfig) -> Path:
    """Return the folder of checkpoint_<iteration>.pth, checkpoint_final.pth and last.pth (resuming)."""
    return _place(cfg, "models", cfg.dataset.split.train)


def logs_dir(cfg: DeepLabConfig) -> Path:
    """Return the folder of TensorBoard files, log.txt and the configuration."""
    return Path(cfg.exp.output_dir, "logs", cfg.exp.id)


def logits_dir(cfg: DeepLabConfig) -> Path:
    """Return the folder of saved logits <id>.npy or <id>.npz."""
    return _place(cfg, "features", tested_split(cfg)) / "logit"


def scores_dir(cfg: DeepLabConfig) -> Path:
    """Return the folder of scores.json, scores_crf.json, tables and plots."""
    return _place(cfg, "scores", tested_split(cfg))


def predictions_dir(cfg: DeepLabConfig, *, crf: bool) -> Path:
    """Return the folder of predicted label maps <id>.png."""
    return _place(cfg, "predictions", tested_split(cfg) + ("_crf" if crf else ""))


def archive_path(cfg: DeepLabConfig, *, crf: bool) -> Path:
    """Return the file the VOC test server takes."""
    return _place(cfg, "predictions", "results" + ("_crf" if crf else "") + ".tar.gz")


def tested_split(cfg: DeepLabConfig) -> str:
    """Return the name of the split test and crf work on."""
    split = cfg.dataset.split
    return str(split.test) if cfg.test.unlabelled else split.val


def _place(cfg: DeepLabConfig, kind: str, last: str) -> Path:
    return Path(cfg.exp.output_dir, kind, cfg.exp.id, cfg.model.name.lower(), last)
