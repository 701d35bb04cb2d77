"""The fake GPU sees what a real one would: tensors in the wrong place, and reads that wait for it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.layers.mask_losses import class_scores
from tests.gpu.fake_gpu import GPU, fake_gpu


class Misplaced(nn.Module):
    """A module whose constant is no buffer: `.to` leaves it where it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.scale = torch.ones(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x) * self.scale
        return found


class Unregistered(nn.Module):
    """A module that keeps another one in a list: it does not move."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Conv2d(3, 4, 1)]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers[0](x)
        return found


def _forgets_the_device(x: Tensor) -> Tensor:
    return x + torch.linspace(0, 1, x.shape[-1])


@pytest.mark.parametrize("build", [Misplaced, Unregistered, lambda: _forgets_the_device])
def test_what_is_misplaced_is_caught(build: Callable[[], Callable[[Tensor], Tensor]]) -> None:
    with fake_gpu() as gpu:
        with gpu:
            made = build()
            if isinstance(made, nn.Module):
                made = made.to(GPU)
        with pytest.raises(RuntimeError, match="same device|cuda.*cpu"), gpu.running():
            made(torch.zeros(1, 3, 8, 8).to(GPU))


def _reads(x: Tensor) -> object:
    return x.sum().item()


def _branches(x: Tensor) -> object:
    return x if x.max() > 1 else -x


def _indexes_by_a_list(x: Tensor) -> object:
    return x[[0, 1]]


def _makes_a_tensor_there(x: Tensor) -> object:
    return x * torch.tensor([1.0, 2.0], device=x.device)[:, None]


def _copies_back(x: Tensor) -> object:
    return x.cpu().numpy()


@pytest.mark.parametrize("step", [_reads, _branches, _indexes_by_a_list, _makes_a_tensor_there, _copies_back])
def test_what_waits_for_the_gpu_is_told(step: Callable[[Tensor], object]) -> None:
    with fake_gpu() as gpu, gpu.running():
        x = torch.zeros(2, 3).to(GPU, non_blocking=True)
        assert gpu.waits == []
        step(x)
        assert len(gpu.waits) == 1


def test_the_place_is_named_and_what_is_right_passes() -> None:
    with fake_gpu() as gpu, gpu.running():
        logits = torch.zeros(2, 4, 8, 8).to(GPU, non_blocking=True)
        assert class_scores(logits, power=3.0, floor=0.01).device == GPU
        assert gpu.waits == []
        logits.sum().item()
        assert gpu.waits == ["aten._local_scalar_dense.default in a test"]


def test_values_are_followed_where_they_are_known() -> None:
    with fake_gpu(follows=True) as gpu, gpu.running():
        x = torch.tensor([3.0, 0.0, 2.0]).to(GPU)
        places = x.nonzero()[:, 0]
        assert places.device == GPU and places.tolist() == [0, 2]
        assert (x[places] * 2).cpu().tolist() == [6.0, 4.0]
