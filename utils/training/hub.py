"""ImageNet weights by the name of a trunk, from the library that publishes them: `model.pretrained: hub`.

Files are fetched and cached as the libraries do: torchvision's in `torch.hub.get_dir()`, timm's in Hugging Face's cache.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, distributed

from utils.errors import UserError
from utils.training.weights import check_finite, first_line

HUB = "hub"
TIMM_PREFIX = "timm:"
# torchvision's documented names; its newer recipe where there is one.
TORCHVISION = {
    "resnet50": "ResNet50_Weights.IMAGENET1K_V2",
    "resnet101": "ResNet101_Weights.IMAGENET1K_V2",
    "resnet152": "ResNet152_Weights.IMAGENET1K_V2",
    "vgg16": "VGG16_Weights.IMAGENET1K_V1",
}
# Parts of timm's tags whose weights learnt from masks: only by their full name, never as a default.
MASK_SUPERVISED = ("sa1b", "sam", "coco", "ade20k")


class HubWeights(NamedTuple):
    """Weights under their library's names, their classifier included; what they are, and how pictures were normalised.

    `source` names library, weights and licence; `mean` and `std` are those of RGB in [0, 1] the network learnt with.
    """

    state: dict[str, Tensor]
    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def advice(self, mean: list[float], std: list[float]) -> str:
        """Return a sentence where a configuration normalises pictures otherwise, else nothing."""
        pairs = [*zip(self.mean, mean, strict=True), *zip(self.std, std, strict=True)]
        if all(abs(theirs - ours) < NOTICED for theirs, ours in pairs):
            return ""
        return (
            f"{self.source} learnt with mean {list(self.mean)} and std {list(self.std)}, the configuration says {mean}, {std}"
        )


# Differences of mean or std, of 1, that are worth a word; COCO's own constants are below.
NOTICED = 0.02


def hub_weights(backbone: str) -> HubWeights:
    """Fetch the ImageNet weights of a trunk, or take them from the cache; of several processes the first fetches.

    Args:
        backbone: a trunk, as `model.backbone` names it; timm's may have a tag, timm:resnet50.a1_in1k.

    Raises:
        UserError: where nothing is published for it, or it cannot be fetched: then with the file to get and where to put it.
    """
    with _first_process_first():
        found = _timm(backbone) if backbone.startswith(TIMM_PREFIX) else _torchvision(backbone)
    check_finite(found.state, found.source)
    return found


def _torchvision(backbone: str) -> HubWeights:
    from torchvision.models import get_weight

    if backbone not in TORCHVISION:
        raise UserError(
            f"model.pretrained is {HUB}, but no library publishes weights for {backbone}; give a file, or take one of "
            f"{', '.join(TORCHVISION)}, {TIMM_PREFIX}<name> as model.backbone"
        )
    weights = get_weight(TORCHVISION[backbone])
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state = weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # network, disk, damage: each library raises its own
        raise _unreachable(TORCHVISION[backbone], weights.url, f"put it into {folder}", error) from error
    as_trained = weights.transforms()
    source = f"{TORCHVISION[backbone]} of torchvision (BSD-3-Clause)"
    return HubWeights(dict(state), source, tuple(as_trained.mean), tuple(as_trained.std))


def _timm(backbone: str) -> HubWeights:
    try:
        import timm
    except ImportError as error:
        raise UserError(f"model.backbone {backbone} needs the timm library; run: pip install timm") from error
    name = backbone.removeprefix(TIMM_PREFIX)
    known = timm.get_pretrained_cfg(name)
    if known is None or not known.has_weights:
        raise UserError(f"model.pretrained is {HUB}, but timm {timm.__version__} has no weights for {name}; give a file")
    tag = known.tag or ""
    if any(part in tag for part in MASK_SUPERVISED) and not name.endswith(f".{tag}"):
        raise UserError(
            f"the weights of {name} learnt from masks ({tag}); if that is what you want, say model.backbone={backbone}.{tag}"
        )
    full = known.hf_hub_id or f"{name}.{tag}"
    url = f"https://huggingface.co/{full}/resolve/main/model.safetensors" if known.hf_hub_id else str(known.url)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a dozen lines about trials, before ours says what to do
    logging.getLogger("l2g").info("weights %s are taken from the cache, or fetched", full)
    try:
        state = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # network, disk, damage: each library raises its own
        raise _unreachable(full, url, "set model.pretrained to it", error) from error
    source = f"{full} of timm ({known.license or 'licence not stated, see its page'})"
    return HubWeights(dict(state), source, tuple(known.mean), tuple(known.std))


def _unreachable(name: str, url: str, where: str, error: Exception) -> UserError:
    why = f"{type(error).__name__}: {first_line(error)[:120]}"
    return UserError(f"weights {name} cannot be fetched ({why}); where there is a network get {url}, and {where}")


@contextlib.contextmanager
def _first_process_first() -> Iterator[None]:
    """Let the main process fetch; the others then find the file in the cache."""
    several = distributed.is_available() and distributed.is_initialized()
    if several and distributed.get_rank():
        distributed.barrier()
    try:
        yield
    finally:
        if several and not distributed.get_rank():
            distributed.barrier()
