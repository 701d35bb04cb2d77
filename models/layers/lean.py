"""Layers that compute the same in less time on a CPU, or keep less for the backward pass."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.layers.precision import in_float32


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that keeps the picture's size; equal to `nn.Conv2d` but for the rounding of gradients.

    On a CPU torch (2.15) has no fast gradient of a dilated depthwise convolution with respect to its input: for
    (8, 1152, 14, 14), 5 x 5, dilation 2, it takes 30 times the forward pass. That gradient is the convolution with the
    kernel turned by 180 degrees, which is fast.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, H, W)."""
        if input.device.type != "cpu":
            return super().forward(input)
        result: Tensor = _SameSizeDepthwise.apply(input, self.weight, self.padding, self.dilation)
        return result if self.bias is None else result + self.bias[:, None, None]


def quicken_depthwise(network: nn.Module) -> None:
    """Make each dilated depthwise convolution of `network` a `DepthwiseConv2d`, in place.

    The other ones compute in float32 under autocast on a CPU, for torch (2.14) has no fast bf16 gradients of them.
    """
    for conv in network.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels > 1:
            conv.__class__ = DepthwiseConv2d if _fits(conv) else _float32_inside(type(conv))


def _float32_inside(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    def forward(self: nn.Conv2d, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return kind.forward(self, input)
        with in_float32(input.device):
            return kind.forward(self, input.float()).to(input.dtype)

    return type(kind.__name__, (kind,), {"forward": forward})


def _fits(conv: nn.Conv2d) -> bool:
    same_size = all(
        padding == dilation * (kernel - 1) // 2 and kernel % 2 == 1
        for padding, dilation, kernel in zip(conv.padding, conv.dilation, conv.kernel_size, strict=True)
    )
    plain = type(conv) is nn.Conv2d and conv.in_channels == conv.out_channels and conv.padding_mode == "zeros"
    return plain and same_size and conv.stride == (1, 1) and max(conv.dilation) > 1


class _SameSizeDepthwise(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, images: Tensor, weight: Tensor, padding: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return F.conv2d(images, weight, None, 1, padding, dilation, weight.shape[0])

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        images, weight = ctx.saved_tensors
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            of_images = F.conv2d(gradient, weight.flip(2, 3), None, 1, ctx.padding, ctx.dilation, weight.shape[0])
        if ctx.needs_input_grad[1]:
            of_weight = torch.ops.aten.convolution_backward(
                gradient, images, weight, None, [1, 1], ctx.padding, ctx.dilation, False, [0, 0], weight.shape[0],
                [False, True, False],
            )[1]  # fmt: skip
        return of_images, of_weight, None, None


# Layout of networks that are only evaluated, on any device; for those that train see `training_format`.
INFERENCE_FORMAT = torch.channels_last
# Below this many input channels torch (2.15) crashes on CPUs, see `PointwiseConv2d`.
SAFE_CHANNELS = 16


class PointwiseConv2d(nn.Conv2d):
    """A 1 x 1 convolution; with few channels it takes every stride-th pixel first, which is the same.

    Why: the gradient of a strided 1 x 1 convolution of fewer than 16 channels in channels_last layout writes where it must
    not (oneDNN in torch 2.15, segmentation fault for views of about 56 pixels and more).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, H, W)."""
        if self.in_channels >= SAFE_CHANNELS:
            return super().forward(input)
        rows, columns = self.stride
        return F.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias)


def training_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Return the memory layout that `network` trains fastest in: channels_last, unless it could meet the crash above."""
    crashes = device.type == "cpu" and any(_crashes(module) for module in network.modules())
    return torch.contiguous_format if crashes else torch.channels_last


def _crashes(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or isinstance(module, PointwiseConv2d):
        return False
    return module.kernel_size == (1, 1) and max(module.stride) > 1 and module.in_channels < SAFE_CHANNELS


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Return all BatchNorm layers of a module."""
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def freeze_norms(module: nn.Module) -> None:
    """Take scale and shift of each BatchNorm of `module` out of training, in place; what keeps its statistics is its mode.

    In evaluation mode such a layer multiplies by constants, so its gradient needs no activations; torch (2.14) keeps its input
    all the same, which is half of what a ResNet keeps.
    """
    for norm in batch_norms(module):
        norm.requires_grad_(False)
        if type(norm) is nn.BatchNorm2d or {"drop", "act"} <= dict(norm.named_children()).keys():
            norm.__class__ = type(type(norm).__name__, (_LeanNorm, type(norm)), {})


class _LeanNorm(nn.BatchNorm2d):
    """What `freeze_norms` makes of a BatchNorm, timm's with an activation inside among them."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        if self.training or self.weight.requires_grad or not (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)
        output: Tensor = _Constant.apply(input, self.running_mean, self.running_var, self.weight, self.bias, self.eps)
        for layer in self.children():
            output = layer(output)
        return output


class _Constant(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(weight, var)
        ctx.eps = eps
        return F.batch_norm(images, mean, var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, var = ctx.saved_tensors
        zeros = torch.zeros_like(var)
        # The same without mean and shift; by the same kernel, for it multiplies bf16 by float32 without a copy.
        return F.batch_norm(gradient, zeros, var, weight, zeros, eps=ctx.eps), None, None, None, None, None
