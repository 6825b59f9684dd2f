"""FID: the Fréchet distance against closed forms, the Inception network, finding its weights."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from training.fid import (
    FeatureStatistics,
    FidError,
    feature_statistics,
    frechet_distance,
    load_inception,
)
from training.inception import Inception


def statistics_of(*batches: NDArray[np.float64]) -> FeatureStatistics:
    statistics = FeatureStatistics()
    for batch in batches:
        statistics.add(batch)
    return statistics


def whitened(rng: np.random.Generator, count: int, dim: int) -> NDArray[np.float64]:
    """Features with mean exactly 0 and covariance exactly the identity."""
    features = rng.standard_normal((count, dim))
    features -= features.mean(0)
    root = np.linalg.cholesky(np.linalg.inv(np.cov(features.T)))
    return features @ root


def test_statistics_are_those_of_all_batches_together() -> None:
    # An offset far above the spread, where a naive sum of squares loses all its digits.
    features = np.random.default_rng(0).standard_normal((97, 5)) + 1e6
    statistics = statistics_of(*np.array_split(features, 4))
    assert statistics.count == 97
    np.testing.assert_allclose(statistics.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(features.T), rtol=1e-6, atol=1e-9)


def test_distance_of_gaussians_with_commuting_covariances_is_the_closed_form() -> None:
    rng = np.random.default_rng(1)
    scales_1, scales_2 = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.1, 0.5])
    offset = np.array([1.0, -2.0, 0.5])
    first = statistics_of(whitened(rng, 50, 3) * scales_1)
    second = statistics_of(whitened(rng, 80, 3) * scales_2 + offset)
    expected = np.sum(offset**2) + np.sum((scales_1 - scales_2) ** 2)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_distance_of_correlated_gaussians_agrees_with_the_matrix_root() -> None:
    rng = np.random.default_rng(2)
    a = rng.standard_normal((200, 6)) @ rng.standard_normal((6, 6))
    b = rng.standard_normal((150, 6)) @ rng.standard_normal((6, 6)) + 1
    covariance_a, covariance_b = np.cov(a.T), np.cov(b.T)
    root = np.real(sqrtm(covariance_a @ covariance_b))
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2)
    expected += np.trace(covariance_a + covariance_b - 2 * root)
    assert frechet_distance(statistics_of(a), statistics_of(b)) == pytest.approx(expected)


def test_distance_to_itself_is_zero_even_with_fewer_images_than_features() -> None:
    few = statistics_of(np.random.default_rng(3).standard_normal((4, 30)))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-9)


def test_a_single_image_has_no_covariance() -> None:
    single = statistics_of(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="at least 2 images"):
        frechet_distance(single, single)


def test_images_are_rounded_to_8_bits_before_their_features_are_taken() -> None:
    images = torch.tensor([-0.2, 0.5, 1.7]).reshape(3, 1, 1, 1).expand(3, 3, 2, 2)
    statistics = feature_statistics([images], lambda x: x[:, :, 0, 0])
    np.testing.assert_allclose(statistics.mean, (0 + 128 / 255 + 1) / 3, rtol=1e-6)


@pytest.mark.slow
def test_network_computes_what_published_implementations_do() -> None:
    # With these made-up weights and this image, torch-fidelity 0.4.0's FID Inception gives the
    # expected numbers (fed the same scaled image, at its native size so that no resizing differs).
    network = Inception()
    draw = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for name in sorted(state):
        value = state[name]
        if name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(value.shape, generator=draw)
        elif value.ndim >= 2:
            fan_in = value[0].numel()
            state[name] = torch.randn(value.shape, generator=draw) * (2 / fan_in) ** 0.5
        elif name.endswith("bn.weight"):
            state[name] = 0.5 + torch.rand(value.shape, generator=draw)
        elif value.ndim == 1:
            state[name] = 0.1 * torch.randn(value.shape, generator=draw)
    network.load_state_dict(state)
    pixels = torch.randint(0, 256, (1, 3, 299, 299), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = network.eval()((pixels - 128) / 256 + 0.5)[0]
    assert features.shape == (2048,)
    assert features.mean().item() == pytest.approx(2.816897, rel=1e-3)
    assert features.std().item() == pytest.approx(3.962384, rel=1e-3)
    np.testing.assert_allclose(
        features[[0, 700, 1500, 2047]], [3.305337, 3.587799, 0.740789, 3.194093], rtol=1e-2
    )


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth.*--inception-weights"):
        load_inception(tmp_path / "absent.pth")


def test_another_network_is_not_taken_for_the_fid_inception(tmp_path: Path) -> None:
    # The common InceptionV3's weights have the same names and shapes, so that only the exact file
    # is proof of the right ones.
    weights = tmp_path / "inception_v3.pth"
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, weights)
    with pytest.raises(FidError, match=r"inception_v3\.pth.*would not be the FID"):
        load_inception(weights)


def test_without_weights_or_the_library_that_downloads_them_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)  # as if not installed
    with pytest.raises(FidError, match=r"--inception-weights PATH.*requirements/fid\.txt"):
        load_inception()
