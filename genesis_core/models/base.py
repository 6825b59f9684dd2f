"""What every model shares: its interface, its output, its randomness and its registration."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from genesis_core.models.config import ConfigError, GenerativeConfig, ModelConfig
from genesis_core.models.icsbp import Clusters
from genesis_core.models.losses import Losses

INFERENCE_SEED = 0

MODELS: dict[str, type[SlotModel]] = {}
"""Every model by its name. A subclass of ``SlotModel`` with a ``config_class`` enters itself."""


@dataclass
class SlotOutput:
    """Everything one forward pass yields; B images, K slots, D latents.

    Attributes:
        num_slots: (B,) int64, slots each image uses (K for all where the number is fixed).
        clusters: IC-SBP's own output; None for samples and for models without IC-SBP.
        log_attention: (B, K, 1, H, W), the encoder's masks (see each model); None for samples.
        latent_mean, latent_std: (B, K, D), the posterior; None for samples.
        latents: (B, K, D), what was decoded.
        log_masks: (B, K, 1, H, W), the decoder's masks; None if not decoded.
        means: (B, K, C, H, W), component means in [0, 1] (Slot Attention's are not bounded);
            None if not decoded.
        reconstruction: (B, C, H, W), the mixture's mean; None if not decoded.
        kind_logits: (B, K, 3), how well a slot fits each kind: object, robot, surroundings; None
            for models that do not tell kinds.

    Unused slots have masks of -inf (zero mass) and zero means.
    """

    num_slots: Tensor
    latents: Tensor
    clusters: Clusters | None = None
    log_attention: Tensor | None = None
    latent_mean: Tensor | None = None
    latent_std: Tensor | None = None
    log_masks: Tensor | None = None
    means: Tensor | None = None
    reconstruction: Tensor | None = None
    kind_logits: Tensor | None = None

    def __getitem__(self, images: slice) -> SlotOutput:
        """The output for some of the images."""
        parts: dict[str, Any] = {k: v[images] for k, v in vars(self).items() if v is not None}
        return SlotOutput(**parts)

    @property
    def used(self) -> Tensor:
        """(B, K) bool: which slots each image uses."""
        slots = torch.arange(self.latents.shape[1], device=self.latents.device)
        return slots < self.num_slots[:, None]


class PartialOutput(NamedTuple):
    """What ``explain_partly`` yields.

    clusters: of all images. encoded: of the images that were encoded, not decoded. decoded: of
    those among them that were decoded, too.
    """

    clusters: Clusters
    encoded: SlotOutput
    decoded: SlotOutput


class FoundMasks(NamedTuple):
    """What ``find_masks`` yields.

    clusters: IC-SBP's. pixel_kinds: (B, 3, H, W) float32, how well each pixel by itself fits each
    kind; None for models that do not tell kinds.
    """

    clusters: Clusters
    pixel_kinds: Tensor | None = None


class Draw(NamedTuple):
    """A random input of a forward pass, drawn for each image by itself.

    distribution: uniform from 0 to 1, or standard normal.
    shape: for one image.
    mean_at_inference: whether inference takes zeros, the mean of normal noise, for it; else it
        takes the same draw for every image.
    """

    distribution: Literal["uniform", "normal"]
    shape: tuple[int, ...]
    mean_at_inference: bool = False

    def sample(self, batch: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """(batch, *shape) float32 drawn where the generator lives, moved to the device."""
        source = device if generator is None else generator.device
        sampler = torch.rand if self.distribution == "uniform" else torch.randn
        shape = (batch, *self.shape)
        drawn = sampler(shape, generator=generator, dtype=torch.float32, device=source)
        return drawn.to(device)

    def fixed(self, batch: int, device: torch.device) -> Tensor:
        """(batch, *shape): the same numbers for every image, in every process, on every device."""
        return self.sample(1, inference_generator(), device).expand(batch, *self.shape)


class SlotModel(nn.Module):
    """The interface of every model; ``metadata`` says how its weights came about.

    A new model is a subclass with a ``config_class`` of its own, whose ``model`` names it. It
    implements ``_explain`` and ``losses``, and ``sample`` if it is generative; the attributes and
    methods below say what else it can do.

    Attributes:
        config_class: its config, whose ``model`` is the name it is registered under.
        generative: whether it has a likelihood and a prior, so that it trains with GECO and can
            ``sample``; its config is a ``GenerativeConfig`` then.
        flexible_slots: whether it can stop early (``stop_threshold``).
        hard_masks: whether it can give masks of zeros and ones (``hard_masks``).
        masks_first: whether it finds masks before it encodes them, as IC-SBP does: they can be
            trained by a loss of their own, or alone (``find_masks``, ``explain_partly``).
        neutral_parts: names of parts that change nothing while they are new, so that training may
            start from a model without them.
        settable_posterior: whether ``set_posterior_std`` works.
        default_mask_source: which masks to segment with, "decoder" (``log_masks``) or "attention"
            (``log_attention``), where a checkpoint does not say which are better.
        pretrained_part: name of the part that ``load_encoder`` fills, if the config has one.
        clustering_parameters: names of parameters that decide how finely it clusters, which have a
            learning rate of their own.
        latent_dim: D, the length of a slot's latent and of its noise.
    """

    config_class: ClassVar[type[ModelConfig]]
    generative: ClassVar[bool] = True
    flexible_slots: ClassVar[bool] = False
    hard_masks: ClassVar[bool] = False
    masks_first: ClassVar[bool] = False
    neutral_parts: ClassVar[frozenset[str]] = frozenset()
    settable_posterior: ClassVar[bool] = False
    default_mask_source: ClassVar[str] = "decoder"
    pretrained_part: ClassVar[str] = ""
    clustering_parameters: ClassVar[frozenset[str]] = frozenset()

    config: ModelConfig
    latent_dim: int

    def __init_subclass__(cls, **options: Any) -> None:
        """Register the model under its config's name.

        Raises:
            TypeError: the name is missing or taken, or the config does not fit the model.
        """
        super().__init_subclass__(**options)
        if "config_class" not in vars(cls):
            return  # a variant of a model that is known already
        name = cls.config_class.model
        if not name:
            raise TypeError(f"{cls.config_class.__name__} does not say which model it describes")
        if name in MODELS:
            raise TypeError(f"{cls.__name__} and {MODELS[name].__name__} are both named {name!r}")
        if cls.generative and not issubclass(cls.config_class, GenerativeConfig):
            raise TypeError(
                f"{cls.__name__} is generative: its config must be a GenerativeConfig, which says "
                "how wide its likelihood is"
            )
        MODELS[name] = cls

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.metadata: dict[str, Any] = {}

    # The forward pass

    def forward(
        self,
        images: Tensor,
        *,
        points: Tensor | None = None,
        noise: Tensor | None = None,
        seed_scores: Tensor | None = None,
        generator: torch.Generator | None = None,
        num_slots: int | None = None,
        stop_threshold: float | None = None,
        hard_masks: bool = False,
        decode: bool = True,
        trim: bool = True,
    ) -> SlotOutput:
        """Segment, encode and reconstruct images.

        Randomness: ``noise`` and ``seed_scores`` where given, else ``generator``, else the global
        generator in training mode, else (evaluation mode) a fixed draw shared by all images, so
        that the same image always gives the same result, whatever batch it is in.

        Args:
            images: (B, C, H, W) in [0, 1].
            points: (B, 4, H, W), what a depth camera measured at each pixel: X, Y and Z in metres,
                in the camera's optical frame, and whether they are known (1 or 0). Only for models
                that take points.
            noise: (B, K, D) standard normal; latents = mean + std * noise. Slot Attention's slots
                start from it.
            seed_scores: (B, 1, H, W) in [0, 1], IC-SBP's seed scores. Only for models with IC-SBP.
            generator: what else is drawn from.
            num_slots: K, if other than the config's; at least 2.
            stop_threshold: None for K slots each; else flexible slots: a mask smaller than this
                many pixels (stated at 64x64) is the last one, or is left out, as the config's
                ``small_slots`` says. K becomes the largest number used. Only for models with
                ``flexible_slots``.
            hard_masks: attention masks are zeros and ones (Section 3.1), for inference; an image
                uses as few slots as explain all its pixels, so here too the number is flexible.
                Only for models with ``hard_masks``.
            decode: False leaves out the decoder: there are attention masks only.
            trim: with flexible slots, leave out what no image uses; this waits for the device.
                False gives all K, unused ones of zero mass, and waits for nothing.

        Raises:
            ValueError: a tensor's shape is not the expected one, or the model cannot do what was
                asked for.
        """
        given = {"noise": noise, "seed_scores": seed_scores}
        drawn = self._inputs(images, points, given, generator, num_slots)
        options: dict[str, Any] = {"decode": decode}
        if self.takes_points:
            options["points"] = points
        if self.flexible_slots:
            options |= {"stop_threshold": stop_threshold, "trim": trim}
        elif stop_threshold is not None:
            raise ValueError(
                f"stop_threshold is {stop_threshold}, but {self.config.model} uses a fixed number "
                "of slots; leave it out and choose num_slots"
            )
        if self.hard_masks:
            options["hard_masks"] = hard_masks
        elif hard_masks:
            raise ValueError(f"hard_masks are of IC-SBP, which {self.config.model} does not have")
        return self._explain(images, **drawn, **options)

    def _explain(self, *inputs: Any, **options: Any) -> SlotOutput:
        """The forward pass, of inputs that ``forward`` has checked and drawn.

        A model declares the arguments of ``forward`` that it uses: images; by keyword ``decode``,
        what ``draws`` names, and, if it has said that it can use them, ``points``,
        ``stop_threshold``, ``trim`` and ``hard_masks``.
        """
        raise NotImplementedError

    def losses(self, images: Tensor, out: SlotOutput) -> Losses:
        """Terms of the objective for a decoded forward pass of these images.

        Raises:
            ValueError: the pass was not decoded.
        """
        raise NotImplementedError

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        num_slots: int | None = None,
    ) -> SlotOutput:
        """``n`` scenes from the prior; without a generator, from the global one.

        Raises:
            NotImplementedError: the model is not ``generative``.
        """
        raise NotImplementedError(
            f"{self.config.model} cannot generate scenes: it has no prior over its slots"
        )

    # What a forward pass draws

    def draws(self, num_slots: int) -> dict[str, Draw]:
        """What a forward pass of K = ``num_slots`` draws, by argument, in the order of drawing."""
        return {"noise": Draw("normal", (num_slots, self.latent_dim), mean_at_inference=True)}

    def inference_randomness(self, batch: int, num_slots: int) -> dict[str, Tensor]:
        """All that a forward pass draws, by argument, to segment with: always the same."""
        device = next(self.parameters()).device
        return {
            name: torch.zeros(batch, *draw.shape, dtype=torch.float32, device=device)
            if draw.mean_at_inference
            else draw.fixed(batch, device)
            for name, draw in self.draws(num_slots).items()
        }

    # What only some models can do

    @property
    def takes_points(self) -> bool:
        """Whether it can use what a depth camera measured (``points``)."""
        return self.config.takes_points

    @property
    def tells_kinds(self) -> bool:
        """Whether it says of each slot which of ``KINDS`` it is (``kind_logits``)."""
        return self.config.tells_kinds

    @property
    def pixel_std(self) -> float:
        """sigma_x of a generative model's likelihood."""
        assert isinstance(self.config, GenerativeConfig)  # see __init_subclass__
        return self.config.pixel_std

    @property
    def pooling_exponent(self) -> float:
        """Power of a slot's mask that weighs the pixels of which its latent tells."""
        return 1.0

    @property
    def first_beta(self) -> float:
        """GECO's multiplier at the start of training, in the paper that describes the model."""
        return 1.0

    def watched_values(self) -> dict[str, float]:
        """Numbers among the weights that are worth watching while it trains, by name."""
        return {}

    @property
    def mask_parts(self) -> frozenset[str]:
        """Names of the parts that ``find_masks`` runs, where masks come first."""
        return frozenset()

    @property
    def style_channels(self) -> int:
        """How many channels of the encoder ``restyled`` moves; 0 where it cannot."""
        return 0

    def restyled(self, style: Tensor) -> AbstractContextManager[None]:
        """Meanwhile, the encoder's channel means are moved by ``style``, (B, style_channels), in
        standard deviations of each channel in the image: an augmentation.

        Raises:
            NotImplementedError: the encoder has no such channels.
        """
        raise NotImplementedError(f"the encoder of this {self.config.model} cannot be restyled")

    def find_masks(
        self,
        images: Tensor,
        *,
        points: Tensor | None = None,
        hard_masks: bool = False,
        **randomness: Tensor,
    ) -> FoundMasks:
        """The masks alone, without posterior and decoder.

        Args:
            images, points, hard_masks: see ``forward``.
            randomness: see ``draws``.

        Raises:
            NotImplementedError: the model's masks do not come first (``masks_first``).
        """
        raise NotImplementedError(f"{self.config.model} does not find masks first")

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
        """The forward pass: masks of all images, latents of some, and some of these decoded.

        Args:
            images, points, stop_threshold, hard_masks: see ``forward``; slots are never trimmed.
            encode: which of the images to encode.
            decode: which of the encoded images to decode.
            randomness: see ``draws``; of all images.

        Raises:
            NotImplementedError: the model's masks do not come first (``masks_first``).
        """
        raise NotImplementedError(f"{self.config.model} does not find masks first")

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Take over an encoder's published weights.

        Raises:
            ConfigError: the model, as it is configured, has no such encoder.
        """
        raise ConfigError(f"this {self.config.model} model has no encoder with published weights")

    def set_posterior_std(self, std: float) -> None:
        """Let the posterior have this standard deviation in every dimension, whatever the image.

        Raises:
            NotImplementedError: the model has no such posterior (``settable_posterior``).
        """
        raise NotImplementedError(f"{self.config.model} has no posterior whose start can be set")

    # For the models

    def _inputs(
        self,
        images: Tensor,
        points: Tensor | None,
        given: dict[str, Tensor | None],
        generator: torch.Generator | None = None,
        num_slots: int | None = None,
    ) -> dict[str, Tensor]:
        """What a forward pass draws, as given or drawn now; raises ValueError for bad inputs."""
        self._check_images(images)
        self._check_points(points, images)
        slots = self.config.num_slots if num_slots is None else num_slots
        if slots < 2:
            raise ValueError(f"num_slots is {slots}; expected at least 2")
        draws = self.draws(slots)
        for name, value in given.items():
            if value is not None and name not in draws:
                raise ValueError(f"{self.config.model} has no use for {name}; leave it out")
        return {
            name: self._given_or_drawn(name, draw, given.get(name), images, generator)
            for name, draw in draws.items()
        }

    def _check_images(self, images: Tensor) -> None:
        size, channels = self.config.image_size, self.config.image_channels
        if images.ndim != 4 or images.shape[1:] != (channels, size, size):
            raise ValueError(
                f"images have shape {tuple(images.shape)}; expected (B, {channels}, {size}, {size})"
            )
        if not images.is_floating_point():
            raise ValueError(f"images are {images.dtype}; expected floating point in [0, 1]")

    def _check_points(self, points: Tensor | None, images: Tensor) -> None:
        if points is None:
            return
        if not self.takes_points:
            raise ValueError(
                f"points were given, but this {self.config.model} model takes images only: leave "
                "them out"
            )
        expected = (images.shape[0], 4, *images.shape[2:])
        if points.shape != expected:
            raise ValueError(f"points have shape {tuple(points.shape)}; expected {expected}")
        if not points.is_floating_point():
            raise ValueError(f"points are {points.dtype}; expected floating point, in metres")

    def _given_or_drawn(
        self,
        name: str,
        draw: Draw,
        given: Tensor | None,
        images: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """A random input (B, *shape), float32 on the images' device."""
        batch = images.shape[0]
        if given is not None:
            if given.shape != (batch, *draw.shape):
                raise ValueError(
                    f"{name} has shape {tuple(given.shape)}; expected {(batch, *draw.shape)}"
                )
            return given.to(images.device, torch.float32)
        if generator is None and not self.training:
            return draw.fixed(batch, images.device)
        return draw.sample(batch, generator, images.device)

    def _prior_noise(
        self, n: int, num_slots: int | None, generator: torch.Generator | None
    ) -> Tensor:
        """Standard normal noise (n, K, D) for ``sample``."""
        slots = self.config.num_slots if num_slots is None else num_slots
        if n < 1 or slots < 1:
            raise ValueError(f"asked for {n} samples of {slots} slots; expected at least 1 of each")
        device = next(self.parameters()).device
        return Draw("normal", (slots, self.latent_dim)).sample(n, generator, device)


def inference_generator() -> torch.Generator:
    """What inference draws from: always the same numbers, on every device."""
    return torch.Generator().manual_seed(INFERENCE_SEED)
