"""A model's forward pass made ready to run again and again: weights prepared, or a CUDA graph."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genesis_core.device import PRECISIONS
from genesis_core.models.base import SlotModel
from genesis_core.models.points import back_project
from genesis_core.ops.convolution import freeze

logger = logging.getLogger(__name__)

_WARM_UP_RUNS = 3  # before a capture: libraries choose their algorithms in the first runs


class Options(NamedTuple):
    """What may change from call to call."""

    num_slots: int
    stop_threshold: float | None = None


class Pixels(NamedTuple):
    """B images as a model sees them, on the CPU.

    colours: (B, S, S, 3) uint8. depth: (B, S, S) float32, as ``back_project`` takes it, or None.
    intrinsics: (B, 4) float32, fx, fy, cx, cy in pixels of these images; with depth only.
    """

    colours: Tensor
    depth: Tensor | None = None
    intrinsics: Tensor | None = None


class Found(NamedTuple):
    """The slots of B images, on the CPU.

    masks: (B, K, M, M) float32, probabilities. latent_mean, latent_std: (B, K, D) float32.
    num_slots: (B,) int64, slots each image uses; the others have empty masks. kinds: (B, K) int64,
    of ``KINDS``; -1 where the model does not tell.
    """

    masks: Tensor
    latent_mean: Tensor
    latent_std: Tensor
    num_slots: Tensor
    kinds: Tensor

    def of_image(self, index: int) -> Found:
        """The slots that an image uses, without the batch's dimension."""
        used = int(self.num_slots[index])
        return Found(
            self.masks[index, :used],
            self.latent_mean[index, :used],
            self.latent_std[index, :used],
            self.num_slots[index],
            self.kinds[index, :used],
        )


Pass = Callable[[Pixels], Found]
"""From pixels to slots."""


