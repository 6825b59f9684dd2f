"""Fréchet Inception Distance between generated and real images (Heusel et al., 2017).

FID is the Fréchet distance between two Gaussians fitted to the Inception features of the images,
with the network and weights of `training.inception`; the same distance on other features is not
called FID anywhere in this project. It shrinks with the number of images, so scores compare only
at the same number: 10,000 on each side in the paper.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.inception import Inception

# Of the conversion of the TensorFlow weights that pytorch-fid and torch-fidelity publish alike.
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
WEIGHTS_NAMES = (
    "weights-inception-2015-12-05-6726825d.pth",  # torch-fidelity
    "pt_inception-2015-12-05-6726825d.pth",  # pytorch-fid
)
_HOW_TO_GET_THEM = (
    f"pass --inception-weights PATH with the file {WEIGHTS_NAMES[0]} that the torch-fidelity "
    f"project publishes (pytorch-fid publishes the same as {WEIGHTS_NAMES[1]})"
)

FloatArray = NDArray[np.float64]
FeatureExtractor = Callable[[Tensor], Tensor]


class FidError(Exception):
    """The FID cannot be computed: the Inception weights are missing or not the right ones."""


class FeatureStatistics:
    """Mean and covariance of features that arrive batch by batch, without keeping them.

    Accumulated in float64 about the first batch's mean, which avoids cancellation.
    """

    def __init__(self) -> None:
        self.count = 0
        self._shift = np.empty(0)
        self._sum = np.empty(0)
        self._products = np.empty((0, 0))

    def add(self, features: NDArray[np.floating]) -> None:
        """Take in features of shape (N, D)."""
        batch = features.astype(np.float64)
        if self.count == 0:
            dim = batch.shape[1]
            self._shift, self._sum = batch.mean(0), np.zeros(dim)
            self._products = np.zeros((dim, dim))
        batch -= self._shift
        self.count += len(batch)
        self._sum += batch.sum(0)
        self._products += batch.T @ batch

    @property
    def mean(self) -> FloatArray:
        """(D,)"""
        return self._shift + self._sum / self.count

    @property
    def covariance(self) -> FloatArray:
        """(D, D), unbiased."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, there are {self.count}")
        centred = self._products - np.outer(self._sum, self._sum) / self.count
        return centred / (self.count - 1)


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """Fréchet distance between two Gaussians, in its squared form as FID reports it.

    |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau, 1982) for means m and
    covariances C, which may be singular.
    """
    covariances = first.covariance, second.covariance
    # The trace of (C1 C2)^(1/2) is the sum of the singular values of C1^(1/2) C2^(1/2). Unlike a
    # general matrix root this stays real and accurate for the singular covariances of few images.
    roots = _symmetric_root(covariances[0]) @ _symmetric_root(covariances[1])
    overlap = np.linalg.svd(roots, compute_uv=False).sum()
    offset = np.square(first.mean - second.mean).sum()
    distance = offset + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * overlap
    return max(float(distance), 0.0)  # rounding can fall below zero for equal Gaussians


def feature_statistics(batches: Iterable[Tensor], extractor: FeatureExtractor) -> FeatureStatistics:
    """Statistics of the features of image batches (B, 3, H, W) in [0, 1].

    Images are rounded to 8 bits first, as if they had been saved to files.
    """
    statistics = FeatureStatistics()
    for images in batches:
        with torch.no_grad():
            features = extractor(images.float().clamp(0, 1).mul(255).round().div(255))
        statistics.add(features.float().cpu().numpy())
    return statistics


def load_inception(weights: Path | None = None, device: torch.device | str = "cpu") -> Inception:
    """The FID's feature extractor: calling it on images (B, 3, H, W) in [0, 1] gives (B, 2048).

    Args:
        weights: the published weights file. None: a copy that torch-fidelity or pytorch-fid
            downloaded earlier, else downloaded with torch-fidelity, which knows where.

    Raises:
        FileNotFoundError: there is no such file.
        FidError: the file is not the FID's Inception, or cannot be downloaded.
    """
    path = _find_or_download() if weights is None else Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"Inception weights {path} do not exist; {_HOW_TO_GET_THEM}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise FidError(
            f"{path} does not hold the FID's Inception weights, or not all of them (SHA-256 "
            f"{found[:8]}..., expected {WEIGHTS_SHA256[:8]}...): a distance on other features "
            f"would not be the FID; {_HOW_TO_GET_THEM}"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = Inception()
    # The file also has the classifier, which no feature depends on.
    network.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
    return network.to(device).eval().requires_grad_(False)


def _find_or_download() -> Path:
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for name in WEIGHTS_NAMES:
        if (cache / name).is_file():
            return cache / name
    try:
        library = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except (ImportError, RuntimeError) as error:  # RuntimeError: another PyTorch's torchvision
        raise FidError(
            f"no Inception weights for the FID: {_HOW_TO_GET_THEM}, or have them downloaded: pip "
            f"install -r requirements/fid.txt ({error})"
        ) from error
    path = cache / WEIGHTS_NAMES[0]
    cache.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(
            library.URL_INCEPTION_V3, str(path), hash_prefix=WEIGHTS_SHA256[:8]
        )
    except (URLError, OSError, RuntimeError) as error:
        raise FidError(
            f"the Inception weights could not be downloaded ({error}); {_HOW_TO_GET_THEM}"
        ) from error
    return path


def _symmetric_root(matrix: FloatArray) -> FloatArray:
    """Root of a symmetric positive semi-definite matrix; rounding below zero counts as zero."""
    values, vectors = np.linalg.eigh(matrix)
    root: FloatArray = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root
