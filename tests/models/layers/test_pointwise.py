"""Strided 1 x 1 convolutions of few channels, and the layout networks train in."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from models.backbones.resnet38 import ResNet38
from models.layers.lean import PointwiseConv2d, training_format

ROOT = Path(__file__).parents[3]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")

# In a process of its own: where this goes wrong it ends the process.
NARROW_STEP = """
import torch
from models.layers.lean import training_format
from models.backbones.resnet38 import ResNet38
network = ResNet38(width=0.125)
layout = training_format(network, torch.device("cpu"))
assert layout == torch.channels_last
network.to(memory_format=layout)(torch.randn(2, 3, 96, 96))[2].sum().backward()
"""


@pytest.mark.parametrize(("channels", "size"), [(8, 12), (8, 13), (16, 12)])
def test_equals_a_strided_convolution(channels: int, size: int) -> None:
    torch.manual_seed(0)
    ours = PointwiseConv2d(channels, 5, 1, stride=2)
    plain = nn.Conv2d(channels, 5, 1, stride=2)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, channels, size, size)
    torch.testing.assert_close(ours(x), plain(x))


def test_a_narrow_resnet38_trains_in_channels_last() -> None:
    done = subprocess.run([sys.executable, "-c", NARROW_STEP], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_layout_avoids_the_crash() -> None:
    risky = nn.Sequential(nn.Conv2d(8, 16, 1, stride=2))
    assert training_format(risky, CPU) == torch.contiguous_format
    assert training_format(risky, CUDA) == torch.channels_last
    for safe in (nn.Conv2d(16, 16, 1, stride=2), nn.Conv2d(8, 16, 3, stride=2), nn.Conv2d(8, 16, 1), ResNet38(0.125)):
        assert training_format(nn.Sequential(safe), CPU) == torch.channels_last
