"""The depthwise convolution with its own gradient equals torch's; what does not fit is left alone."""

import pytest
import torch
from torch import nn

from models.layers.lean import DepthwiseConv2d, quicken_depthwise

CHANNELS = 6


def _network(**other: object) -> nn.Sequential:
    torch.manual_seed(0)
    options: dict[str, object] = {"kernel_size": 5, "padding": 4, "dilation": 2, "groups": CHANNELS, "bias": False, **other}
    return nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [{}, {"bias": True}, {"kernel_size": 3, "padding": 3, "dilation": 3}])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_gradients_are_torchs(other: dict[str, object], layout: torch.memory_format) -> None:
    images = torch.randn(2, CHANNELS, 13, 10, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=layout)
    results = []
    for quicken in (False, True):
        network = _network(**other)
        if quicken:
            quicken_depthwise(network)
        assert isinstance(network[0], DepthwiseConv2d) == quicken
        x = images.clone().requires_grad_()
        y = network(x)
        y.square().sum().backward()
        results.append([y.detach(), x.grad, *(p.grad for p in network.parameters())])
    assert len(results[0]) == len(results[1]) == 3 + bool(other.get("bias"))
    for plain, quick in zip(*results, strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-4)


def test_names_weights_and_random_state_stay() -> None:
    network = _network()
    before, state = torch.get_rng_state(), dict(network.state_dict())
    parameter = network[0].weight
    quicken_depthwise(network)
    assert network[0].weight is parameter and network.state_dict().keys() == state.keys()
    assert torch.equal(torch.get_rng_state(), before)


def test_frozen_weights_get_no_gradient() -> None:
    network = _network().requires_grad_(False)
    quicken_depthwise(network)
    x = torch.randn(1, CHANNELS, 8, 8, requires_grad=True)
    network(x).sum().backward()
    assert network[0].weight.grad is None and x.grad is not None


def test_bf16_autocast_trains() -> None:
    network = _network()
    quicken_depthwise(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network(torch.randn(1, CHANNELS, 8, 8, dtype=torch.bfloat16)).float().sum()
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(gradients) == 1 and torch.isfinite(gradients[0]).all()


def test_others_compute_in_float32_under_autocast() -> None:
    network = _network(dilation=1, padding=2, stride=2)
    x = torch.randn(2, CHANNELS, 9, 9, dtype=torch.bfloat16, requires_grad=True)
    exact = network(x.float())
    (expected,) = torch.autograd.grad(exact.square().sum(), list(network.parameters()))
    quicken_depthwise(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = network(x)
    assert y.dtype == torch.bfloat16 and torch.equal(y, exact.bfloat16())
    (y.float() - y.detach() + exact.detach()).square().sum().backward()  # but for the rounding of y the same loss
    (found,) = (p.grad for p in network.parameters())
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=0.05)


@pytest.mark.parametrize(
    "other",
    [
        {"dilation": 1, "padding": 2},
        {"groups": 1},
        {"groups": 2},
        {"stride": 2},
        {"padding": 3},
        {"padding_mode": "reflect"},
    ],
)
def test_other_convolutions_are_left_alone(other: dict[str, object]) -> None:
    network = _network(**other)
    conv = network[0]
    quicken_depthwise(network)
    assert network[0] is conv
