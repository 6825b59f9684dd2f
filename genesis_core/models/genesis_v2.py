"""GENESIS-V2 (Engelcke, Parker Jones, Posner 2021): unsupervised object segmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_core.kinds import KINDS, SURROUNDINGS
from genesis_core.models.backbones import PaperBackbone, PretrainedBackbone
from genesis_core.models.base import Draw, FoundMasks, PartialOutput, SlotModel, SlotOutput
from genesis_core.models.config import ConfigError, GenerativeConfig
from genesis_core.models.icsbp import ICSBP, KERNELS, NORMALISATIONS, SMALL_SLOTS, Clusters
from genesis_core.models.latents import (
    AutoregressivePrior,
    monte_carlo_kl,
    posterior_moments,
    standard_normal,
)
from genesis_core.models.layers import (
    GROUP_NORM_GROUPS,
    BroadcastDecoder,
    ConvBlock,
    pixel_coordinates,
)
from genesis_core.models.losses import (
    Losses,
    images_at,
    log_masks_at,
    mask_consistency,
    sgmm_nll,
)
from genesis_core.models.mask_shape import (
    MOMENTS,
    mask_colours,
    mask_shape,
    masked_image,
    slot_frames,
)
from genesis_core.ops.pooling import pool

ENCODERS = ("unet", "efficientnet_lite0")


@dataclass(frozen=True)
class GenesisV2Config(GenerativeConfig):
    """Everything that decides the shape and the mathematics of a GENESIS-V2 model.

    Attributes:
        image_size: height and width of the input in pixels; a power of two from 32 to 256 or, with
            EfficientNet-Lite0, a multiple of 32 from 64 to 512.
        num_slots: K, the largest number of slots IC-SBP may draw (at least 2).
        feature_dim: C, the backbone's width; a multiple of 8 (GroupNorm has 8 groups).
        latent_dim: D, size of a slot's latent.
        embedding_dim: channels of the pixel embedding that IC-SBP clusters (at least 2).
        kernel: distance kernel of IC-SBP: gaussian, laplacian or epanechnikov (Section 3.1).
        semi_conv: semi-convolutional embeddings (gated, plus coordinates) or plain ones.
        autoregressive_prior: LSTM prior over the slots, or N(0, 1) for each slot.
        mask_loss: whether ``losses`` computes the mask consistency term (Equation 7).
        mask_normalisation: how IC-SBP's masks come to sum to one: "stick_breaking" (Algorithm 1),
            or "softmax" over the kernels of all seeds (the paper's future work, Section 3.1).
        small_slots: what a mask below the stop threshold does: "stop" ends the image, as in the
            paper; "skip" leaves the mask out and takes the next ones (not in the paper, for
            stick-breaking).
        pooling_exponent: power of a slot's mask that weighs the pixels whose features are averaged
            for its latent and its kind; the paper's is 1. With 2, pixels that several slots share
            count little (not in the paper).
        mask_thumbnail: side in pixels of a thumbnail of the slot's mask that its latent is computed
            from, beside its features: averages of features hardly know a shape; 0 for features
            alone, as in the paper.
        colour_thumbnail: side in pixels of a thumbnail of what the slot's mask shows, that its
            latent is computed from, too: averages of features do not know what is where; 0 for
            none, as in the paper.
        image_thumbnail: side in pixels of a thumbnail of the whole image, in which only what the
            slot's mask shows is seen. Latents get a linear function of it added, as the best code
            of what large slots look like is nearly linear; 0 for none, as in the paper.
        latent_width: hidden units of the head that latents come from; 0 for twice ``feature_dim``,
            as in the paper. Those of the thumbnails have twice as many.
        pixel_std: sigma_x, the fixed standard deviation of the SGMM likelihood.
        image_channels: channels of the input and of the component means.
        encoder: "unet", the paper's; or "efficientnet_lite0", which may start from weights trained
            on ImageNet, with a top-down path (not in the paper). Its features, embeddings and
            IC-SBP's masks have half the image's height and width.
        points: whether the encoder also takes what a depth camera measured (not in the paper).
        kinds: whether a head says of each slot if it is an object, the robot or surroundings (not
            in the paper).
        kind_distance: how much a difference of kinds parts two pixels for IC-SBP: the weight of the
            squared distance between their probabilities of the kinds, beside that of their
            embeddings; 0 leaves kinds aside. For models with ``kinds``.
        surroundings_bias: added to a slot's logit of surroundings, not to those of pixels, and not
            in training, which would learn to take it back: with more, fewer slots are objects. For
            models with ``kinds``.
        decoder_size: height and width of what is decoded, a power of two from 16 to 256; 0 for the
            image's. The likelihood is then of the image averaged to that size.
        decoder_dim: the decoder's width, a multiple of 8; 0 for ``feature_dim``.
        model: the model's name.
    """

    image_size: int = 64
    num_slots: int = 7
    feature_dim: int = 64
    latent_dim: int = 64
    embedding_dim: int = 8
    kernel: str = "gaussian"
    semi_conv: bool = True
    autoregressive_prior: bool = True
    mask_loss: bool = False
    mask_normalisation: str = "stick_breaking"
    small_slots: str = "stop"
    pooling_exponent: float = 1.0
    mask_thumbnail: int = 0
    colour_thumbnail: int = 0
    image_thumbnail: int = 0
    latent_width: int = 0
    pixel_std: float = 0.7
    image_channels: int = 3
    encoder: str = "unet"
    points: bool = False
    kinds: bool = False
    kind_distance: float = 0.0
    surroundings_bias: float = 0.0
    decoder_size: int = 0
    decoder_dim: int = 0
    model: Literal["genesis_v2"] = "genesis_v2"

    def __post_init__(self) -> None:
        self._check(256, latent_dim=1, embedding_dim=2, feature_dim=GROUP_NORM_GROUPS)
        for name in ("feature_dim", "decoder_dim"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value % GROUP_NORM_GROUPS:
                raise ConfigError(
                    f"{name} is {value!r}; expected a multiple of {GROUP_NORM_GROUPS}"
                )
        for name, known in (
            ("kernel", KERNELS),
            ("mask_normalisation", NORMALISATIONS),
            ("small_slots", SMALL_SLOTS),
            ("encoder", ENCODERS),
        ):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(known)}")
        if self.small_slots == "skip" and self.mask_normalisation != "stick_breaking":
            raise ConfigError(
                f"small_slots is skip, but mask_normalisation is {self.mask_normalisation}: only "
                "masks of stick-breaking can be skipped"
            )
        for name in ("semi_conv", "autoregressive_prior", "mask_loss", "points", "kinds"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected true or false")
        if self.encoder != "unet" and self.image_channels != 3:
            raise ConfigError(
                f"image_channels is {self.image_channels}; encoder {self.encoder} takes 3. Depth "
                "reaches it as points"
            )
        distance = self.kind_distance
        if isinstance(distance, bool) or not 0 <= distance < math.inf:
            raise ConfigError(f"kind_distance is {distance!r}; expected 0 or more")
        exponent = self.pooling_exponent
        if isinstance(exponent, bool) or not 1 <= exponent < math.inf:
            raise ConfigError(f"pooling_exponent is {exponent!r}; expected 1 or more")
        for name in ("mask_thumbnail", "colour_thumbnail", "image_thumbnail"):
            side = getattr(self, name)
            if (
                isinstance(side, bool)
                or not isinstance(side, int)
                or side not in (0, *range(2, 33))
            ):
                raise ConfigError(f"{name} is {side!r}; expected 2 to 32 pixels, or 0 for none")
        width = self.latent_width
        if isinstance(width, bool) or not isinstance(width, int) or width < 0:
            raise ConfigError(f"latent_width is {width!r}; expected units, or 0 for the paper's")
        bias = self.surroundings_bias
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not math.isfinite(bias):
            raise ConfigError(f"surroundings_bias is {bias!r}; expected a number")
        for name in ("kind_distance", "surroundings_bias"):
            if (value := getattr(self, name)) and not self.kinds:
                raise ConfigError(f"{name} is {value}, but kinds is false: there are none")
        size = self.decoder_size
        if size not in (0, 16, 32, 64, 128, 256) or (not size and self.decoded_size % 16):
            raise ConfigError(
                f"decoder_size is {size!r}; expected a power of two from 16 to 256, or 0 for the "
                "image's size"
            )

    def _check_image_size(self, largest: int) -> None:
        if self.encoder != "efficientnet_lite0":  # an unknown one is named later
            super()._check_image_size(largest)
            return
        size = self.image_size
        if not isinstance(size, int) or size % 32 or not 64 <= size <= 512:
            raise ConfigError(
                f"image_size is {size!r}; encoder {self.encoder} takes multiples of 32 from 64 to "
                "512"
            )

    @property
    def latent_units(self) -> int:
        """Hidden units of the latent head."""
        return self.latent_width or 2 * self.feature_dim

    @property
    def mask_size(self) -> int:
        """Height and width of features, embeddings and IC-SBP's masks."""
        return self.image_size if self.encoder == "unet" else self.image_size // 2

    @property
    def decoded_size(self) -> int:
        """Height and width of the decoder's masks and means."""
        return self.decoder_size or self.image_size

    @property
    def takes_points(self) -> bool:
        return self.points

    @property
    def tells_kinds(self) -> bool:
        return self.kinds


class Embedding(nn.Module):
    """Pixel embeddings for IC-SBP: (B, C, H, W) -> (B, E, H, W).

    Semi-convolutional: a 1x1 convolution times a learned gate that starts at zero, plus the
    pixel's row and column on the last two channels; so clustering starts from position alone.
    Plain: the 1x1 convolution.
    """

    coordinates: Tensor

    def __init__(self, config: GenesisV2Config) -> None:
        super().__init__()
        self.block = ConvBlock(config.feature_dim, config.feature_dim)
        self.conv = nn.Conv2d(config.feature_dim, config.embedding_dim, 1)
        self.semi_conv = config.semi_conv
        if config.semi_conv:
            self.gate = nn.Parameter(torch.tensor(0.0))
            grid = pixel_coordinates(config.mask_size, config.mask_size)
            grid = F.pad(grid, (0, 0, 0, 0, config.embedding_dim - 2, 0))
            self.register_buffer("coordinates", grid, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        embeddings = self.conv(self.block(features)).float()
        if self.semi_conv:
            embeddings = self.gate * embeddings + self.coordinates
        return embeddings


class LatentHead(nn.Sequential):
    """(..., 2C) pooled slot features -> (..., 2D), mean and unconstrained scale.

    What a ``ThumbnailHead`` makes of the slot's mask and colours is added to the hidden units.
    """

    def __init__(self, config: GenesisV2Config) -> None:
        wide = 2 * config.feature_dim
        super().__init__(
            nn.LayerNorm(wide),
            nn.Linear(wide, config.latent_units),
            nn.ReLU(),
            nn.Linear(config.latent_units, 2 * config.latent_dim),
        )

    def forward(self, pooled: Tensor, *added: Tensor) -> Tensor:
        norm, first, activation, last = self
        hidden = first(norm(pooled))
        for each in added:
            hidden = hidden + each
        moments: Tensor = last(activation(hidden))
        return moments


class ThumbnailHead(nn.Sequential):
    """What a thumbnail shows, (..., inputs) -> (..., units), for the latent head's hidden units.

    It starts at zero, so that a model which gets it computes what it did without.
    """

    def __init__(self, inputs: int, config: GenesisV2Config) -> None:
        units = config.latent_units
        super().__init__(
            nn.Linear(inputs, 2 * units),
            nn.ReLU(),
            nn.Linear(2 * units, units),
        )
        nn.init.zeros_(self[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self[-1].bias)  # type: ignore[arg-type]


@dataclass(frozen=True)
class PixelFeatures:
    """What the backbone makes of B images.

    Attributes:
        backbone: (B, C, H, W).
        head: (B, C, H, W), what the feature head's first block makes of that, where clustering
            needed it; None: nobody has asked for it yet.
        kinds: (B, 3, H, W), what the kinds' head says of each pixel, alike.
        images: (B, image channels, ...) the images themselves, which some models' latents are
            computed from, too.
    """

    backbone: Tensor
    head: Tensor | None = None
    kinds: Tensor | None = None
    images: Tensor | None = None

    def of(self, images: slice) -> PixelFeatures:
        """Those of some of the images."""
        rest = (self.head, self.kinds, self.images)
        return PixelFeatures(
            self.backbone[images], *(None if each is None else each[images] for each in rest)
        )


class GenesisV2(SlotModel):
    """The model.

    ``log_attention`` are IC-SBP's masks, ``log_masks`` the decoder's. With another encoder or
    decoder than the paper's they may be smaller than the image, see the config.
    """

    config_class = GenesisV2Config
    flexible_slots = True
    hard_masks = True
    masks_first = True
    settable_posterior = True
    pretrained_part = "backbone.trunk"
    neutral_parts = frozenset({"shape_head", "colour_head", "image_head"})
    clustering_parameters = frozenset({"embedding.gate", "icsbp.log_scale"})
    config: GenesisV2Config

    def __init__(self, config: GenesisV2Config) -> None:
        super().__init__(config)
        self.latent_dim = config.latent_dim
        self.backbone: PaperBackbone | PretrainedBackbone
        if config.encoder == "unet":
            self.backbone = PaperBackbone(
                config.image_size, config.image_channels, config.feature_dim, config.points
            )
        else:
            self.backbone = PretrainedBackbone(config.feature_dim, config.points)
        self.embedding = Embedding(config)
        self.icsbp = ICSBP(
            config.num_slots, config.kernel, config.mask_normalisation, config.small_slots
        )
        self.feature_head = nn.Sequential(
            ConvBlock(config.feature_dim, config.feature_dim),
            nn.Conv2d(config.feature_dim, 2 * config.feature_dim, 1),
        )
        self.latent_head = LatentHead(config)
        self.shape_head = self.colour_head = self.image_head = None
        if side := config.mask_thumbnail:
            self.shape_head = ThumbnailHead(MOMENTS + side**2, config)
        if side := config.colour_thumbnail:
            self.colour_head = ThumbnailHead(config.image_channels * side**2, config)
        if side := config.image_thumbnail:
            self.image_head = nn.Linear((config.image_channels + 1) * side**2, 2 * self.latent_dim)
            # As the other two, it starts at zero.
            nn.init.zeros_(self.image_head.weight)
            nn.init.zeros_(self.image_head.bias)
        self.kind_head = nn.Linear(2 * config.feature_dim, len(KINDS)) if config.kinds else None
        self.decoder = BroadcastDecoder(
            config.decoded_size,
            config.latent_dim,
            config.decoder_dim or config.feature_dim,
            config.image_channels + 1,
        )
        self.prior = AutoregressivePrior(config.latent_dim) if config.autoregressive_prior else None

    # The steps of a forward pass

    def cluster(
        self,
        images: Tensor,
        seed_scores: Tensor,
        *,
        points: Tensor | None = None,
        stop_threshold: float | None = None,
        num_slots: int | None = None,
        hard_masks: bool = False,
    ) -> tuple[PixelFeatures, Clusters]:
        """Backbone and IC-SBP; see ``forward``."""
        features = PixelFeatures(self.backbone(images, points), images=images)
        embeddings = self.embedding(features.backbone)
        if self.config.kind_distance:
            weight = math.sqrt(self.config.kind_distance)
            head = self.feature_head[0](features.backbone)
            features = replace(features, head=head, kinds=self._pixel_kinds(head))
            assert features.kinds is not None
            kinds = features.kinds.softmax(dim=1)
            if not embeddings.requires_grad:  # they are frozen, and so are the masks
                kinds = kinds.detach()
            embeddings = torch.cat([embeddings, weight * kinds], dim=1)
        clusters = self.icsbp(
            embeddings,
            seed_scores[:, 0],
            stop_threshold=stop_threshold,
            num_slots=num_slots,
            hard=hard_masks,
        )
        return features, clusters

    def pixel_kinds(self, features: Tensor) -> Tensor:
        """What the kinds' head says of each pixel by itself: logits (B, 3, H, W) float32.

        Args:
            features: (B, C, H, W) from the backbone.
        """
        return self._pixel_kinds(self.feature_head[0](features))

    def _pixel_kinds(self, head: Tensor) -> Tensor:
        """The same of what the feature head's first block gave."""
        conv = self.feature_head[1]
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        assert self.kind_head is not None
        # The head is linear, and so is the convolution before it: of a slot's mean features it
        # gives the mean of this.
        weight = self.kind_head.weight @ conv.weight.flatten(1)
        bias = self.kind_head.weight @ conv.bias + self.kind_head.bias
        return F.linear(head.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2).float()

    def _slot_kinds(self, pooled: Tensor) -> Tensor:
        """The kinds' logits of slots, (B, K, 3) float32, from their mean features."""
        assert self.kind_head is not None
        logits: Tensor = self.kind_head(pooled).float()
        if self.config.surroundings_bias and not self.training:
            logits[..., KINDS.index(SURROUNDINGS)] += self.config.surroundings_bias
        return logits

    def _head(self, features: PixelFeatures) -> Tensor:
        """What the feature head's first block makes of them: (B, C, H, W)."""
        if features.head is not None:
            return features.head
        head: Tensor = self.feature_head[0](features.backbone)
        return head

    def pooling_weights(self, masks: Tensor) -> Tensor:
        """Masks to the power of ``pooling_exponent``, float32."""
        weights = masks.float()
        return weights if self.pooling_exponent == 1 else weights**self.pooling_exponent

    def slot_features(self, features: PixelFeatures, weights: Tensor) -> Tensor:
        """Each slot's features, averaged in its mask: (B, K, 2C) float32.

        Args:
            features: of the images.
            weights: (B, K, H, W), what each pixel counts: see ``pooling_weights``.
        """
        conv = self.feature_head[1]
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        head = self._head(features)
        pixels = head.flatten(2).transpose(1, 2)  # (B, HW, C)
        sums, mass = pool(weights.flatten(2), pixels)
        with torch.autocast(weights.device.type, enabled=False):
            # The head's 1x1 convolution is linear, and cheaper on K sums than on all pixels.
            sums = F.linear(sums, conv.weight.flatten(1)) + mass * conv.bias
            return sums / (mass + 1e-5)

    def _posterior(
        self, features: PixelFeatures, pooled: Tensor, masks: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Moments (B, K, D) of latents, from the images' features, those pooled (B, K, 2C), masks
        (B, K, H, W) and the weights that the features were pooled with.
        """
        added = []
        if self.shape_head is not None or self.colour_head is not None:
            frames = slot_frames(weights)
        if self.shape_head is not None:
            shape = mask_shape(masks, frames, self.config.mask_thumbnail)
            added.append(self.shape_head(shape))
        if self.colour_head is not None or self.image_head is not None:
            if features.images is None:
                raise ValueError("these latents are computed from the images, too: give them")
            images = images_at(features.images, self.config.mask_size)
        if self.colour_head is not None:
            seen = mask_colours(images, masks, frames, self.config.colour_thumbnail)
            added.append(self.colour_head(seen))
        moments = self.latent_head(pooled, *added)
        if self.image_head is not None:
            moments = moments + self.image_head(
                masked_image(images, masks, self.config.image_thumbnail)
            )
        return posterior_moments(moments)

    def posterior(
        self, features: Tensor, masks: Tensor, images: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each slot's latent, from features pooled in its mask.

        Args:
            features: (B, C, H, W) from the backbone.
            masks: (B, K, H, W).
            images: (B, image channels, ...) in [0, 1], for models with ``colour_thumbnail`` or
                ``image_thumbnail``.

        Returns:
            Two tensors (B, K, D).

        Raises:
            ValueError: the model needs the images, and there are none.
        """
        weights = self.pooling_weights(masks)
        of_pixels = PixelFeatures(features, images=images)
        return self._posterior(of_pixels, self.slot_features(of_pixels, weights), masks, weights)

    @property
    def mask_parts(self) -> frozenset[str]:
        of_kinds = {"feature_head", "kind_head"} if self.config.kinds else set()
        return frozenset({"backbone", "embedding", "icsbp"} | of_kinds)

    @property
    def style_channels(self) -> int:
        if not isinstance(self.backbone, PretrainedBackbone):
            return 0
        return self.backbone.trunk.style_channels

    def restyled(self, style: Tensor) -> AbstractContextManager[None]:
        if not isinstance(self.backbone, PretrainedBackbone):
            return super().restyled(style)
        return self.backbone.trunk.restyled(style)

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Take over EfficientNet-Lite0's published weights, see ``EfficientNetLite0``."""
        if not isinstance(self.backbone, PretrainedBackbone):
            super().load_encoder(weights)
        else:
            self.backbone.trunk.load_published(weights)

    @torch.no_grad()
    def set_posterior_std(self, std: float) -> None:
        for last in (self.latent_head[-1], self.image_head):
            if isinstance(last, nn.Linear):
                last.weight.chunk(2)[1].zero_()
                last.bias.chunk(2)[1].zero_()
        raw = math.log(math.expm1(std)) - 0.5  # see posterior_moments
        self.latent_head[-1].bias.chunk(2)[1].fill_(raw)  # type: ignore[operator]

    def decode(
        self, latents: Tensor, used: Tensor | None = None, *, skip: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decoder masks, component means and reconstruction from latents (B, K, D).

        Args:
            used: (B, K) bool; other slots take no part. None uses all.
            skip: whether to spare the others the decoder, which waits for the device.

        Returns:
            log_masks (B, K, 1, H, W), means (B, K, C, H, W), reconstruction (B, C, H, W).
        """
        batch, slots, _ = latents.shape
        if used is None or not skip:
            decoded = self.decoder(latents.flatten(0, 1)).float().unflatten(0, (batch, slots))
        else:
            parts = self.decoder(latents[used]).float()
            decoded = parts.new_zeros(batch, slots, *parts.shape[1:])
            decoded[used] = parts
        means, logits = decoded.split([self.config.image_channels, 1], dim=2)
        means = means.sigmoid()
        if used is not None:
            absent = ~used[:, :, None, None, None]
            logits = logits.masked_fill(absent, -torch.inf)
            means = means.masked_fill(absent, 0.0)
        log_masks = logits.log_softmax(dim=1)
        return log_masks, means, (log_masks.exp() * means).sum(dim=1)

    def _explain(
        self,
        images: Tensor,
        *,
        seed_scores: Tensor,
        noise: Tensor,
        points: Tensor | None = None,
        stop_threshold: float | None,
        hard_masks: bool,
        decode: bool,
        trim: bool,
    ) -> SlotOutput:
        features, clusters = self.cluster(
            images,
            seed_scores,
            points=points,
            stop_threshold=stop_threshold,
            num_slots=noise.shape[1],
            hard_masks=hard_masks,
        )
        flexible = stop_threshold is not None or hard_masks
        if flexible and trim:
            largest = int(clusters.num_slots.max())  # waits for the device
            clusters.log_masks = clusters.log_masks[:, :largest]
        out = self.encode(features, clusters, noise)
        if decode:
            used = out.used if flexible else None
            out.log_masks, out.means, out.reconstruction = self.decode(out.latents, used, skip=trim)
        return out

    def find_masks(
        self,
        images: Tensor,
        *,
        points: Tensor | None = None,
        hard_masks: bool = False,
        **randomness: Tensor,
    ) -> FoundMasks:
        drawn = self._inputs(images, points, {**randomness})
        features, clusters = self.cluster(
            images, drawn["seed_scores"], points=points, hard_masks=hard_masks
        )
        kinds = features.kinds
        if kinds is None and self.kind_head is not None:
            kinds = self._pixel_kinds(self._head(features))
        return FoundMasks(clusters, kinds)

    def explain_partly(
        self,
        images: Tensor,
        *,
        encode: slice,
        decode: slice,
        points: Tensor | None = None,
        stop_threshold: float | None = None,
        hard_masks: bool = False,
        **randomness: Tensor,
    ) -> PartialOutput:
        drawn = self._inputs(images, points, {**randomness})
        features, clusters = self.cluster(
            images,
            drawn["seed_scores"],
            points=points,
            stop_threshold=stop_threshold,
            hard_masks=hard_masks,
        )
        encoded = self.encode(features.of(encode), clusters[encode], drawn["noise"][encode])
        out = encoded[decode]
        used = None if stop_threshold is None and not hard_masks else out.used
        # Only on a CPU is it cheaper to ask which slots are used than to decode them all.
        skip = images.device.type == "cpu"
        out.log_masks, out.means, out.reconstruction = self.decode(out.latents, used, skip=skip)
        return PartialOutput(clusters, encoded, out)

    def encode(self, features: PixelFeatures, clusters: Clusters, noise: Tensor) -> SlotOutput:
        """Latents from what ``cluster`` gave: an output that is not decoded yet.

        Args:
            features: of the images.
            clusters: of the same images.
            noise: (B, K or more, D) standard normal.
        """
        slots = clusters.log_masks.shape[1]
        masks = clusters.log_masks.exp()
        weights = self.pooling_weights(masks)
        pooled = self.slot_features(features, weights)
        mean, std = self._posterior(features, pooled, masks, weights)
        return SlotOutput(
            num_slots=clusters.num_slots,
            clusters=clusters,
            log_attention=clusters.log_masks[:, :, None],
            latent_mean=mean,
            latent_std=std,
            latents=mean + std * noise[:, :slots].to(mean),
            kind_logits=None if self.kind_head is None else self._slot_kinds(pooled),
        )

    def draws(self, num_slots: int) -> dict[str, Draw]:
        size = self.config.mask_size
        return {"seed_scores": Draw("uniform", (1, size, size)), **super().draws(num_slots)}

    @property
    def pooling_exponent(self) -> float:
        return self.config.pooling_exponent

    @property
    def first_beta(self) -> float:
        return 1e-10 if self.config.mask_loss else 1.0

    def watched_values(self) -> dict[str, float]:
        """Scale of the kernel, and gate of the semi-convolutional embeddings."""
        values = {"kernel_scale": float(self.icsbp.log_scale.detach().exp())}
        if self.config.semi_conv:
            values["gate"] = float(self.embedding.gate.detach())
        return values

    def losses(self, images: Tensor, out: SlotOutput) -> Losses:
        """Terms of the objective for a decoded forward pass of these images."""
        if out.log_masks is None or out.means is None or out.log_attention is None:
            raise ValueError("losses need a decoded forward pass: call the model with decode=True")
        mask_kl = None
        if self.config.mask_loss:
            attention = log_masks_at(out.log_attention, self.config.decoded_size)
            mask_kl = mask_consistency(attention, out.log_masks)
        shown = images_at(images, self.config.decoded_size)
        return Losses(
            nll=sgmm_nll(shown, out.log_masks, out.means, self.config.pixel_std),
            kl=self._latent_kl(out),
            mask_kl=mask_kl,
        )

    @torch.no_grad()
    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        num_slots: int | None = None,
    ) -> SlotOutput:
        """``n`` scenes from the prior; without a generator, from the global one."""
        noise = self._prior_noise(n, num_slots, generator)
        latents = noise if self.prior is None else self.prior.sample(noise)
        log_masks, means, images = self.decode(latents)
        return SlotOutput(
            num_slots=torch.full((n,), latents.shape[1], device=latents.device),
            latents=latents,
            log_masks=log_masks,
            means=means,
            reconstruction=images,
        )

    def _latent_kl(self, out: SlotOutput) -> Tensor:
        assert out.latent_mean is not None and out.latent_std is not None
        prior = self.prior or standard_normal
        kl = monte_carlo_kl(out.latents, (out.latent_mean, out.latent_std), prior(out.latents))
        return kl.sum(dim=2) * out.used
