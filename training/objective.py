"""The training objective: each model's own, and optional supervision from simulated masks."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genesis_core import ConfigError, SlotModel, SlotOutput
from genesis_core.kinds import KINDS, OBJECT, ROBOT, SURROUNDINGS
from genesis_core.models.efficientnet import EfficientNetLite0
from genesis_core.models.icsbp import Clusters
from genesis_core.models.losses import (
    UNKNOWN_LABEL,
    encoder_drift,
    hard_slot_kind_supervision,
    images_at,
    kind_supervision,
    labels_at,
    latent_anchor,
    log_masks_at,
    mask_distillation,
    mask_supervision,
    overlap_supervision,
    pixel_kind_supervision,
    region_mixture,
    sgmm_nll,
)
from training.augment import Batch
from training.counter_random import CounterRandom

Randomness = dict[str, Tensor]
"""What a model's forward pass draws, by argument; see ``SlotModel.draws``."""
_PURPOSE = 2  # of the random numbers, see CounterRandom


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the objective's terms. The defaults are the paper's.

    GENESIS-V2, GENESIS and MONet-G minimise nll + beta * KL, with GECO's beta; Slot Attention has
    no likelihood and minimises the mean squared error, whatever GECO's settings say.

    Attributes:
        masks_only: whether to train IC-SBP's masks alone, by mask_supervision, overlap_supervision
            or region_mixture, instead of the model's own objective: neither posterior nor decoder
            is run (GENESIS-V2 only).
        hard_masks: whether to train with IC-SBP's masks of zeros and ones (Section 3.1), instead of
            probabilities (GENESIS-V2 only).
        goal: GECO's goal for the nll, in nats per pixel and channel.
        geco_step_size: eta at 64x64; 1e-5 suits the paper's 500,000 steps, short runs need more.
        beta_init: GECO's first beta; None takes the paper's, 1 or 1e-10 with the mask loss.
        noise_warmup_steps: steps over which the posterior's noise grows from none to its full size
            (not in the paper). A new posterior is nearly all noise, from which a decoder learns
            for a long time nothing but an average image.
        initial_std: standard deviation that every latent's posterior starts with, whatever ``init``
            says; None leaves it as it is, near 1 for a new model (not in the paper; GENESIS-V2
            only). A new posterior is nearly all noise, see noise_warmup_steps.
        mask_supervision: weight of the ground-truth loss on IC-SBP's masks (not in the paper), a
            mean over the labelled images of a batch (GENESIS-V2 only).
        overlap_supervision: weight of a ground-truth loss on IC-SBP's masks, cut where its kernel
            is one half: a bound of one minus their intersection over union (not in the paper;
            GENESIS-V2 only). For a model that mask_supervision has trained, with hard_masks, so
            that no seed lies in an earlier mask. The kernel's scale is then one parameter too
            many: freeze icsbp.
        kind_supervision: weight of the ground-truth loss on the kinds of slots, a mean over the
            labelled images that are encoded, or of pixels with masks_only (not in the paper; for
            data that say which label is the robot's, and models with ``kinds``).
        slot_kind_supervision: weight of the same loss on the kinds of hard masks, with masks_only
            and hard_masks, beside kind_supervision: a piece of the surroundings that is taken for
            an object then counts as much as an object (not in the paper).
        robot_weight: how much the robot counts in these two, with masks_only, where everything else
            counts 1: of the masks of a scene few are on the robot.
        region_mixture: weight of the loss that makes IC-SBP's masks regions alike in colour and
            place (not in the paper; GENESIS-V2 only), see ``losses.region_mixture``.
            Needs no labels, and finds objects thousands of steps before the paper's objective does.
        mask_distillation: weight of the loss that teaches the decoder's masks IC-SBP's (not in
            the paper; GENESIS-V2 only).
        hard_distillation: teach them at each pixel the slot whose mask is largest there, in place
            of all masks' shares: what is segmented is the largest (GENESIS-V2 only).
        stop_threshold: where the slots of an image stop that posterior and decoder learn from, in
            pixels at 64x64, as they do in use; None for all of them (GENESIS-V2 only). On a CPU,
            slots that are not used cost nothing.
        latent_anchor: weight of the loss that makes the first dimensions of a latent the slot's
            mean colour, place and extent (not in the paper; GENESIS-V2 only). Without it, a new
            decoder learns for a long time nothing but an average image.
        attention_likelihood: whether to take the likelihood under IC-SBP's masks, which it then
            does not train, in place of the decoder's (not in the paper; GENESIS-V2 only). For
            masks that are learned by supervision: each slot is at once told its own pixels.
        style_noise: standard deviation of the noise on the means of the encoder's channels, in
            standard deviations of each channel in the image, for half of the images (not in the
            paper; GENESIS-V2 with EfficientNet-Lite0 only). See ``EfficientNetLite0.restyled``.
        encoder_anchor: weight of the loss that holds the encoder to what it gave when the run
            began, on images without depth, see ``losses.encoder_drift``: a mean over all images, in
            which those with depth count 0 (not in the paper; GENESIS-V2 with EfficientNet-Lite0
            only). One that learns from generated scenes alone forgets what images of the world
            look like.
        decoded_images: how many of a process's images of a step to decode, the last ones, which
            are the unlabelled ones if there are any; 0 for all (GENESIS-V2 only). For masks with a
            loss of their own: that and latent_anchor are cheap, and look at all images.
    """

    masks_only: bool = False
    hard_masks: bool = False
    goal: float = 0.5655
    geco_step_size: float = 1e-5
    beta_init: float | None = None
    noise_warmup_steps: int = 0
    initial_std: float | None = None
    mask_supervision: float = 0.0
    overlap_supervision: float = 0.0
    kind_supervision: float = 0.0
    slot_kind_supervision: float = 0.0
    robot_weight: float = 1.0
    region_mixture: float = 0.0
    mask_distillation: float = 0.0
    hard_distillation: bool = False
    stop_threshold: float | None = None
    latent_anchor: float = 0.0
    attention_likelihood: bool = False
    style_noise: float = 0.0
    encoder_anchor: float = 0.0
    decoded_images: int = 0

    def __post_init__(self) -> None:
        for name in (
            "mask_supervision",
            "overlap_supervision",
            "kind_supervision",
            "slot_kind_supervision",
            "region_mixture",
            "mask_distillation",
            "latent_anchor",
            "style_noise",
            "encoder_anchor",
            "decoded_images",
            "noise_warmup_steps",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"objective.{name} is {getattr(self, name)}; expected 0 or more")
        for name in (
            "geco_step_size",
            "beta_init",
            "initial_std",
            "robot_weight",
            "stop_threshold",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"objective.{name} is {value}; expected > 0")
        unused = [
            f"objective.{name}"
            for name in (
                "mask_distillation",
                "hard_distillation",
                "stop_threshold",
                "latent_anchor",
                "attention_likelihood",
                "decoded_images",
                "initial_std",
                "noise_warmup_steps",
            )
            if getattr(self, name)
        ]
        if self.masks_only and unused:
            raise ConfigError(
                "objective.masks_only trains neither posterior nor decoder, so these have no "
                f"effect: {', '.join(unused)}. Leave them out, or set masks_only to false"
            )
        if self.hard_distillation and not self.mask_distillation:
            raise ConfigError(
                "objective.hard_distillation is true, but objective.mask_distillation is 0: give "
                "it a weight"
            )
        for name in ("mask_supervision", "region_mixture"):
            if self.hard_masks and getattr(self, name):
                raise ConfigError(
                    f"objective.{name} is {getattr(self, name)}, but objective.hard_masks is true, "
                    "and it trains masks of probabilities: set one of them to 0 or false, or use "
                    "overlap_supervision"
                )
        if self.overlap_supervision and not self.hard_masks:
            raise ConfigError(
                f"objective.overlap_supervision is {self.overlap_supervision}, but hard_masks is "
                "false, so that seeds lie in earlier masks: set it to true"
            )
        if self.slot_kind_supervision and not (
            self.masks_only and self.hard_masks and self.kind_supervision
        ):
            raise ConfigError(
                f"objective.slot_kind_supervision is {self.slot_kind_supervision}, but it goes "
                "with masks_only, hard_masks and kind_supervision: set them, or leave it out"
            )
        if self.robot_weight != 1 and not (self.masks_only and self.kind_supervision):
            raise ConfigError(
                f"objective.robot_weight is {self.robot_weight}, but it goes with masks_only and "
                "kind_supervision: set them, or leave it out"
            )
        for name in ("overlap_supervision", "region_mixture"):
            if self.stop_threshold is not None and getattr(self, name):
                raise ConfigError(
                    f"objective.{name} is {getattr(self, name)}, but it looks at all slots, and "
                    "objective.stop_threshold leaves some out: leave one of them out"
                )
        losses = (self.mask_supervision, self.overlap_supervision, self.region_mixture)
        if self.masks_only and not any(losses):
            raise ConfigError(
                "objective.masks_only is true, but mask_supervision, overlap_supervision and "
                "region_mixture are 0: nothing to learn"
            )

    @property
    def needs_labels(self) -> bool:
        """Whether a term looks at instance labels."""
        return bool(self.mask_supervision or self.overlap_supervision or self.kind_supervision)


class Objective(nn.Module):
    """One forward pass to the loss; a module so that data parallelism and compile can wrap it.

    Args:
        num_labels: what all instance labels are below.
        robot_label: the label of the robot, where the data say so.
        start: the encoder that encoder_anchor holds the model's to.
    """

    def __init__(
        self,
        model: SlotModel,
        config: ObjectiveConfig,
        *,
        num_labels: int | None = None,
        robot_label: int | None = None,
        start: EfficientNetLite0 | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.num_labels = num_labels
        self.robot_label = robot_label
        self.start = start
        self._maps: list[Tensor] = []  # of the encoder, in the newest forward pass
        if config.encoder_anchor:
            assert model.pretrained_part is not None and start is not None  # see TrainConfig
            model.get_submodule(model.pretrained_part).register_forward_hook(self._keep_maps)

    def forward(
        self, batch: Batch, randomness: Randomness, beta: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its terms as batch means (supervision's: over the labels).

        Args:
            batch: B images, and labels of the first L <= B of them where there is supervision.
            randomness: of the model's forward pass, for all B images.
            beta: GECO's multiplier, scalar.
        """
        config, images = self.config, batch.images
        terms: dict[str, Tensor] = {}
        loss = images.new_zeros(())
        given: dict[str, Tensor] = dict(randomness)
        style = given.pop("style", None)
        if self.model.takes_points and batch.points is not None:
            given["points"] = batch.points
        labels = batch.labels
        if labels is not None:
            labels = labels_at(labels, self.model.config.mask_size)
        with nullcontext() if style is None else self.model.restyled(style):
            if config.masks_only:
                found = self.model.find_masks(images, hard_masks=config.hard_masks, **given)
            else:
                clusters, encoded, out = self._explain(images, given)
        if config.encoder_anchor:
            drift = self._drift(images, style, given.get("points"))
            terms["encoder_anchor"] = drift
            loss = loss + config.encoder_anchor * drift
        if config.masks_only:
            clusters = found.clusters
            if config.kind_supervision and labels is not None:
                assert found.pixel_kinds is not None and self.num_labels is not None
                of_pixels, true = found.pixel_kinds[: len(labels)], self._true_kinds(labels)
                counts = self._kind_weights(labels)
                kinds = pixel_kind_supervision(
                    of_pixels, true, labels, self.num_labels, counts
                ).mean()
                terms["kind_supervision"] = kinds
                loss = loss + config.kind_supervision * kinds
                if config.slot_kind_supervision:
                    masks = clusters.log_masks[: len(labels)]
                    kinds = hard_slot_kind_supervision(
                        of_pixels, masks, true, labels, counts
                    ).mean()
                    terms["slot_kind_supervision"] = kinds
                    loss = loss + config.slot_kind_supervision * kinds
        else:
            assert out.reconstruction is not None and out.means is not None  # it was decoded
            decoded = images[-len(out.latents) :]
            shown = images_at(decoded, self.model.config.decoded_size)
            attention = out.log_attention
            if attention is not None:
                attention = log_masks_at(attention, self.model.config.decoded_size)
            losses = self.model.losses(decoded, out)
            nll = losses.nll.mean()
            if config.attention_likelihood:
                assert attention is not None
                nll = sgmm_nll(shown, attention.detach(), out.means, self.model.pixel_std).mean()
            loss = loss + nll
            if self.model.generative:
                terms["nll"], kl = nll, losses.kl.sum(dim=1).mean()
                terms["kl"], terms["elbo"] = kl, losses.elbo.mean()
                if losses.mask_kl is not None:
                    terms["mask_kl"] = losses.mask_kl.mean()
                    kl = kl + terms["mask_kl"]
                loss = loss + beta.to(kl.dtype) * kl
            terms["mse"] = (out.reconstruction - shown).square().mean()
            if config.mask_distillation:
                assert attention is not None and out.log_masks is not None
                distillation = mask_distillation(
                    attention, out.log_masks, hard=config.hard_distillation
                ).mean()
                terms["mask_distillation"] = distillation
                loss = loss + config.mask_distillation * distillation
            if config.latent_anchor:
                assert encoded.log_attention is not None and encoded.latent_mean is not None
                seen = images_at(images[-len(encoded.latents) :], self.model.config.mask_size)
                # As the latent's features are weighed.
                weights = encoded.log_attention * self.model.pooling_exponent
                anchor = latent_anchor(seen, weights, encoded.latent_mean).mean()
                terms["latent_anchor"] = anchor
                loss = loss + config.latent_anchor * anchor
            if config.kind_supervision and labels is not None:
                kinds = self._kinds(encoded, labels).mean()
                terms["kind_supervision"] = kinds
                loss = loss + config.kind_supervision * kinds
        if config.region_mixture:
            assert clusters is not None  # see TrainConfig
            seen = images_at(images, self.model.config.mask_size)
            mixture = region_mixture(seen, clusters.log_masks[:, :, None]).mean()
            terms["region_mixture"] = mixture
            loss = loss + config.region_mixture * mixture
        if config.mask_supervision and labels is not None:
            assert clusters is not None
            supervised = clusters[: len(labels)]
            terms["mask_supervision"] = mask_supervision(supervised, labels, self.num_labels).mean()
            loss = loss + config.mask_supervision * terms["mask_supervision"]
        if config.overlap_supervision and labels is not None:
            assert clusters is not None
            overlap = overlap_supervision(clusters[: len(labels)], labels).mean()
            terms["overlap_supervision"] = overlap
            loss = loss + config.overlap_supervision * overlap
        return loss, {name: value.detach() for name, value in terms.items()}

    def _keep_maps(self, encoder: nn.Module, args: object, maps: list[Tensor]) -> None:
        self._maps = list(maps)  # the path down takes them from the encoder's own list

    def _drift(self, images: Tensor, style: Tensor | None, points: Tensor | None) -> Tensor:
        """How far the encoder's maps of images without depth are from those it began with."""
        assert self.start is not None
        with torch.no_grad(), nullcontext() if style is None else self.start.restyled(style):
            before = self.start(images)
        drift, self._maps = encoder_drift(self._maps, before), []
        if points is None:
            return drift.mean()
        # Where there is depth, what is added to the maps has moved them.
        return (drift * (points[:, 3].amax((1, 2)) == 0)).mean()

    def _kinds(self, encoded: SlotOutput, labels: Tensor) -> Tensor:
        """Kind supervision of the labelled images, the first of all, which all are encoded."""
        assert encoded.kind_logits is not None and encoded.log_attention is not None
        kinds = self._true_kinds(labels)
        known = slice(None, len(labels))
        weights = encoded.log_attention[known] * self.model.pooling_exponent
        unknown = (labels == UNKNOWN_LABEL)[:, None, None]
        weights = weights.masked_fill(unknown, -torch.inf)
        return kind_supervision(encoded.kind_logits[known], weights, kinds)

    def _true_kinds(self, labels: Tensor) -> Tensor:
        """The kind of each pixel, of instance labels."""
        kinds = torch.full_like(labels, KINDS.index(OBJECT))
        kinds = kinds.masked_fill(labels == 0, KINDS.index(SURROUNDINGS))
        if self.robot_label is not None:
            kinds = kinds.masked_fill(labels == self.robot_label, KINDS.index(ROBOT))
        return kinds

    def _kind_weights(self, labels: Tensor) -> Tensor | None:
        """How much each kind counts, (C,); None: all the same."""
        if self.config.robot_weight == 1:
            return None
        weights = torch.ones(len(KINDS), device=labels.device)
        # Not `weights[...] = number`: that waits for the GPU, and cannot be recorded as a graph.
        weights[KINDS.index(ROBOT)].fill_(self.config.robot_weight)
        return weights

    def _explain(
        self, images: Tensor, given: dict[str, Tensor]
    ) -> tuple[Clusters | None, SlotOutput, SlotOutput]:
        """The forward pass: clusters of all images, output of those encoded and those decoded."""
        count, stop = self.config.decoded_images, self.config.stop_threshold
        if not 0 < count < len(images):
            if stop is None and not self.config.hard_masks:
                out = self.model(images, **given)
                return out.clusters, out, out
            count = len(images)
        last = slice(-count, None)  # where the unlabelled images are, if there are any
        whole = self.config.latent_anchor or self.config.kind_supervision
        encoded = slice(None) if whole else last
        return self.model.explain_partly(
            images,
            encode=encoded,
            decode=last,
            stop_threshold=stop,
            hard_masks=self.config.hard_masks,
            **given,
        )


def step_randomness(
    model: SlotModel, seed: int, places: Tensor, style_noise: float = 0.0
) -> Randomness:
    """What a forward pass draws (``SlotModel.draws``), for images at these places of a run.

    With ``style_noise``, also "style", see ``ObjectiveConfig``.

    A pure function of the seed and the image's place among all images of all steps: that is what
    makes a resumed run exact and the number of processes irrelevant.
    """
    random = CounterRandom(seed, places, _PURPOSE)
    drawn = {
        name: random.uniform(*draw.shape)
        if draw.distribution == "uniform"
        else random.normal(*draw.shape)
        for name, draw in model.draws(model.config.num_slots).items()
    }
    if style_noise:
        moved = random.chance(0.5, 1)
        drawn["style"] = style_noise * moved * random.normal(model.style_channels)
    return drawn
