"""The CAM head shared by all trunks: a 1 x 1 classifier with a background channel, refined by learned pixel affinity."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5
AFFINITY_GAIN = 4.0
# Elements of one block of the affinity matrix while no gradient is kept (64 MiB in float32).
BLOCK_ELEMENTS = 2**24


def refine(score_map: Tensor, features: Tensor, *, block_elements: int = BLOCK_ELEMENTS) -> Tensor:
    """Propagate scores along pixel affinity: out_j = sum_i score_i relu<f_i, f_j> / (sum_i relu<f_i, f_j> + 1e-5).

    The published program refines 4096 features before the classifier; the classifier is linear, so refining its few score
    channels gives the same numbers at a fraction of the cost, and columns can be done in blocks without the N x N matrix.

    Args:
        score_map: (B, D, h, w).
        features: (B, E, h, w) affinity features, not normalised.
        block_elements: affinity entries computed at once when no gradient is needed.

    Returns:
        (B, D, h, w) float32.
    """
    size = score_map.shape[2:]
    with torch.autocast(score_map.device.type, enabled=False):
        scores = score_map.float().flatten(2)
        f = features.float().flatten(2)
        f = f / (f.norm(dim=1, keepdim=True) + EPSILON)
        cells = f.shape[2]
        # A row of ones gives the normaliser in the same product.
        augmented = torch.cat([scores, torch.ones_like(scores[:, :1])], dim=1)
        keeps_graph = torch.is_grad_enabled() and (f.requires_grad or scores.requires_grad)
        block = cells if keeps_graph else max(1, min(cells, block_elements // (cells * f.shape[0])))
        columns = [augmented @ (f.transpose(1, 2) @ part).relu_() for part in f.split(block, dim=2)]
        out = torch.cat(columns, dim=2)
        return (out[:, :-1] / (out[:, -1:] + EPSILON)).unflatten(2, size)


class CamHead(nn.Module):
    """Classifier, two side projections and the affinity projection; no layer has a bias.

    Args:
        in_channels: of the trunk's features.
        side_channels: of its two side features.
        num_classes: foreground classes C; the background channel is the last one, index C.
        side_dims: channels of the projections (published: 64 and 128).
        affinity_dim: channels compared (published: 192).
    """

    def __init__(
        self,
        in_channels: int,
        side_channels: tuple[int, int],
        num_classes: int,
        side_dims: tuple[int, int] = (64, 128),
        affinity_dim: int = 192,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classifier = nn.Conv2d(in_channels, num_classes + 1, 1, bias=False)
        self.side_a = nn.Conv2d(side_channels[0], side_dims[0], 1, bias=False)
        self.side_b = nn.Conv2d(side_channels[1], side_dims[1], 1, bias=False)
        self.affinity = nn.Conv2d(3 + sum(side_dims), affinity_dim, 1, bias=False)
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.kaiming_normal_(self.side_a.weight)
        nn.init.kaiming_normal_(self.side_b.weight)
        nn.init.xavier_uniform_(self.affinity.weight, gain=AFFINITY_GAIN)

    def forward(
        self, images: Tensor, side_a: Tensor, side_b: Tensor, features: Tensor, channels: Tensor | None = None
    ) -> Tensor:
        """Return plain plus refined scores.

        Args:
            images: (B, 3, H, W), resized to the feature grid as three of the affinity channels.
            side_a: first side feature; no gradient flows into the trunk through it (published).
            side_b: second side feature, likewise.
            features: (B, in_channels, h, w).
            channels: indices of the score channels wanted; None is all C + 1.

        Returns:
            (B, C + 1 or len(channels), h, w) float32.
        """
        weight = self.classifier.weight if channels is None else self.classifier.weight[channels]
        scores = F.conv2d(features, weight)
        size = (features.shape[2], features.shape[3])
        parts = [images, self.side_a(side_a.detach()), self.side_b(side_b.detach())]
        resized = [p if p.shape[2:] == size else F.interpolate(p, size, mode="bilinear", align_corners=True) for p in parts]
        return scores.float() + refine(scores, self.affinity(torch.cat(resized, dim=1)))
