"""The loader of one epoch's remaining batches."""

from typing import Any

from torch.utils.data import DataLoader, Dataset

from configs.schema import Config
from utils.distributed import Dist
from utils.paste_transform import collate_views
from utils.samplers import EpochBatchSampler
from utils.train_state import Position


def build_epoch_loader(
    dataset: Dataset[dict[str, Any]], length: int, cfg: Config, place: Dist, at: Position
) -> tuple[EpochBatchSampler, DataLoader[dict[str, Any]]]:
    """Return this process's loader from position `at` to the end of its epoch, and the sampler behind it.

    Args:
        dataset: addressed by (epoch, index).
        length: its length.
        cfg: seed, `train.batch_size`, `train.shuffle` and `data.workers`.
        place: this process; it gets its share of each batch.
        at: epoch and first batch.
    """
    sampler = EpochBatchSampler(
        length,
        cfg.train.batch_size,
        shuffle=cfg.train.shuffle,
        seed=cfg.seed,
        rank=place.rank,
        world=place.world,
        epoch=at.epoch,
        start_batch=at.batch,
    )
    pinned = place.device.type == "cuda"
    workers = cfg.data.workers
    return sampler, DataLoader(dataset, batch_sampler=sampler, collate_fn=collate_views, num_workers=workers, pin_memory=pinned)
