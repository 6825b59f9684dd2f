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


class CapturedStep:
    """Calls a step as it is at first, and as a CUDA graph from then on.

    Args:
        step: one training step. It reads its inputs from tensors that stay where they are and
            returns its results; it must neither wait for the device nor leave gradients behind
            that it would add to.
        fill: writes the inputs of the step of a number into these tensors.
        device: the GPU.
    """

    def __init__(
        self,
        step: Callable[[], dict[str, Tensor]],
        fill: Callable[[int], None],
        device: torch.device,
    ) -> None:
        self._step = step
        self._fill = fill
        self._device = device
        self._side = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._terms: dict[str, Tensor] = {}
        self._calls = 0
        self._failed = False

    def __call__(self, number: int) -> dict[str, Tensor]:
        """Take a step of this number. The tensors returned are overwritten by the next one."""
        with torch.cuda.device(self._device):
            self._fill(number)
            if self._calls < WARM_UP_STEPS:
                self._calls += 1
                # What is recorded runs on a stream of its own, and so must what prepares it.
                self._side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self._side):
                    self._terms = self._step()
                torch.cuda.current_stream().wait_stream(self._side)
                return self._terms
            if self._graph is None and not self._failed:
                self._record()
            if self._graph is None:
                return self._step()
            self._graph.replay()
            return self._terms

    @property
    def recorded(self) -> bool:
        """Whether it replays a graph by now."""
        return self._graph is not None

    def _record(self) -> None:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # A recording that fails leaves its own stream the current one; this puts it right.
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
                self._terms = self._step()
        except RuntimeError as error:
            # Nothing of the step was done: it was only written down.
            self._failed = True
            reason = str(error).strip().partition("\n")[0]
            logger.warning(
                "the step cannot be recorded as a CUDA graph, and runs slower: %s", reason
            )
        else:
            self._graph = graph
