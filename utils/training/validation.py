"""Validation of a training: mean losses and average precision over lists of images, and which weights are kept."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from utils.data.samplers import Key
from utils.evaluation.metrics import average_precision, nan_mean
from utils.runtime.log import progress
from utils.runtime.parallel import start_loader_worker
from utils.runtime.processes import Dist, sum_over_ranks


class ViewSet(Protocol):
    """A data set addressed by (epoch, index), e.g. `utils.data.samples.ViewDataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key, /) -> dict[str, Any]: ...


@dataclass
class Validation:
    """When and on what to validate, and what is kept.

    Attributes:
        datasets: name -> images; weights are selected by the first, the others are logged only.
        score: of the means over the first, the higher the better; see `models.method.Method.validation_score`.
        class_names: of the C classes, for tags.
        batch_size: images at once over all processes.
        workers: loader processes.
        every: epochs between validations.
        from_epoch: passes after which weights may be selected.
        ties: an equal score replaces the best one.
        fixed_views: each image is seen as in epoch 0 every time; else as in the epoch that follows.
        snapshots: at most so many of the selected weights stay under their published names; 0: none.
    """

    datasets: Mapping[str, ViewSet]
    score: Callable[[Mapping[str, float]], float]
    class_names: list[str]
    batch_size: int
    workers: int
    every: int = 1
    from_epoch: int = 0
    ties: bool = True
    fixed_views: bool = True
    snapshots: int = 0

    def due(self, epoch: int) -> bool:
        """Return whether to validate after `epoch` passes."""
        return epoch % self.every == 0

    def selects(self, epoch: int, value: float, best: float | None) -> bool:
        """Return whether weights with this score are the best so far."""
        if epoch < self.from_epoch:
            return False
        return best is None or value > best or (self.ties and value == best)


@dataclass(frozen=True)
class Validated:
    """Means over a list: `losses` by name, `precision` (C,) average precision in [0, 1], NaN for classes that never occur, or
    None where the step returns no scores."""

    losses: dict[str, float]
    precision: NDArray[np.float64] | None = None

    def means(self) -> dict[str, float]:
        """Return the losses and, where there are scores, `map`, the mean average precision."""
        return self.losses if self.precision is None else {**self.losses, "map": float(nan_mean(self.precision))}

    def named(self, classes: Sequence[str]) -> dict[str, float]:
        """Return class name -> average precision; empty where there are no scores."""
        return {} if self.precision is None else dict(zip(classes, self.precision.tolist(), strict=True))


@torch.no_grad()
def validate(
    module: nn.Module,
    dataset: ViewSet,
    epoch: int,
    *,
    validation: Validation,
    place: Dist,
    autocast: Callable[[], AbstractContextManager[object]],
    to_device: Callable[[dict[str, Any]], dict[str, Any]],
    what: str,
) -> Validated:
    """Run `module`, a step of `models.method`, over all images in evaluation mode; every process takes its share.

    The result does not depend on the number of processes but for rounding. The module is left in evaluation mode.
    """
    module.eval()
    view = 0 if validation.fixed_views else epoch
    # A process without images borrows one that weighs nothing: what the step returns is known to all of them.
    mine = range(place.rank, len(dataset), place.world)
    own, weight = (mine, 1.0) if mine else (range(1), 0.0)
    each = max(1, validation.batch_size // place.world)
    batches = [[(view, index) for index in own[start : start + each]] for start in range(0, len(own), each)]
    loader: DataLoader[dict[str, Any]] = DataLoader(
        dataset,  # type: ignore[arg-type]  # addressed by keys, not by positions
        batch_sampler=batches,
        collate_fn=default_collate,
        num_workers=min(validation.workers, len(batches)),
        worker_init_fn=start_loader_worker,
    )
    sums: dict[str, Tensor] = {}
    scores: Tensor | None = None
    labels = torch.zeros(0)
    for keys, batch in zip(batches, progress(loader, len(batches), what, show=place.is_main), strict=True):
        with autocast():
            output = module(to_device(batch))
        for name, value in {"loss": output["loss"], **output["losses"]}.items():
            sums[name] = sums.get(name, torch.zeros((), device=place.device)) + value.float() * (len(keys) * weight)
        if "scores" in output:
            if scores is None:
                scores = torch.zeros(len(dataset), output["scores"].shape[1], device=place.device)
                labels = torch.zeros_like(scores)
            rows = [index for _, index in keys]
            scores[rows] = output["scores"].float() * weight
            labels[rows] = batch["labels"].to(place.device) * weight
    names = sorted(sums)
    totals = sum_over_ranks(torch.stack([sums[name] for name in names]), place.world) / len(dataset)
    losses = dict(zip(names, totals.tolist(), strict=True))
    if scores is None:
        return Validated(losses)
    scores, labels = sum_over_ranks(scores, place.world), sum_over_ranks(labels, place.world)
    return Validated(losses, average_precision(scores.cpu().numpy(), labels.cpu().numpy() > 0))


def snapshot_name(kind: str, epoch: int, score: float) -> str:
    """Return the published name of a snapshot, e.g. model_enc_e018Xs0.905.pth; `kind` is model or opt."""
    return f"{kind}_enc_e{epoch:03d}Xs{score:4.3f}.pth"


def drop_oldest(folder: Path, most: int) -> None:
    """Delete a folder's oldest snapshots beyond `most`, both files of each."""
    kept = sorted(path.name.removeprefix("model_") for path in folder.glob("model_enc_e*Xs*.pth"))
    for name in kept[: max(0, len(kept) - most)]:
        for kind in ("model", "opt"):
            (folder / f"{kind}_{name}").unlink(missing_ok=True)
