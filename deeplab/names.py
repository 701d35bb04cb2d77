"""Names of the classes a segmentation network tells apart, background first."""

from pathlib import Path

from configs.deeplab_schema import DatasetConfig
from utils.classes import COCO_CLASSES, VOC_CLASSES
from utils.errors import UserError
from utils.score_report import label_names

_KNOWN = {"voc": VOC_CLASSES, "coco": COCO_CLASSES}


def class_names(dataset: DatasetConfig) -> list[str]:
    """Return `n_classes` names: from `dataset.labels`, or by `dataset.name`, or numbers.

    Published files name label lists of their own tree, and the COCO one holds 91 names for 81 classes; so, for the known
    sets, a list that is missing or of another length gives way to the right names.

    Raises:
        UserError: for another set's list that is unreadable or of the wrong length.
    """
    sets = (label_names(names) for prefix, names in _KNOWN.items() if dataset.name.lower().startswith(prefix))
    known = next((names for names in sets if len(names) == dataset.n_classes), None)
    if not dataset.labels or (known and not Path(dataset.labels).is_file()):
        return known or ["background", *(f"class {k}" for k in range(1, dataset.n_classes))]
    names = _read(Path(dataset.labels))
    if len(names) == dataset.n_classes - 1 and names[0] != "background":
        names = label_names(names)
    if len(names) != dataset.n_classes:
        if known:
            return known
        raise UserError(
            f"dataset.labels={dataset.labels} holds {len(names)} names, expected {dataset.n_classes} (dataset.n_classes), or "
            "one fewer without background"
        )
    return names


def _read(path: Path) -> list[str]:
    """Read 'index<TAB>name[,alias]' or 'name' lines."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"dataset.labels={path} cannot be read ({error}); give an existing text file") from error
    return [line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip()]
