"""Credible dual experts (Zhang et al., IJCV 2023): two classifiers that err differently correct the labels they learn from.

For the first tenth of the steps both learn the labels as given. From then on, at every scale: where one expert is confident and
the more confident of the two, its class replaces the label; where both are unsure, labels come from scores propagated along a
learned affinity; elsewhere the label stays. One expert has cross-entropy, the other Dice. CDL-e adds a third classifier that
sees strongly augmented copies and learns the labels refreshed from the clean images.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from configs.deeplab_schema import IGNORE_LABEL, DeepLabConfig
from deeplab.affinity import affinity_losses, propagate
from deeplab.losses import cross_entropies, dice_losses, resize_labels
from deeplab.network import ExpertMaps, MultiScaleExperts
from models.layers.precision import in_float32
from utils.runtime.processes import Dist, sum_over_ranks

# Below the first both experts are unsure; above the second one of them is a source to propagate from (published constants).
UNSURE, SOURCE = 0.5, 0.9
# With ImageNet weights the loss grows to its full weight over these steps (published).
RAMP_STEPS = 100
# Of pairs of two classes in the affinity loss.
NEGATIVE_WEIGHT = {"cdl_b": 1.0, "cdl_e": 2.0}


class RefreshRule(NamedTuple):
    """Who is believed, and where.

    Attributes:
        first, second: confidence from which the experts are believed.
        cosine: see `deeplab.affinity.similarity`.
        credit_ties: equally confident experts of one opinion are believed.
        ignored: ignored pixels get labels too.
    """

    first: float
    second: float
    cosine: bool
    credit_ties: bool = False
    ignored: bool = True

    @classmethod
    def of(cls, cfg: DeepLabConfig) -> "RefreshRule":
        """Return the configured rule."""
        thresholds, cdl = (cfg.thresholds.main_th, cfg.thresholds.aux_th), cfg.cdl
        first, second = reversed(thresholds) if cdl.swap_thresholds else thresholds
        return cls(first, second, cfg.method == "cdl_b", cdl.credit_ties, cdl.refresh_ignored)


class Refreshed(NamedTuple):
    """Labels as the experts have them, and those of them that a confident expert gave (255 elsewhere), (B, h, w) int64."""

    labels: Tensor
    credible: Tensor


@torch.no_grad()
def refresh(first: Tensor, second: Tensor, labels: Tensor, features: Tensor, rule: RefreshRule) -> Refreshed:
    """Return labels corrected by two experts.

    Args:
        first, second: their logits (B, classes, h, w).
        labels: (B, h, w) int64, 255 ignored.
        features: (B, D, h, w), for the affinity of the clean images.
        rule: who is believed.
    """
    (c1, y1), (c2, y2) = (logits.softmax(dim=1).max(dim=1) for logits in (first, second))
    credible = torch.full_like(labels, IGNORE_LABEL)
    credible = torch.where((c1 > c2) & (c1 >= rule.first), y1, credible)
    credible = torch.where((c2 > c1) & (c2 >= rule.second), y2, credible)
    if rule.credit_ties:
        agreed = (c1 == c2) & (y1 == y2) & (c1 >= min(rule.first, rule.second))
        credible = torch.where(agreed, y1, credible)
    ignored = labels == IGNORE_LABEL
    if not rule.ignored:
        credible = credible.masked_fill(ignored, IGNORE_LABEL)
    new = torch.where(credible != IGNORE_LABEL, credible, labels)
    unsure = (c1 < UNSURE) & (c2 < UNSURE)
    if not rule.ignored:
        unsure &= ~ignored
    sources = ((c1 > SOURCE) | (c2 > SOURCE)) & (new != IGNORE_LABEL)
    both = (first + second).flatten(2)
    flat, compared = new.flatten(1).clone(), features.flatten(2)
    for image, (there, wanted) in enumerate(zip(sources.flatten(1), unsure.flatten(1), strict=True)):
        targets = wanted.nonzero()[:, 0]
        if len(targets):
            origins, scores = there.nonzero()[:, 0], both[image]
            f = compared[image]
            spread = propagate(scores[:, origins], f[:, origins], f[:, targets], cosine=rule.cosine)
            flat[image, targets] = (scores[:, targets] + spread).argmax(dim=0)
    return Refreshed(flat.view_as(labels), credible)


class ExpertLosses(nn.Module):
    """The experts with their losses: what the training loop trains.

    Args:
        cfg: configuration; method is cdl_b or cdl_e.
        network: of `build_deeplab`.
        place: this process.
    """

    def __init__(self, cfg: DeepLabConfig, network: MultiScaleExperts, place: Dist) -> None:
        super().__init__()
        self.network, self.place, self.thresholds, self.cdl = network, place, cfg.thresholds, cfg.cdl
        self.steps, self.rule = cfg.solver.iter_max, RefreshRule.of(cfg)
        self.negative_weight = NEGATIVE_WEIGHT[cfg.method]
        self.balanced = cfg.thresholds.imagenet_init or cfg.train.loss == "balanced"

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Make one step's losses.

        Args:
            batch: images (B, 3, H, W); strong: their strongly augmented copies (cdl_e); labels (B, H, W) int64, 255 ignored;
                truth (B, H, W), where there is ground truth to compare with; share: this process's part of the global batch, 0
                for a borrowed image, which counts nothing; step: 0-based optimiser step.

        Returns:
            as `deeplab.losses.LossModule.forward`; losses are the sums over all scales of each expert and of the affinity.
        """
        share, step = batch["share"], batch["step"] + 1
        labels = batch["labels"] if share else torch.full_like(batch["labels"], IGNORE_LABEL)
        items: list[ExpertMaps] = self.network(batch["images"], batch.get("strong"))
        with in_float32(labels.device):
            given = [resize_labels(labels, (item.logits[0].shape[2], item.logits[0].shape[3])) for item in items]
            refreshed = self.refreshed(items, given) if share and self.refreshes(step) else None
            losses = self.losses(items, given, refreshed, step, share)
            loss = self.total(losses, step)
        seen = given if refreshed is None else [each.labels for each in refreshed]
        logged = {name: values.detach().sum() for name, values in losses.items()}
        views = {"refreshed": seen[0][:1]}
        views |= {f"expert_{n}": logits[:1].detach() for n, logits in enumerate(items[-1].logits, 1)}
        return {
            "loss": loss,
            "losses": {"loss": loss.detach(), **logged, **self._shares(batch, given[0], seen[0])},
            "views": views,
        }

    def refreshes(self, step: int) -> bool:
        """Return whether labels are refreshed in 1-based `step`."""
        return step > self.thresholds.start_ration * self.steps

    def total(self, losses: Mapping[str, Tensor], step: int) -> Tensor:
        """Return the weighted sum of `losses` in 1-based `step`."""
        t = self.thresholds
        weights = {
            "affinity": t.aff_loss_weight,
            "expert_1": t.loss_weight_1st,
            "expert_2": t.loss_weight_2nd,
            "expert_3": t.loss_weight_3rd,
        }
        ramp = step / RAMP_STEPS + 0.01 if t.imagenet_init and step < RAMP_STEPS else 1.0
        return ramp * torch.stack([values.sum() * weights[name] for name, values in losses.items()]).sum()

    def refreshed(self, items: list[ExpertMaps], given: list[Tensor]) -> list[Refreshed]:
        """Return each map's labels as the experts have them."""
        return [
            refresh(item.logits[0].detach(), item.logits[1].detach(), labels, item.features[: len(labels)].detach(), self.rule)
            for item, labels in zip(items, given, strict=True)
        ]

    def losses(
        self, items: list[ExpertMaps], given: list[Tensor], refreshed: list[Refreshed] | None, step: int, share: float
    ) -> dict[str, Tensor]:
        """Return name -> losses (M,) of all maps, unweighted, this process's part."""
        targets = given if refreshed is None else [each.labels for each in refreshed]
        credible = given if refreshed is None else [each.credible for each in refreshed]
        start = self.thresholds.start_ration * self.steps
        by_dice = step > start or (self.cdl.early_dice and step == start)
        heads = list(zip(*(item.logits for item in items), strict=True))
        names = {"expert_1": 0, **({} if by_dice else {"expert_2": 1}), **({"expert_3": 2} if len(heads) > 2 else {})}
        outputs = [logits for head in names.values() for logits in heads[head]]
        entropies = cross_entropies(outputs, targets * len(names), balanced=self.balanced, reduce_counts=self._over_processes)
        losses = dict(zip(names, entropies.view(len(names), -1), strict=True))
        if by_dice:
            losses["expert_2"] = dice_losses(
                heads[1], targets, counts_ignored=self.cdl.dice_counts_ignored, share=share, place=self.place
            )
        losses["affinity"] = affinity_losses(
            [item.features for item in items],
            credible,
            cosine=self.rule.cosine,
            negative_weight=self.negative_weight,
            reduce_counts=self._over_processes,
        )
        return losses

    def _over_processes(self, counts: Tensor) -> Tensor:
        return sum_over_ranks(counts, self.place.world)

    @torch.no_grad()
    def _shares(self, batch: Mapping[str, Any], given: Tensor, refreshed: Tensor) -> dict[str, Tensor]:
        """Return, of the pixels of the first map, parts in [0, 1] to log: refreshed ones, and right ones before and after."""
        whole = self._over_processes(torch.full((1,), float(given.numel()) if batch["share"] else 0.0, device=given.device))
        shares = {"share/refreshed": (given != refreshed).sum() / whole.clamp_min(1)[0]}
        if "truth" in batch:
            truth = resize_labels(batch["truth"], (given.shape[1], given.shape[2]))
            known = (truth != IGNORE_LABEL) & (given != IGNORE_LABEL) & bool(batch["share"])
            number = self._over_processes(known.sum().float().view(1)).clamp_min(1)[0]
            for name, labels in (("share/right_given", given), ("share/right_refreshed", refreshed)):
                shares[name] = ((labels == truth) & known).sum() / number
        return shares
