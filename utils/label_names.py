"""Write the file of label names the segmentation stage reads."""

from collections.abc import Sequence
from pathlib import Path

from utils.files import write_text_atomic
from utils.score_report import label_names


def write_label_names(path: Path, class_names: Sequence[str]) -> None:
    """Write '<label value><TAB><name>' lines, background first: C + 1 of them.

    (The published COCO file had 91 names for 81 labels, so names were wrong from label 12 on.)

    Args:
        path: file to write.
        class_names: C foreground names in index order.
    """
    write_text_atomic(path, "".join(f"{value}\t{name}\n" for value, name in enumerate(label_names(class_names))))
