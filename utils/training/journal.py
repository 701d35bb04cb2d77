"""The journal of a training: TensorBoard scalars and pictures, one log line for each reading of the scalars, a summary."""

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from utils.data.classes import BACKGROUND, label_value, palette
from utils.drawing.overlays import IMAGE_SHARE, heat_map
from utils.files import write_text_atomic
from utils.runtime.device import GIBIBYTE, peak_memory
from utils.runtime.processes import Dist

GRID_SIDE = 160
# The panel of 1-Stage and WS-FCN: class names on top of each row, rows apart by a light grey.
CAPTION_HEIGHT, PANEL_PADDING, PANEL_GREY = 16, 8, 0.9


class Picture(Protocol):
    """A picture of `models.method`, seen from here: (N, D, h, w) `values` and how they are drawn."""

    @property
    def kind(self) -> str: ...

    @property
    def values(self) -> Tensor: ...

    @property
    def over(self) -> Tensor | None: ...


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
        self.boards: dict[str, SummaryWriter] = {}

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

    def validation(
        self,
        name: str,
        epoch: int,
        losses: Mapping[str, float],
        precision: Mapping[str, float],
        score: float | None,
    ) -> None:
        """Write a validation below the folder `name`, under the tags of 1-Stage and WS-FCN, and a log line.

        Args:
            name: of the list.
            epoch: passes done, the step of TensorBoard.
            losses: means over the list: `all/loss` and `all/loss_<name>`.
            precision: class name -> average precision in [0, 1], NaN where the class never occurs; may be empty.
            score: what weights are selected by, `all/checkpoint_score`; None where they are not.
        """
        if self.writer is None:
            return
        board = self._board(name, epoch)
        tagged = {"all/loss" if key == "loss" else f"all/loss_{key}": value for key, value in losses.items()}
        defined = {key: value for key, value in precision.items() if value == value}
        if defined:
            tagged["all_wo_BG/mAP"] = sum(defined.values()) / len(defined)
        for number, (key, value) in enumerate(precision.items(), 1):
            if key in defined:
                tagged[f"{number:02d}_{key}/AP"] = value
        if score is not None:
            tagged["all/checkpoint_score"] = score
        for tag, value in tagged.items():
            board.add_scalar(tag, value, epoch)
        parts = [f"{tag.rpartition('/')[2]} {value:.4g}" for tag, value in tagged.items() if tag.startswith("all")]
        self.log.info("validation on %s after %d epochs: %s", name, epoch, " ".join(parts))

    def rates(self, name: str, epoch: int, rates: Sequence[float]) -> None:
        """Write the rates of the optimiser's groups below the folder `name`, `lr/enc_group_<i>` as 1-Stage and WS-FCN."""
        if self.writer is not None:
            for number, rate in enumerate(rates):
                self._board(name, epoch).add_scalar(f"lr/enc_group_{number:02d}", rate, epoch)

    def panel(self, name: str, epoch: int, picture: Tensor) -> None:
        """Write `visualisation`, (3, h, w) float in [0, 1], below the folder `name`."""
        if self.writer is not None:
            self._board(name, epoch).add_image("visualisation", picture, epoch)

    def _board(self, name: str, epoch: int) -> SummaryWriter:
        if self.writer is None:
            raise RuntimeError("only the main process writes")
        if name not in self.boards:
            self.boards[name] = SummaryWriter(str(Path(self.writer.get_logdir()) / name), purge_step=epoch)
        return self.boards[name]

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
        journal = Journal(writer, log, published=published)
        yield journal
        for board in journal.boards.values():
            board.close()


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
    return _strip(draw_maps(picture, labels, mean, std))


def draw_maps(picture: Picture, labels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (N, 3, h, w) float in [0, 1], see `draw_picture`."""
    values, present = picture.values.float().cpu(), labels.bool().cpu()
    colours: Tensor = {
        "rgb": lambda: values,
        "image": lambda: _photo(values, mean, std),
        "grey": lambda: values.expand(-1, 3, -1, -1),
        "heat": lambda: _heat(values),
        "scores": lambda: _heat(_attention(values, present)),
        "classes": lambda: _colours(values),
        "masks": lambda: _masked(values, picture.over, mean, std),
    }[picture.kind]()
    return colours


def draw_panel(
    pictures: Mapping[str, Picture], labels: Tensor, names: Sequence[str], mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Return (3, h, w) float in [0, 1]: a row for each of N images, its class names and its pictures side by side.

    Args:
        pictures: at least one; the first is of N images, those of other numbers are left out.
        labels: (N or more, C), 1 for present classes.
        names: of the C classes.
        mean, std: as of `draw_picture`.
    """
    count = len(next(iter(pictures.values())).values)
    drawn = [draw_maps(p, labels[0], mean, std) for p in pictures.values() if len(p.values) == count]
    side = max(GRID_SIDE, max(d.shape[-1] for d in drawn))
    scaled = [F.interpolate(d, size=(side, side), mode="nearest") for d in drawn]
    from torchvision.utils import make_grid  # here: torchvision takes as long to load as torch itself

    rows = []
    for number in range(count):
        row = torch.cat([d[number] for d in scaled], dim=-1)
        present = [name for name, there in zip(names, labels[number].tolist(), strict=True) if there]
        rows.append(torch.cat([_caption(", ".join(present), row.shape[-1]), row], dim=-2))
    return make_grid(torch.stack(rows), nrow=1, padding=PANEL_PADDING, pad_value=PANEL_GREY)


def _caption(text: str, width: int) -> Tensor:
    """Return (3, CAPTION_HEIGHT, width) in [0, 1], white on black."""
    strip = Image.new("RGB", (width, CAPTION_HEIGHT))
    ImageDraw.Draw(strip).text((5, 1), text, fill="white")
    return torch.from_numpy(np.array(strip)).permute(2, 0, 1) / 255


def _photo(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (N, 3, h, w) pictures in [0, 1] of normalised ones."""
    shown: Tensor = images * torch.tensor(std).view(1, 3, 1, 1) + torch.tensor(mean).view(1, 3, 1, 1)
    return shown.clamp(0, 1)


def _masked(masks: Tensor, over: Tensor | None, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (N, 3, h, w): the winning mask's colour over the image as strongly as it is sure; where all are 0, the image."""
    confidence = masks.amax(dim=1, keepdim=True).clamp(0, 1)
    colours = _colours(masks) * confidence
    if over is None:
        return colours
    images = _photo(F.interpolate(over.float().cpu(), size=masks.shape[2:], mode="bilinear"), mean, std)
    return torch.where(confidence > 0, IMAGE_SHARE * images + (1 - IMAGE_SHARE) * colours, images)


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
