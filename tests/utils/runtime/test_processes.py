"""Stopping together: all processes at the same step, soon enough for who asked. And how exactly a process computes."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from utils.runtime import processes
from utils.runtime.processes import Dist, StopRequest, StopVote, distribute, setup


class _Cluster:
    """Two processes that vote in turn, on a clock of their own; process 1 takes `slower` times as long for a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slower: float = 1.0) -> None:
        self.now, self.slower, self.votes = 0.0, slower, list[torch.Tensor]()
        monkeypatch.setattr(processes.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(processes.dist, "all_reduce", self.all_reduce)
        self.stops = StopRequest(), StopRequest()
        places = [Dist(rank, 2, rank, torch.device("cpu")) for rank in range(2)]
        self.asks = [StopVote(stop, place) for stop, place in zip(self.stops, places, strict=True)]

    def all_reduce(self, values: torch.Tensor, op: object) -> None:
        """The processes of this cluster take turns: process 0 votes for both, process 1 gets what was found."""
        other = torch.tensor([float(bool(self.stops[1])), values[1].item() * self.slower])
        self.votes.append(values)
        torch.maximum(values, other, out=values)

    def step(self, seconds: float) -> bool:
        self.now += seconds
        return self.asks[0]()


@pytest.mark.parametrize(("seconds", "steps"), [(30.0, 1), (3.0, 1), (0.5, 4), (0.001, 10)])
def test_whether_to_stop_is_asked_by_elapsed_time(monkeypatch: pytest.MonkeyPatch, seconds: float, steps: int) -> None:
    """Every ten steps would be every five minutes with slow ones, and torchrun kills after half a minute."""
    cluster = _Cluster(monkeypatch)
    cluster.step(seconds)
    assert len(cluster.votes) == 1
    cluster.stops[1].signum = 15
    found = [cluster.step(seconds) for _ in range(steps)]
    assert found == [False] * (steps - 1) + [True]
    assert len(cluster.votes) == 2


def test_the_slowest_process_decides_when_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """They must agree on it: a process that asks alone waits for ever."""
    cluster = _Cluster(monkeypatch, slower=4.0)
    cluster.step(0.25)  # and 1 s on the other: again after two steps
    cluster.step(0.25)
    assert len(cluster.votes) == 1
    cluster.step(0.25)
    assert len(cluster.votes) == 2


def test_a_single_process_stops_at_once() -> None:
    stop = StopRequest()
    ask = StopVote(stop, Dist(0, 1, 0, torch.device("cpu")))
    assert not ask()
    stop.signum = 15
    assert ask()


@pytest.fixture
def tf32() -> Iterator[None]:
    """Let GPUs round to TF32 wherever torch can be told to."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = True
    yield
    convolutions.allow_tf32, products.allow_tf32 = before


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("precision", ["fp32", "auto", "bf16"])
def test_float32_means_float32(precision: str) -> None:
    """Torch's own default rounds the inputs of convolutions to ten bits on GPUs: not what was published."""
    with setup(SimpleNamespace(device="cpu", threads=0, precision=precision)):
        found = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    assert found == ((False, False) if precision == "fp32" else (True, True))


def test_activations_inside_norms_outlive_shared_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own conversion loses them; seen in evaluation mode, which needs no GPU."""
    layers = pytest.importorskip("timm.layers")
    monkeypatch.setattr(processes, "DistributedDataParallel", lambda module, device_ids: module)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), layers.BatchNormAct2d(4, act_layer=nn.ReLU6), nn.BatchNorm2d(4))
    expected, keys = network.eval()(images := torch.randn(2, 3, 5, 5)), list(network.state_dict())
    shared = distribute(network, Dist(0, 2, 0, torch.device("cuda")), trains_norm=True).eval()
    assert torch.equal(shared(images), expected) and list(shared.state_dict()) == keys
    assert [type(layer) for layer in shared.children()] == [nn.Conv2d, layers.SyncBatchNormAct, nn.SyncBatchNorm]
