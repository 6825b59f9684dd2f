"""A training step recorded once as a CUDA graph, and replayed.

A step is a thousand small operations, which Python starts more slowly than a GPU does them. The
graph starts them all at once: forward pass, backward pass, clipping, Adam, GECO, moving average.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

WARM_UP_STEPS = 3
"""Real steps before the recording: libraries choose their algorithms, Adam makes its state."""


Step = Callable[[], dict[str, Tensor]]


class CudaRecorder:
    """Prepares a step for its recording, and records it, on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)

    def warm_up(self, step: Step) -> dict[str, Tensor]:
        """Take a step where a recording takes place: on a stream of its own."""
        with torch.cuda.device(self._device):
            self._side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._side):
                terms = step()
            torch.cuda.current_stream().wait_stream(self._side)
            return terms

    def record(self, step: Step) -> Step:
        """The step as a graph; RuntimeError if that cannot be. Nothing of the step is done."""
        with torch.cuda.device(self._device):
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            # A recording that fails leaves its own stream the current one; this puts it right.
            # Without a stream it is one of the process, on the first device that recorded.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, stream=self._side),
            ):
                terms = step()

        def replay() -> dict[str, Tensor]:
            graph.replay()
            return terms

        return replay


class CapturedStep:
    """Calls a step as it is at first, and as a CUDA graph from then on.

    Args:
        step: one training step. It reads its inputs from tensors that stay where they are and
            returns its results; it must neither wait for the device nor leave gradients behind
            that it would add to.
        fill: writes the inputs of the step of a number into these tensors.
        recorder: makes the graph.
    """

    def __init__(self, step: Step, fill: Callable[[int], None], recorder: CudaRecorder) -> None:
        self._step = step
        self._fill = fill
        self._recorder = recorder
        self._replay: Step | None = None
        self._calls = 0
        self._failed = False

    def __call__(self, number: int) -> dict[str, Tensor]:
        """Take a step of this number. The tensors returned are overwritten by the next one."""
        self._fill(number)
        if self._calls < WARM_UP_STEPS:
            self._calls += 1
            return self._recorder.warm_up(self._step)
        if self._replay is None and not self._failed:
            self._record()
        return (self._replay or self._step)()

    @property
    def recorded(self) -> bool:
        """Whether it replays a graph by now."""
        return self._replay is not None

    def _record(self) -> None:
        try:
            self._replay = self._recorder.record(self._step)
        except RuntimeError as error:
            self._failed = True
            reason = str(error).strip().partition("\n")[0]
            logger.warning(
                "the step cannot be recorded as a CUDA graph, and runs slower: %s", reason
            )
