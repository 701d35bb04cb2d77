"""The journal of a training: TensorBoard scalars and pictures, one log line for each reading of the scalars, a summary."""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from utils.data.classes import BACKGROUND, label_value, palette
from utils.drawing.overlays import heat_map
from utils.files import write_text_atomic
from utils.runtime.device import GIBIBYTE, peak_memory
from utils.runtime.processes import Dist

GRID_SIDE = 160


class Picture(Protocol):
    """A picture of `models.method`, seen from here: (N, D, h, w) `values` and how they are drawn."""

    @property
    def kind(self) -> str: ...

    @property
    def values(self) -> Tensor: ...


class Journal:
    """Writes on the main process and is silent on the others; get one from `open_journal`.

    Args:
        writer: of TensorBoard; None on the other processes.
        log: lines go here.
        published: tags of the published segmentation stage (loss/train, lr/group_<i>, gpu/device_<i>/memory_cached) instead of
            train/loss and train/lr.
    """

    def __init__(self, writer: SummaryWriter | None, log: logging.Logger, *, published: bool = False) -> None:
        self.writer, self.log, self.published = writer, log, published

    def scalars(self, counter: int, where: str, values: Mapping[str, float], rate: float, factors: Sequence[float]) -> None:
        """Write `train/<name>` and a log line.

        Args:
            counter: step of TensorBoard.
            where: position in the training, for the line.
            values: means since the last reading.
            rate: base learning rate.
            factors: of the optimiser's groups.
        """
        if self.writer is None:
            return
        tagged = {f"train/{name}": value for name, value in values.items()}
        if self.published:
            tagged["loss/train"] = tagged.pop("train/loss")
            tagged |= {f"lr/group_{index}": rate * factor for index, factor in enumerate(factors)}
            for index in range(torch.cuda.device_count()):
                tagged[f"gpu/device_{index}/memory_cached"] = torch.cuda.memory_reserved(index) / GIBIBYTE
        else:
            tagged["train/lr"] = rate
        for tag, value in tagged.items():
            self.writer.add_scalar(tag, value, counter)
        parts = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.log.info("%s lr %.3g %s", where, rate, parts)

    def score(self, counter: int, value: float) -> None:
        """Write the score of a validation, in [0, 1]."""
        if self.writer is not None:
            self.writer.add_scalar("val/score", value, counter)
            self.log.info("validation: %.4f", value)

    def pictures(self, counter: int, draw: Callable[[], Mapping[str, Tensor]]) -> None:
        """Write `train/<name>` pictures, each (3, h, w) float in [0, 1]; `draw` is called only where they are written."""
        if self.writer is None:
            return
        for name, picture in draw().items():
            self.writer.add_image(f"train/{name}", picture, counter)


@contextlib.contextmanager
def open_journal(
    folder: Path, log: logging.Logger, *, is_main: bool, counter: int, published: bool = False
) -> Iterator[Journal]:
    """Open the TensorBoard folder `folder`; a run resumed at `counter` hides what lies beyond it."""
    if not is_main:
        yield Journal(None, log, published=published)
        return
    with SummaryWriter(str(folder), purge_step=counter + 1 if counter else None) as writer:
        yield Journal(writer, log, published=published)


def write_summary(path: Path, *, seconds: float, epochs: int, images: int, place: Dist) -> dict[str, Any]:
    """Write how long a training took, over how many images and epochs, on what, and its peak memory, as JSON; return that."""
    summary = {
        "seconds": round(seconds, 1),
        "epochs": epochs,
        "images": images,
        "processes": place.world,
        "device": str(place.device),
        "peak_memory_gib": round(peak_memory(place.device), 3),
    }
    write_text_atomic(path, json.dumps(summary, indent=2) + "\n")
    return summary


def draw_picture(picture: Picture, labels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (3, h, w) float in [0, 1] of a picture's N maps side by side.

    Args:
        picture: see `models.method.Picture`, whose kinds this draws; or rgb: (N, 3, h, w) in [0, 1], as they are.
        labels: (C,) of the image; 1 for present classes.
        mean: channel means the images were normalised with.
        std: channel deviations.
    """
    values, present = picture.values.float().cpu(), labels.bool().cpu()
    colours = {
        "rgb": lambda: values,
        "image": lambda: (values * torch.tensor(std).view(1, 3, 1, 1) + torch.tensor(mean).view(1, 3, 1, 1)).clamp(0, 1),
        "grey": lambda: values.expand(-1, 3, -1, -1),
        "heat": lambda: _heat(values),
        "scores": lambda: _heat(_attention(values, present)),
        "classes": lambda: _colours(values),
    }[picture.kind]()
    return _strip(colours)


def _attention(score_map: Tensor, present: Tensor) -> Tensor:
    """Return (N, 1, h, w): the present classes' scores, ReLU, each divided by its maximum, the largest of them."""
    scores = score_map[:, :-1][:, present].clamp_min(0)
    scores = scores / (scores.amax(dim=(2, 3), keepdim=True) + torch.finfo(torch.float32).eps)
    return scores.amax(dim=1, keepdim=True)


def _heat(maps: Tensor) -> Tensor:
    """Return (N, 3, h, w) colours of (N, 1, h, w) maps in [0, 1]."""
    return torch.stack([torch.from_numpy(heat_map(m[0].numpy())).permute(2, 0, 1) / 255 for m in maps])


def _colours(target: Tensor) -> Tensor:
    """Return (N, 3, h, w) class colours of the winning channel; the last channel is background."""
    colours = torch.tensor(list(palette())).view(-1, 3).float() / 255
    background = target.shape[1] - 1
    value, channel = target.max(dim=1)
    label_of_channel = torch.tensor([label_value(k) for k in range(background)] + [BACKGROUND])
    labels = torch.where(value == 0, BACKGROUND, label_of_channel[channel])
    return colours[labels].permute(0, 3, 1, 2)


def _strip(pictures: Tensor) -> Tensor:
    """Lay (N, 3, h, w) pictures side by side at a common size."""
    side = max(GRID_SIDE, pictures.shape[-1]) if pictures.shape[0] == 1 else GRID_SIDE
    from torchvision.utils import make_grid  # here: torchvision takes as long to load as torch itself

    return make_grid(F.interpolate(pictures, size=(side, side), mode="nearest"), nrow=pictures.shape[0], padding=2)


SUFFIX = ".hparams"


def log_hparams(folder: Path, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
    """Write an event file with hyper-parameters and final scores; the one of an earlier call is replaced.

    Args:
        folder: log folder of the run; its name is the row of the HPARAMS tab.
        settings: name -> text, number or truth value.
        scores: name -> value in [0, 1], written as the scalars score/<name>.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name, SummaryWriter(name) as writer:
        before = set(Path(name).iterdir())
        # The library writes a truth value as a number.
        told = {key: str(value).lower() if isinstance(value, bool) else value for key, value in settings.items()}
        writer.add_hparams(told, {f"score/{key}": value for key, value in scores.items()}, run_name=".")
        (written,) = set(Path(name).iterdir()) - before  # add_hparams opens a writer, and so a file, of its own
        for earlier in folder.glob(f"*{SUFFIX}"):
            earlier.unlink(missing_ok=True)
        written.replace(folder / f"{written.name}{SUFFIX}")
