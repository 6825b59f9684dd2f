"""Learning from images without labels: the averaged model teaches the one that trains.

A mean teacher (Tarvainen and Valpola 2017): the moving average of the weights segments each image
several times, with other seeds and mirrored. What the passes agree in are labels for the model
under training, which sees the image augmented; all other pixels count as unknown. Together the
passes know more than one does, as IC-SBP's masks depend on where its seeds fall.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_core import ConfigError, SlotModel
from genesis_core.kinds import KINDS
from genesis_core.models.base import INFERENCE_SEED
from genesis_core.models.losses import UNKNOWN_LABEL
from training.augment import AugmentConfig, RawImages, augment

_FITS = 0.3
"""IoU with another pass's segment from which that one counts as the same."""
_OBJECT, _ROBOT, _SURROUNDINGS = range(len(KINDS))


@dataclass(frozen=True)
class TeacherConfig:
    """Which of the teacher's masks are taken for labels, see ``objective.self_training``.

    Attributes:
        passes: how often it segments an image, half of the times mirrored.
        agreement: smallest IoU of a segment with those that fit it best in the other passes, on
            average.
        confidence: smallest probability of a segment at a pixel, on average over the passes.
        smallest: smallest share of the image that a segment has.
        use_labels: whether images that have labels among the unlabelled ones keep them: their masks
            are not all 255 (unknown).
    """

    passes: int = 4
    agreement: float = 0.4
    confidence: float = 0.5
    smallest: float = 0.0005
    use_labels: bool = False

    def __post_init__(self) -> None:
        for name in ("agreement", "confidence", "smallest"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"teacher.{name} is {getattr(self, name)}; expected 0 to 1")
        if self.passes < 2:
            raise ConfigError(f"teacher.passes is {self.passes}; expected at least 2")