class Inference:
    """Runs a model on batches of pixels, with the posterior's mean as latents: repeatable.

    The weights are made ready once. On CUDA a batch runs as a graph of the smallest size that was
    prepared and holds it, which costs the CPU nothing and waits for the device only once, at the
    end. Larger batches run as they are, and so do all of a model that cannot be recorded.

    May be called from several threads, copied and pickled: a copy makes weights and graphs ready
    for itself. The model's memory layout is changed to channels last, and its weights stop asking
    for gradients.

    Args:
        model: in evaluation mode, on the device. Later changes to its weights may have no effect:
            what is made of them may be kept.
        precision: fp32, bf16 or fp16.
        decode: whether the masks are the decoder's, else the attention's; the decoder is then not
            run at all.
    """

    def __init__(self, model: SlotModel, *, precision: str, decode: bool) -> None:
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.requires_grad_(False)
        self._dtype = PRECISIONS[precision]
        self._decode = decode
        self._make_ready()

    def _make_ready(self, sizes: Sequence[int] = ()) -> None:
        """Make what belongs to this process and cannot be copied; graphs when they are needed."""
        self.device = next(self.model.parameters()).device
        self._ready = copy.deepcopy(self.model)
        freeze(self._ready, self._dtype)
        self._graphs = Graphs(self._record, sizes)
        self._randomness: dict[tuple[int, int], dict[str, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "_dtype": self._dtype,
            "_decode": self._decode,
            "sizes": self._graphs.sizes,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        sizes = state.pop("sizes")
        vars(self).update(state)
        self._make_ready(sizes)

    def prepare(self, batch_size: int, options: Options) -> None:
        """Make batches of this size fast, and run one."""
        if self.device.type == "cuda":
            self._graphs.prepare(batch_size, options)
        self(self._black(batch_size), options)

    def _black(self, batch_size: int) -> Pixels:
        size = self.model.config.image_size
        return Pixels(torch.zeros(batch_size, size, size, 3, dtype=torch.uint8, device="cpu"))

    def _record(self, batch_size: int, options: Options) -> Pass:
        pixels = self._with_room_for_depth(self._black(batch_size))
        with torch.inference_mode():
            return _Graph(self._pass(batch_size, options), pixels, self.device)

    @torch.inference_mode()
    def __call__(self, pixels: Pixels, options: Options) -> Found:
        """The slots of images."""
        key = (len(pixels.colours), options)
        if self.device.type == "cpu":
            return self._pass(*key)(pixels)
        graph = self._graphs.find(*key)
        if graph is not None:
            return graph(self._with_room_for_depth(pixels))
        sent = _map(lambda part: part.pin_memory().to(self.device, non_blocking=True), pixels)
        found = self._pass(*key)(sent)
        return _to_host(found, _pinned_like(found))

    def _with_room_for_depth(self, pixels: Pixels) -> Pixels:
        """The same for a graph, whose inputs are always the same: no depth is depth of zero."""
        if not self.model.takes_points:
            return Pixels(pixels.colours)
        if pixels.depth is not None:
            return pixels
        batch, *size, _ = pixels.colours.shape
        dtype, device = torch.float32, pixels.colours.device
        return Pixels(
            pixels.colours,
            torch.zeros(batch, *size, dtype=dtype, device=device),
            torch.ones(batch, 4, dtype=dtype, device=device),
        )

    def _pass(self, batch_size: int, options: Options) -> Pass:
        """The forward pass for batches of one size; on CUDA it does not wait for the device."""
        key = (batch_size, options.num_slots)
        if key not in self._randomness:
            self._randomness[key] = self.model.inference_randomness(*key)
        arguments: dict[str, Any] = {
            **self._randomness[key],
            "num_slots": options.num_slots,
            "decode": self._decode,
        }
        if self.model.flexible_slots:
            # A graph has fixed shapes.
            trim = self.device.type == "cpu"
            arguments |= {"stop_threshold": options.stop_threshold, "trim": trim}
        model, decode, device, dtype = self._ready, self._decode, self.device.type, self._dtype

        def work(pixels: Pixels) -> Found:
            # NHWC memory seen as NCHW is channels last already.
            images = pixels.colours.permute(0, 3, 1, 2).float() / 255
            points = None
            if pixels.depth is not None and pixels.intrinsics is not None:
                points = back_project(pixels.depth, pixels.intrinsics)
            with torch.autocast(device, dtype, enabled=dtype != torch.float32, cache_enabled=False):
                out = model(images, points=points, **arguments)
            log_masks = out.log_masks if decode else out.log_attention
            masks = log_masks[:, :, 0].float().exp()
            kinds = out.num_slots.new_full(masks.shape[:2], -1)
            if out.kind_logits is not None:
                kinds = out.kind_logits.argmax(dim=2)
            return Found(masks, out.latent_mean, out.latent_std, out.num_slots, kinds)

        return work


# A recording takes in what its process sends to the device meanwhile: one at a time.
_RECORDING = threading.Lock()


class Graphs:
    """The graphs of the batch sizes that were prepared, with the options of today.

    Args:
        record: makes a graph for a batch size and options. It takes a fraction of a second. A
            RuntimeError says that it cannot be made.
        sizes: of batches that are prepared already, but for their graphs.

    Attributes:
        sizes: of the batches that were prepared, from small to large.
    """

    def __init__(self, record: Callable[[int, Options], Pass], sizes: Sequence[int] = ()) -> None:
        self._record = record
        self.sizes = tuple(sizes)
        self._graphs: dict[tuple[int, Options], Pass] = {}
        self._failed: set[tuple[int, Options]] = set()

    def prepare(self, batch_size: int, options: Options) -> None:
        """Record a graph for such batches now, if it can be done."""
        with _RECORDING:
            self.sizes = tuple(sorted({*self.sizes, batch_size}))
            self._failed.discard((batch_size, options))  # there may be more memory by now
        self.find(batch_size, options)

    def find(self, count: int, options: Options) -> Pass | None:
        """The graph of the smallest prepared size for so many images; None if there is none.

        With options that are new it is recorded anew, and the former one goes: each keeps its
        memory.
        """
        size = next((size for size in self.sizes if size >= count), None)
        if size is None:
            return None
        key = (size, options)
        graph = self._graphs.get(key)
        if graph is not None or key in self._failed:
            return graph
        with _RECORDING:
            if key in self._graphs:  # another thread was faster
                return self._graphs[key]
            for former in [other for other in self._graphs if other[0] == size]:
                del self._graphs[former]
            try:
                self._graphs[key] = self._record(size, options)
            except RuntimeError as error:
                self._failed.add(key)
                logger.warning(
                    "%d images cannot be segmented by a CUDA graph, which would be faster: %s",
                    size,
                    str(error).strip().partition("\n")[0],
                )
            return self._graphs.get(key)


class _Graph:
    """A forward pass recorded once on the device and replayed with other pixels.

    It takes as many images as those that it was recorded with, or fewer.
    """

    def __init__(self, work: Pass, pixels: Pixels, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._host_pixels = _map(lambda part: torch.empty_like(part, pin_memory=True), pixels)
        with torch.cuda.device(device):
            self._pixels = _map(lambda part: part.to(device), pixels)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_RUNS):
                    work(self._pixels)
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            # A recording that fails leaves its own stream the current one; this puts it right.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                # Without a stream it is one of the process, on the first device that recorded.
                torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"),
            ):
                self._found = work(self._pixels)
        self._host = _pinned_like(self._found)

    def __call__(self, pixels: Pixels) -> Found:
        with self._lock, torch.cuda.device(self._device):
            count = len(pixels.colours)  # what is behind them does not matter
            for given, host, there in zip(pixels, self._host_pixels, self._pixels, strict=True):
                if given is not None and host is not None and there is not None:
                    host[:count].copy_(given)
                    there[:count].copy_(host[:count], non_blocking=True)
            self._graph.replay()
            found = _to_host(_first(self._found, count), _first(self._host, count))
            return Found(*(tensor.clone() for tensor in found))  # the next call writes there


def _map(function: Callable[[Tensor], Tensor], pixels: Pixels) -> Pixels:
    colours, *rest = (None if part is None else function(part) for part in pixels)
    assert colours is not None
    return Pixels(colours, *rest)


def _first(found: Found, count: int) -> Found:
    return Found(*(tensor[:count] for tensor in found))


def _pinned_like(found: Found) -> Found:
    return Found(*(torch.empty_like(t, device="cpu", pin_memory=True) for t in found))


def _to_host(found: Found, host: Found) -> Found:
    """Copy all tensors to page-locked memory, waiting for the device once."""
    for source, target in zip(found, host, strict=True):
        target.copy_(source, non_blocking=True)
    torch.cuda.current_stream(found.masks.device).synchronize()
    return host
