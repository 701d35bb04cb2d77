"""Loading training samples, as one loader process does it: JPEG and saliency files to finished tensors."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.measure import Row, time_both
from benchmarks.plain_sample import load_sample
from benchmarks.program_runs import LIST_NAME, write_set
from benchmarks.sizes import Settings
from configs.schema import DataConfig
from models.l2g import L2GSettings
from utils.data.samplers import sample_rng
from utils.data.samples import ViewDataset

# Samples of a full VOC run: 10 epochs of train_cls.
VOC_SAMPLES = 105820
SEED, EPOCH = 0, 0


def measure_sample(s: Settings) -> Iterator[Row]:
    """Published VOC samples from `Settings.data`, or from made-up pictures."""
    with _folder(s) as root:
        data = DataConfig(root=str(root), train_list=str(root / LIST_NAME))
        dataset = ViewDataset(data, L2GSettings(), SEED)
        count = min(s.size.files, len(dataset))

        def plain() -> list[dict[str, torch.Tensor]]:
            return [_plain_sample(dataset, index) for index in range(count)]

        def ours() -> list[dict[str, torch.Tensor]]:
            return [dataset[EPOCH, index] for index in range(count)]

        pairs = list(zip(plain(), ours(), strict=True))
        difference = max(float((a[k] - b[k]).abs().max()) for a, b in pairs for k in a)
        timing = time_both(plain, ours, repeat=s.repeat, device=torch.device("cpu")).per_unit(count)
        source = s.data or f"made-up pictures of {s.size.file_size[0]}x{s.size.file_size[1]}"
        what = f"training sample, 512 short side, 448 view, {source}"
        yield Row(what, timing, f"{difference:.1e}", runs=VOC_SAMPLES if s.size.full else 0)


def _plain_sample(dataset: ViewDataset, index: int) -> dict[str, torch.Tensor]:
    rng, name = sample_rng(SEED, EPOCH, index), dataset.ids[index]
    return load_sample(dataset.folder.image(name), dataset.folder.saliency(name), rng.numpy, rng.python)


@contextlib.contextmanager
def _folder(s: Settings) -> Iterator[Path]:
    if s.data:
        yield Path(s.data)
        return
    with tempfile.TemporaryDirectory(prefix="l2g_speed_") as folder:
        write_set(Path(folder), s.size.files, s.size.file_size)
        yield Path(folder)