class Teacher:
    """Labels images with what a model finds in them again and again.

    Args:
        model: with ``masks_first``, in evaluation mode; its weights may change between the calls.
        stop_threshold: where its slots stop, in pixels at 64x64; 0 for a fixed number.
        dtype: of the network's layers.
    """

    def __init__(
        self,
        model: SlotModel,
        config: TeacherConfig,
        *,
        stop_threshold: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = model
        self.config = config
        self.dtype = dtype
        self.stop_threshold = stop_threshold
        passes, slots = config.passes, model.config.num_slots
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(INFERENCE_SEED)
        self._drawn = {
            name: torch.zeros(passes, 1, *draw.shape, device=device)
            if draw.mean_at_inference
            else draw.sample(passes, generator, device)[:, None]
            for name, draw in model.draws(slots).items()
        }

    @property
    def num_labels(self) -> int:
        """What all labels but UNKNOWN_LABEL are below."""
        return self.model.config.num_slots + 2

    @torch.no_grad()
    def __call__(self, raw: RawImages) -> Tensor:
        """Labels (B, N, N) uint8: 0 surroundings, 1.. slots, UNKNOWN_LABEL where the passes differ.

        Of a model that tells kinds, all slots that are surroundings have the label 0, and all that
        are the robot share one.

        Args:
            raw: B images of N x N pixels. Their labels are used only with ``use_labels``.
        """
        labels = F.interpolate(self._agreed(raw)[:, None].float(), raw.images.shape[1:3])[:, 0]
        taught = labels.to(torch.uint8)
        if self.config.use_labels and raw.labels is not None:
            labelled = (raw.labels != UNKNOWN_LABEL).flatten(1).any(dim=1)
            taught = torch.where(labelled[:, None, None], raw.labels, taught)
        return taught

    def _agreed(self, raw: RawImages) -> Tensor:
        """(B, M, M) int64 at the masks' size."""
        config, count, device = self.config, len(raw.images), raw.images.device
        seen = augment(
            RawImages(raw.images, None, raw.depth, raw.intrinsics),
            AugmentConfig(),
            self.model.config.image_size,
            seed=0,
            places=torch.zeros(count, dtype=torch.int64, device=device),
        )
        images, points = seen.images, seen.points if self.model.takes_points else None
        found: list[Tensor] = []
        kinds: list[Tensor | None] = []
        for number in range(config.passes):
            mirror = bool(number % 2)
            options = {
                n: drawn[number].expand(count, *drawn.shape[2:]) for n, drawn in self._drawn.items()
            }
            if points is not None:
                options["points"] = mirrored_points(points) if mirror else points
            with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
                out = self.model(
                    images.flip(-1) if mirror else images,
                    stop_threshold=self.stop_threshold or None,
                    trim=False,
                    decode=False,
                    **options,
                )
            assert out.log_attention is not None  # it is no sample
            masks = out.log_attention[:, :, 0].float().exp()
            found.append(masks.flip(-1) if mirror else masks)
            kinds.append(out.kind_logits)
        known = [each.float().softmax(dim=2) for each in kinds if each is not None]
        return consensus(
            torch.stack(found),
            torch.stack(known) if known else None,
            agreement=config.agreement,
            confidence=config.confidence,
            smallest=config.smallest,
        )


def mirrored_points(points: Tensor) -> Tensor:
    """Points (B, 4, H, W) of the mirrored scene: right is where the mirrored picture has it."""
    mirrored = points.flip(-1)
    return torch.cat([-mirrored[:, :1], mirrored[:, 1:]], dim=1)


def consensus(
    masks: Tensor,
    kinds: Tensor | None,
    *,
    agreement: float,
    confidence: float,
    smallest: float,
) -> Tensor:
    """Labels (B, H, W) of what passes over an image agree in, see ``Teacher``.

    Objects are those of the pass that agrees best with the others. Each becomes the mean of the
    slots that fit it best, one of each pass, whatever kind these are taken for; those that do not
    fit count as empty. A pixel has the label of what is most probable there.

    Args:
        masks: (P, B, K, H, W), probabilities of the slots in each of P passes.
        kinds: (P, B, K, 3), probabilities of the slots' kinds; None where they are unknown.
        agreement: smallest mean IoU of a slot with those of the other passes.
        confidence: smallest mean probability at a pixel.
        smallest: smallest share of the image that a slot has.
    """
    passes, count, _, height, width = masks.shape
    flat = masks.flatten(3)  # (P, B, K, HW)
    areas = flat.sum(dim=3)
    both = flat[:, None] @ flat[None].transpose(3, 4)  # (P, P, B, K, K)
    union = areas[:, None, :, :, None] + areas[None, :, :, None] - both
    iou, match = (both / union.clamp_min(1e-6)).max(dim=4)  # (P, P, B, K)
    others = ~torch.eye(passes, dtype=torch.bool, device=masks.device)
    agreed = (iou * others[:, :, None, None]).sum(dim=1) / (passes - 1)  # (P, B, K)
    # By slots, not by pixels: the surroundings alone say little.
    weights = (areas / (smallest * height * width + 1e-6)).clamp_max(1)
    if kinds is not None:
        weights = weights * kinds[..., _OBJECT]
    base = ((agreed * weights).sum(dim=2) / weights.sum(dim=2).clamp_min(1e-6)).argmax(dim=0)

    each = torch.arange(count, device=masks.device)
    match, fits = match[base, :, each], iou[base, :, each] >= _FITS  # (B, P, K)
    fitting = flat.transpose(0, 1).gather(2, match[..., None].expand(-1, -1, -1, flat.shape[3]))
    objects = (fitting * fits[..., None]).mean(dim=1)  # (B, K, HW)
    kept = (agreed[base, each] >= agreement) & (areas[base, each] >= smallest * height * width)
    around, robot = flat.new_zeros(2, count, 1, flat.shape[3])
    if kinds is not None:
        around = (flat * kinds[..., _SURROUNDINGS, None]).sum(dim=2).mean(dim=0)[:, None]
        robot = (flat * kinds[..., _ROBOT, None]).sum(dim=2).mean(dim=0)[:, None]
        taken = kinds.transpose(0, 1).gather(2, match[..., None].expand(-1, -1, -1, kinds.shape[3]))
        taken = (taken * fits[..., None]).sum(dim=1)  # (B, K, 3)
        objects = objects * (taken.argmax(dim=2) == _OBJECT)[..., None]
    best, label = torch.cat([around, objects, robot], dim=1).max(dim=1)
    always = kept.new_ones(count, 1)
    known = torch.cat([always, kept, always], dim=1).gather(1, label) & (best >= confidence)
    return torch.where(known, label, UNKNOWN_LABEL).unflatten(1, (height, width))
