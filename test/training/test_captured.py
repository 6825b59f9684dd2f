"""When a training step is recorded as a graph. (What the graph does needs a GPU: test_train.py.)"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.captured import WARM_UP_STEPS, CapturedStep, Step


class Recorder:
    """Records on the CPU: what is recorded says so, and does nothing at the time."""

    def __init__(self, possible: bool) -> None:
        self.possible = possible
        self.tries = 0

    def warm_up(self, step: Step) -> dict[str, Tensor]:
        return {**step(), "warm": torch.ones(())}

    def record(self, step: Step) -> Step:
        self.tries += 1
        if not self.possible:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return lambda: {**step(), "replayed": torch.ones(())}


def take_steps(recorder: Recorder, count: int) -> tuple[CapturedStep, list[dict[str, float]]]:
    inputs, taken = torch.zeros(()), torch.zeros(())
    captured = CapturedStep(
        lambda: {"number": inputs.clone(), "taken": taken.add_(1).clone()},
        lambda number: inputs.fill_(number),
        recorder,  # type: ignore[arg-type]
    )
    terms = [captured(number) for number in range(count)]
    return captured, [{name: float(value) for name, value in each.items()} for each in terms]


def test_every_step_is_taken_once_with_its_own_inputs() -> None:
    recorder = Recorder(possible=True)
    captured, terms = take_steps(recorder, WARM_UP_STEPS + 3)
    assert captured.recorded and recorder.tries == 1
    assert [each["number"] for each in terms] == list(range(WARM_UP_STEPS + 3))
    assert [each["taken"] for each in terms] == list(range(1, WARM_UP_STEPS + 4))
    ways = ["warm" if "warm" in each else "replayed" for each in terms if len(each) == 3]
    assert ways == ["warm"] * WARM_UP_STEPS + ["replayed"] * 3


def test_what_cannot_be_recorded_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(possible=False)
    captured, terms = take_steps(recorder, WARM_UP_STEPS + 3)
    assert not captured.recorded and recorder.tries == 1
    assert [each["number"] for each in terms] == list(range(WARM_UP_STEPS + 3))
    assert terms[-1] == {"number": WARM_UP_STEPS + 2, "taken": WARM_UP_STEPS + 3}
    assert [entry.getMessage() for entry in caplog.records] == [
        "the step cannot be recorded as a CUDA graph, and runs slower: operation not permitted "
        "when stream is capturing"
    ]
