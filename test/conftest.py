"""What all tests share."""

import os
import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where there is no GPU, skip what needs one: it is marked ``cuda``."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch with one thread: how many there are decides the order of sums, and so last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """PyTorch with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def compiler() -> None:
    """For tests of what is compiled on its first use."""
    if shutil.which("g++") is None and "CI" not in os.environ:
        pytest.skip("needs a C++ compiler")


@pytest.fixture(scope="session")
def published_weights() -> dict[str, Tensor]:
    """Weights with EfficientNet-Lite0's published names and shapes, but drawn at random."""
    from genesis_core.models.efficientnet import STAGES

    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}

    def add(conv: str, norm: str, out: int, channels: int, kernel: int) -> None:
        fan = channels * kernel**2
        shape = (out, channels, kernel, kernel)
        weights[f"{conv}.weight"] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
        for name, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.5, 0.5),
            ("running_mean", -0.5, 0.5),
            ("running_var", 0.5, 2.0),
        ):
            drawn = low + (high - low) * torch.rand(out, generator=generator)
            weights[f"{norm}.{name}"] = drawn

    add("_conv_stem", "_bn0", 32, 3, 3)
    index, channels = 0, 32
    for stage in STAGES:
        for _ in range(stage.blocks):
            block, wide = f"_blocks.{index}.", channels * stage.expand
            if stage.expand > 1:
                add(f"{block}_expand_conv", f"{block}_bn0", wide, channels, 1)
            add(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, stage.kernel)
            add(f"{block}_project_conv", f"{block}_bn2", stage.channels, wide, 1)
            index, channels = index + 1, stage.channels
    return weights
