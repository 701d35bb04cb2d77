"""A vision transformer under DeiT's key names, whose blocks may run several times and tell what the class token looks at."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from configs.fields import BELOW_ONE, COUNT, SIDE, Checked, key

NORM_EPSILON = 1e-6
INIT_STD = 0.02
MLP_RATIO = 4


@dataclass
class VitConfig(Checked):
    """Section `vit` of a method: a transformer that sees square tiles. Defaults are the published DeiT-S of CRT."""

    pretrained: str = key("", "its ImageNet weights: DeiT's or timm's file, or timm:<name>; empty: from scratch")
    depth: int = key(12, "blocks", within=COUNT)
    width: int = key(384, "channels of a token; a multiple of heads", within=COUNT)
    heads: int = key(6, "attention heads", within=COUNT)
    patch: int = key(16, "side of a token, pixels", within=SIDE)
    tile: int = key(224, "side of the tiles it sees, pixels; a multiple of patch", within=SIDE)
    drop_path: float = key(
        0.0, "stochastic depth: chance that the last block's branches are skipped, from 0 at the first on", within=BELOW_ONE
    )

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        named = (self.pretrained != "hub", f"{name}pretrained is hub, expected e.g. timm:deit_small_patch16_224.fb_in1k")
        return [
            named,
            *[
                (
                    getattr(self, whole) % getattr(self, part) == 0,
                    f"{name}{whole} is {getattr(self, whole)}, expected a multiple of {name}{part} ({getattr(self, part)})",
                )
                for whole, part in (("width", "heads"), ("tile", "patch"))
            ],
        ]


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values of all heads come from one linear layer, in that order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, look: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return (B, N, width) and, with `look`, the first token's attention to the others, (B, N - 1), mean over the heads."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        seen = None
        if look:  # one row of the attention matrix is all that is asked for
            row: Tensor = (q[:, :, :1] * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
            seen = row.float().softmax(dim=3).mean(dim=1)[:, 0, 1:]
        return self.proj(mixed), seen


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a LayerNorm and beside a shortcut, which training may take alone."""

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = drop_path
        inner = MLP_RATIO * width
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(width, inner), act=nn.GELU(), fc2=nn.Linear(inner, width)))

    def forward(self, tokens: Tensor, look: bool = False) -> tuple[Tensor, Tensor | None]:
        """Map (B, N, width) to the same; `look` as in `Attention`."""
        mixed, seen = self.attn(self.norm1(tokens), look)
        tokens = tokens + self._dropped(mixed)
        return tokens + self._dropped(self.mlp(self.norm2(tokens))), seen

    def _dropped(self, branch: Tensor) -> Tensor:
        """Leave a branch (B, N, width) out for some of the images, and strengthen it for the others by as much."""
        if not self.training or not self.drop_path:
            return branch
        keep = 1 - self.drop_path
        return branch * (torch.rand(len(branch), 1, 1, device=branch.device) < keep) / keep


class VisionTransformer(nn.Module):
    """Tiles to tokens (DeiT without its classifier); no dropout.

    Args:
        vit: sizes.
        passes: how often all blocks are run, with the same weights.
        outer_residual: what a pass began with is added to its result, on top of the blocks' own shortcuts (CRT).
    """

    classifier_keys = ("head.*", "head_dist.*")  # of ImageNet's files
    head_modules: tuple[nn.Module, ...] = ()

    def __init__(self, vit: VitConfig, passes: int = 1, *, outer_residual: bool = False) -> None:
        super().__init__()
        self.grid, self.passes, self.outer_residual = vit.tile // vit.patch, passes, outer_residual
        self.checkpoint_activations = False
        self.cls_token = nn.Parameter(torch.zeros(1, 1, vit.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, vit.width))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, vit.width, vit.patch, vit.patch)))
        rates = [vit.drop_path * number / max(1, vit.depth - 1) for number in range(vit.depth)]
        self.blocks = nn.ModuleList(Block(vit.width, vit.heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(vit.width, eps=NORM_EPSILON)
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)

    def forward(self, tiles: Tensor, look: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return tokens and attention of tiles.

        Args:
            tiles: (B, 3, tile, tile) normalised RGB.
            look: also sum, over all runs of all blocks, what the class token looks at.

        Returns:
            (B, 1 + g * g, width) normalised tokens, the class token first, then the patches row by row (g = tile / patch);
            with `look` (B, g, g), non-negative, its sum below depth * passes, else None.
        """
        tokens = self.patch_embed(tiles).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos_embed
        looks = tokens.new_zeros(len(tokens), self.grid**2, dtype=torch.float32) if look else None
        for _ in range(self.passes):
            start = tokens
            for block in self.blocks:
                tokens, seen = self._run(block, tokens, look)
                looks = looks + seen if looks is not None and seen is not None else looks
            if self.outer_residual:
                tokens = start + tokens
        return self.norm(tokens), None if looks is None else looks.unflatten(1, (self.grid, self.grid))

    def _run(self, block: nn.Module, tokens: Tensor, look: bool) -> tuple[Tensor, Tensor | None]:
        if self.checkpoint_activations and torch.is_grad_enabled():
            kept: tuple[Tensor, Tensor | None] = checkpoint(block, tokens, look, use_reentrant=False)
            return kept
        found: tuple[Tensor, Tensor | None] = block(tokens, look)
        return found
