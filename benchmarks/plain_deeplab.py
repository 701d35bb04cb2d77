"""DeepLab v2 (ResNet-101, three scales and their maximum), its training step and its test, from their description.

The slow side of the comparison: float32, eager; labels are resized on the host by PIL, one image and scale after the other;
normalisation is frozen but has gradients; every loss is read at once; test keeps soft-max maps and int64 predictions.
Nothing here is used by the project, and nothing of the project is used here.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]
SCALES = (0.5, 0.75)
RATES = (6, 12, 18, 24)
LAYERS = (("layer2", 1, 1), ("layer3", 2, 1), ("layer4", 1, 2), ("layer5", 1, 4))
IGNORE, EPSILON = 255, 1e-5
BASE_RATE, MOMENTUM, DECAY = 2.5e-4, 0.9, 5e-4


def _unit(w: Weights, name: str, x: Tensor, *, stride: int = 1, dilation: int = 1, relu: bool = True) -> Tensor:
    weight = w[f"{name}.conv.weight"]
    x = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2 * dilation, dilation=dilation)
    bn = f"{name}.bn"
    mean, variance = w[f"{bn}.running_mean"], w[f"{bn}.running_var"]
    x = F.batch_norm(x, mean, variance, w[f"{bn}.weight"], w[f"{bn}.bias"], False, 0.0, EPSILON)
    return F.relu(x) if relu else x


def base(w: Weights, images: Tensor, blocks: Sequence[int]) -> Tensor:
    """Return (B, classes, h, w) logits of one scale; `w` has names without the wrapper's prefix."""
    x = F.max_pool2d(_unit(w, "layer1.conv1", images, stride=2), 3, 2, 1, ceil_mode=True)
    for (layer, stride, dilation), count in zip(LAYERS, blocks, strict=True):
        for number in range(1, count + 1):
            name, step = f"{layer}.block{number}", stride if number == 1 else 1
            main = _unit(w, f"{name}.reduce", x, stride=step)
            main = _unit(w, f"{name}.conv3x3", main, dilation=dilation)
            main = _unit(w, f"{name}.increase", main, relu=False)
            x = F.relu(main + (_unit(w, f"{name}.shortcut", x, stride=step, relu=False) if number == 1 else x))
    branches = [F.conv2d(x, w[f"aspp.c{i}.weight"], w[f"aspp.c{i}.bias"], padding=r, dilation=r) for i, r in enumerate(RATES)]
    return torch.stack(branches).sum(0)


def outputs(w: Weights, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
    """Return the logits of the input, of both smaller copies, and the maximum of the three."""
    logits = base(w, images, blocks)
    smaller = [base(w, F.interpolate(images, scale_factor=s, mode="bilinear", align_corners=False), blocks) for s in SCALES]
    large = [F.interpolate(x, size=logits.shape[2:], mode="bilinear", align_corners=False) for x in smaller]
    return [logits, *smaller, torch.max(torch.stack([logits, *large]), dim=0)[0]]


class Trainer:
    """The published optimiser step.

    Args:
        weights: entries by name; learned in place.
        blocks: bottlenecks of the four stages.
    """

    def __init__(self, weights: Weights, blocks: Sequence[int]) -> None:
        self.weights = {k: v.clone() for k, v in weights.items()}
        self.blocks = blocks
        learned = {k: v.requires_grad_() for k, v in self.weights.items() if "running" not in k and v.is_floating_point()}
        groups = [
            {"params": [v for k, v in learned.items() if ".conv.weight" in k], "lr": BASE_RATE},
            {"params": [v for k, v in learned.items() if "aspp" in k and "weight" in k], "lr": 10 * BASE_RATE},
            {"params": [v for k, v in learned.items() if "aspp" in k and "bias" in k], "lr": 20 * BASE_RATE, "weight_decay": 0},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=BASE_RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def step(self, images: Tensor, labels: Tensor) -> float:
        """Learn from one mini-batch; return the sum of the four losses."""
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=images.device)
        for logits in outputs(self.weights, images, self.blocks):
            height, width = logits.shape[2:]
            small = [
                np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.NEAREST))
                for one in labels.float().numpy()
            ]
            target = torch.from_numpy(np.stack(small)).long().to(images.device)
            loss = loss + F.cross_entropy(logits, target, ignore_index=IGNORE)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def test_image(w: Weights, image: Tensor, truth: NDArray[np.uint8], blocks: Sequence[int]) -> tuple[Tensor, NDArray[np.int64]]:
    """Return the logits (1, classes, h, w) of one image on the host, and its confusion matrix: up to full size, soft-max,
    arg-max, counted."""
    with torch.no_grad():
        logits = outputs(w, image, blocks)[-1].cpu()
        large = F.interpolate(logits, size=truth.shape, mode="bilinear", align_corners=False)
        predicted = F.softmax(large, dim=1)[0].argmax(0).numpy().astype(np.int64)
    classes = logits.shape[1]
    mask = truth < classes
    pairs = classes * truth[mask].astype(np.int64) + predicted[mask]
    return logits, np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
