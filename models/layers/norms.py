"""BatchNorm that is fixed keeps nothing for the backward pass."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


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
        ctx.save_for_backward(weight * torch.rsqrt(var + eps))
        return F.batch_norm(images, mean, var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (scale,) = ctx.saved_tensors
        zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
        # By the same kernel, for it multiplies bf16 by float32 without a copy.
        scaled = F.batch_norm(gradient, zeros, ones, scale, zeros, eps=0.0)
        return scaled, None, None, None, None, None
