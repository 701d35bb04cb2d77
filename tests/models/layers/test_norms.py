import copy

import pytest
import torch
from torch import Tensor, nn

from models.layers.lean import batch_norms, freeze_norms


def _network(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1))
    for layer in batch_norms(network):
        assert isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None
        layer.weight.data.uniform_(0.2, 2), layer.bias.data.normal_()
        layer.running_mean.normal_(), layer.running_var.uniform_(0.2, 2)
    return network


def _with_activation() -> nn.Module:
    layers = pytest.importorskip("timm.layers")
    norm: nn.Module = layers.BatchNormAct2d(8, act_layer=nn.ReLU6)
    return norm


def _step(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return output, gradient of the first weights, and the bytes kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    network.eval()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(images)
    output.float().square().sum().backward()
    gradient = network.get_parameter("0.weight").grad
    assert gradient is not None
    return output, gradient, sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", [lambda: nn.BatchNorm2d(8), _with_activation], ids=["torch", "timm"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_fixed_norm_computes_the_same_and_keeps_less(dtype: torch.dtype, norm: object, layout: torch.memory_format) -> None:
    assert callable(norm)
    plain = _network(norm())
    fixed = copy.deepcopy(plain)
    freeze_norms(fixed)
    fixed = copy.deepcopy(fixed)  # as averaged weights are
    for layer in batch_norms(plain):
        layer.requires_grad_(False)
    images = torch.randn(2, 3, 16, 16).to(memory_format=layout)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        (output, gradient, kept), (ours, our_gradient, ours_kept) = _step(plain, images), _step(fixed, images)
    assert torch.equal(output, ours) and plain.state_dict().keys() == fixed.state_dict().keys()
    torch.testing.assert_close(our_gradient, gradient, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-3)
    assert ours_kept <= kept - output.element_size() * 2 * 8 * 14 * 14


def test_what_learns_again_or_uses_the_batch_is_an_ordinary_norm() -> None:
    plain = _network(nn.BatchNorm2d(8))
    other = copy.deepcopy(plain)
    freeze_norms(other)
    other.requires_grad_(True)
    images = torch.randn(2, 3, 16, 16)
    for training in (False, True):
        for network in (plain, other):
            network.zero_grad()
            network.train(training)(images).square().sum().backward()
        for (name, one), (_, two) in zip(plain.named_parameters(), other.named_parameters(), strict=True):
            assert torch.equal(one.grad, two.grad), name  # type: ignore[arg-type]
    assert torch.equal(plain.get_buffer("1.running_mean"), other.get_buffer("1.running_mean"))
