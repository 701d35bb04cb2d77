"""The data folder: where anything of a data set is, by id, and whether all of it is there."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.schema import DataConfig
from utils.errors import UserError

_SHOWN = 3


@dataclass(frozen=True)
class DataFolder:
    """Photos, saliency maps and ground truth of a data set; worker processes get it as it is.

    Attributes:
        image_dir: of <id>.jpg.
        saliency_dir: of <id>.png; None where none are used.
        label_dir: of ground truth <id>.png; it need not exist.
        num_classes: foreground classes.
    """

    image_dir: Path
    saliency_dir: Path | None
    label_dir: Path
    num_classes: int

    @classmethod
    def of(cls, data: DataConfig, *, saliency: bool = True) -> "DataFolder":
        """Return the folder section `data` describes; `saliency` False: the maps are not used."""
        root = Path(data.root)
        maps = root / data.saliency_dir if saliency else None
        return cls(root / data.image_dir, maps, root / data.label_dir, data.num_classes)

    def image(self, image_id: str) -> Path:
        """Return the photo."""
        return self.image_dir / f"{image_id}.jpg"

    def saliency(self, image_id: str) -> Path:
        """Return the saliency map; where none are used there is no such file."""
        if self.saliency_dir is None:
            raise ValueError("this data folder has no saliency maps")
        return self.saliency_dir / f"{image_id}.png"

    def truth(self, image_id: str) -> Path:
        """Return the ground truth."""
        return self.label_dir / f"{image_id}.png"

    def check_images(self, ids: Iterable[str]) -> None:
        """Check that every image is there.

        Raises:
            UserError: naming the first missing ones and how many there are.
        """
        check_files([self.image(i) for i in ids], "image", "data.image_dir")

    def check_saliency(self, ids: Iterable[str]) -> None:
        """Check that every saliency map is there, as `check_images` does."""
        check_files([self.saliency(i) for i in ids], "saliency map", "data.saliency_dir")

    def refuse_output(self, folder: Path, key: str) -> None:
        """Refuse to write into a folder of inputs, whose files would be lost.

        Raises:
            UserError: naming the keys.
        """
        inputs = {"data.image_dir": self.image_dir, "data.label_dir": self.label_dir, "data.saliency_dir": self.saliency_dir}
        for name, place in inputs.items():
            if place is not None and place.resolve() == folder.resolve():
                raise UserError(f"{key} {folder} is the folder of {name}, whose files would be lost; set another")


def check_files(paths: Sequence[Path], what: str, key: str) -> None:
    """Check that files are there, listing each folder once: 80 000 single looks would take minutes on a network disk.

    Args:
        paths: the files.
        what: what they are, for messages.
        key: configuration key that says where they are.

    Raises:
        UserError: naming the first missing ones and how many there are.
    """
    present = {folder: _names(folder, what, key) for folder in dict.fromkeys(path.parent for path in paths)}
    missing = [path for path in paths if path.name not in present[path.parent]]
    if missing:
        first = ", ".join(path.name for path in missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise UserError(
            f"{len(missing)} of {len(paths)} {what} files are missing in {missing[0].parent}: {first}; check {key} or the list"
        )


def _names(folder: Path, what: str, key: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError as error:
        root = f"{key.partition('.')[0]}.root"
        raise UserError(f"{what} folder {folder} cannot be read ({error.strerror}); check {root} and {key}") from error
