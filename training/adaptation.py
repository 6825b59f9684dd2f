"""Learning from images without labels: the averaged model teaches the one that trains.

A mean teacher (Tarvainen and Valpola 2017): the moving average of the weights segments each image
as it is, and mirrored with other seeds. Segments that both passes find are labels for the model
under training, which sees the image augmented; all other pixels count as unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_core import ConfigError, SlotModel
from genesis_core.models.base import INFERENCE_SEED, KINDS
from genesis_core.models.losses import UNKNOWN_LABEL
from training.augment import AugmentConfig, RawImages, augment

_PASSES = 2
_OBJECT, _ROBOT, _SURROUNDINGS = range(len(KINDS))


@dataclass(frozen=True)
class TeacherConfig:
    """Which of the teacher's masks are taken for labels, see ``objective.self_training``.

    Attributes:
        agreement: smallest IoU of a segment with one of the second pass.
        confidence: smallest probability of a segment at a pixel.
        smallest: smallest share of the image that a segment has.
        use_labels: whether images that have labels among the unlabelled ones keep them: their masks
            are not all 255 (unknown).
    """

    agreement: float = 0.7
    confidence: float = 0.5
    smallest: float = 0.0005
    use_labels: bool = False

    def __post_init__(self) -> None:
        for name in ("agreement", "confidence", "smallest"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"teacher.{name} is {getattr(self, name)}; expected 0 to 1")


class Teacher:
    """Labels images with what a model finds in them twice.

    Args:
        model: with ``masks_first``, in evaluation mode; its weights may change between the calls.
        stop_threshold: where its slots stop, in pixels at 64x64; 0 for a fixed number.
    """

    def __init__(
        self, model: SlotModel, config: TeacherConfig, *, stop_threshold: float = 0.0
    ) -> None:
        self.model = model
        self.config = config
        self.stop_threshold = stop_threshold
        slots, device = model.config.num_slots, next(model.parameters()).device
        generator = torch.Generator().manual_seed(INFERENCE_SEED)
        self._drawn = {
            name: torch.zeros(_PASSES, 1, *draw.shape, device=device)
            if draw.mean_at_inference
            else draw.sample(_PASSES, generator, device)[:, None]
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
        count, device = len(raw.images), raw.images.device
        seen = augment(
            RawImages(raw.images, None, raw.depth, raw.intrinsics),
            AugmentConfig(),
            self.model.config.image_size,
            seed=0,
            places=torch.zeros(count, dtype=torch.int64, device=device),
        )
        images = torch.cat([seen.images, seen.images.flip(-1)])
        options: dict[str, Tensor] = {
            name: drawn.expand(_PASSES, count, *drawn.shape[2:]).flatten(0, 1)
            for name, drawn in self._drawn.items()
        }
        if self.model.takes_points and seen.points is not None:
            options["points"] = torch.cat([seen.points, mirrored_points(seen.points)])
        out = self.model(
            images,
            stop_threshold=self.stop_threshold or None,
            trim=False,
            decode=False,
            **options,
        )
        masks = out.log_attention[:, :, 0].float().exp()
        masks[count:] = masks[count:].flip(-1)
        best, labels = _segments(masks, out.kind_logits)
        return agreeing_segments(
            labels[:count],
            labels[count:],
            best[:count] >= self.config.confidence,
            self.num_labels,
            agreement=self.config.agreement,
            smallest=self.config.smallest,
        )


def mirrored_points(points: Tensor) -> Tensor:
    """Points (B, 4, H, W) of the mirrored scene: right is where the mirrored picture has it."""
    mirrored = points.flip(-1)
    return torch.cat([-mirrored[:, :1], mirrored[:, 1:]], dim=1)


def _segments(masks: Tensor, kind_logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """The strongest segment's probability and label, (B, M, M) each, of masks (B, K, M, M)."""
    count, slots = masks.shape[:2]
    labels = torch.arange(1, slots + 1, device=masks.device).expand(count, slots)
    if kind_logits is not None:
        kinds = kind_logits.argmax(dim=2)
        labels = labels.masked_fill(kinds == _SURROUNDINGS, 0)
        labels = labels.masked_fill(kinds == _ROBOT, slots + 1)
    # Slots of one label are one segment.
    merged = masks.new_zeros(count, slots + 2, *masks.shape[2:])
    index = labels[:, :, None, None].expand_as(masks)
    return merged.scatter_add(1, index, masks).max(dim=1)


def agreeing_segments(
    first: Tensor,
    second: Tensor,
    sure: Tensor,
    num_labels: int,
    *,
    agreement: float,
    smallest: float,
) -> Tensor:
    """The first segmentation where the second one agrees, else UNKNOWN_LABEL.

    A segment is kept if its best match of the second segmentation has an IoU of at least
    ``agreement`` with it; of its pixels those that are in both. Label 0 and the last label, which
    many slots may share, match themselves only.

    Args:
        first, second: (B, H, W) int64, below ``num_labels``.
        sure: (B, H, W) bool, pixels that may be kept.
        smallest: share of the image; smaller segments are not kept.
    """
    numbers = torch.arange(num_labels, device=first.device)
    one = (first.flatten(1)[..., None] == numbers).float()  # (B, HW, L)
    two = (second.flatten(1)[..., None] == numbers).float()
    both = one.transpose(1, 2) @ two
    areas = one.sum(dim=1)
    union = areas[:, :, None] + two.sum(dim=1)[:, None] - both
    iou = both / union.clamp_min(1)
    shared = (numbers == 0) | (numbers == num_labels - 1)
    alike = numbers[:, None] == numbers
    allowed = alike | ~(shared[:, None] | shared)
    best, match = (iou * allowed).max(dim=2)  # (B, L)
    pixels = first[0].numel()
    kept = (best >= agreement) & (areas >= smallest * pixels) & (areas > 0)
    flat = first.flatten(1)
    agreed = kept.gather(1, flat) & (match.gather(1, flat) == second.flatten(1)) & sure.flatten(1)
    return torch.where(agreed, flat, UNKNOWN_LABEL).view_as(first)
