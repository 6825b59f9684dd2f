"""The figures of the paper's tables (arXiv 2104.09958): mean and standard deviation over seeds.

The deviation is None where the paper trained one seed only (Tables 4 and 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NAMES = {
    "monet": "MONet-G",
    "genesis_v1": "GENESIS",
    "genesis_v2": "GENESIS-V2",
    "slot_attention": "Slot Attention",
}
"""What the paper calls the models, in the order of its tables."""

DATASETS = {
    "objects_room": "ObjectsRoom",
    "shapestacks": "ShapeStacks",
    "sketchy": "Sketchy",
    "apc": "APC",
}

DATA_OPTIONS: dict[str, dict[str, Any]] = {
    "objects_room": {"image_size": 64, "variant": "train"},
    "shapestacks": {"image_size": 64},
    "sketchy": {"image_size": 128},
    "apc": {"image_size": 128},
}
"""How prepare.py makes the data sets that the figures are of."""

IMAGES = 320
"""Test images that segmentation, slots and ELBO are of."""
FID_IMAGES = 10_000
"""Test images, and as many samples, that a FID is of."""
STOP_THRESHOLDS = {"objects_room": 70.0, "shapestacks": 20.0}
"""Of the flexible number of slots, in pixels at 64x64 (section 4.1)."""


def stop_threshold(dataset: str) -> float:
    """The threshold for a data set; ShapeStacks' serves every other data set too."""
    return STOP_THRESHOLDS.get(dataset, STOP_THRESHOLDS["shapestacks"])


@dataclass(frozen=True)
class Figure:
    mean: float
    std: float | None = None


@dataclass(frozen=True)
class Variant:
    """A row of Table 6: GENESIS-V2's prior, kernel and embedding."""

    autoregressive_prior: bool
    kernel: str
    semi_conv: bool


Figures = dict[str, Figure]
"""Figures by the metric's name in the results of evaluate.py."""


def _segmentation(ari: Figure, msc: Figure) -> Figures:
    return {"ari_fg": ari, "msc_fg": msc}


def _slots(slots: Figure, mae: Figure, ari: Figure, msc: Figure) -> Figures:
    return {"slots": slots, "slots_mae": mae, **_segmentation(ari, msc)}


def _generation(elbo: Figure, fid: Figure) -> Figures:
    return {"elbo": elbo, "fid": fid}


# Table 1: segmentation, by data set and model. Foreground pixels only.
SEGMENTATION = {
    "objects_room": {
        "monet": _segmentation(Figure(0.54, 0.00), Figure(0.33, 0.01)),
        "genesis_v1": _segmentation(Figure(0.63, 0.03), Figure(0.53, 0.07)),
        "genesis_v2": _segmentation(Figure(0.85, 0.01), Figure(0.59, 0.01)),
        "slot_attention": _segmentation(Figure(0.79, 0.02), Figure(0.64, 0.13)),
    },
    "shapestacks": {
        "monet": _segmentation(Figure(0.70, 0.04), Figure(0.57, 0.12)),
        "genesis_v1": _segmentation(Figure(0.70, 0.05), Figure(0.67, 0.02)),
        "genesis_v2": _segmentation(Figure(0.81, 0.01), Figure(0.67, 0.01)),
        "slot_attention": _segmentation(Figure(0.76, 0.01), Figure(0.70, 0.05)),
    },
}

# Table 2: slots of GENESIS-V2, by data set, whether with the mask loss, and kind of slots.
SLOTS = {
    ("objects_room", False): {
        "fixed": _slots(Figure(7.0, 0.0), Figure(3.3, 0.0), Figure(0.85, 0.01), Figure(0.59, 0.01)),
        "flexible": _slots(
            Figure(5.0, 0.9), Figure(1.7, 0.9), Figure(0.84, 0.01), Figure(0.51, 0.10)
        ),
    },
    ("shapestacks", False): {
        "fixed": _slots(Figure(9.0, 0.0), Figure(4.4, 0.0), Figure(0.81, 0.01), Figure(0.67, 0.01)),
        "flexible": _slots(
            Figure(6.3, 0.3), Figure(1.9, 0.3), Figure(0.77, 0.02), Figure(0.63, 0.01)
        ),
    },
    ("shapestacks", True): {
        "fixed": _slots(Figure(9.0, 0.0), Figure(4.4, 0.0), Figure(0.81, 0.01), Figure(0.68, 0.00)),
        "flexible": _slots(
            Figure(5.7, 0.2), Figure(1.1, 0.02), Figure(0.81, 0.01), Figure(0.68, 0.01)
        ),
    },
}

# Table 3: density estimation and generation, by data set and model.
GENERATION = {
    "objects_room": {
        "monet": _generation(Figure(-7217, 19), Figure(205.7, 7.6)),
        "genesis_v1": _generation(Figure(-7023, 2), Figure(62.8, 2.5)),
        "genesis_v2": _generation(Figure(-7040, 2), Figure(52.6, 2.7)),
    },
    "shapestacks": {
        "monet": _generation(Figure(-7268, 19), Figure(197.8, 5.2)),
        "genesis_v1": _generation(Figure(-7082, 15), Figure(186.8, 18.0)),
        "genesis_v2": _generation(Figure(-7019, 2), Figure(112.7, 3.2)),
    },
}

# Table 4: segmentation of APC, by model. All pixels.
SEGMENTATION_APC = {
    "monet": {"ari": Figure(0.11), "msc": Figure(0.48)},
    "genesis_v1": {"ari": Figure(0.04), "msc": Figure(0.29)},
    "slot_attention": {"ari": Figure(0.03), "msc": Figure(0.25)},
    "genesis_v2": {"ari": Figure(0.55), "msc": Figure(0.67)},
}

# Table 5: generation of real images, by data set and model.
GENERATION_REAL = {
    "sketchy": {
        "monet": {"fid": Figure(294.3)},
        "genesis_v1": {"fid": Figure(241.9)},
        "genesis_v2": {"fid": Figure(208.1)},
    },
    "apc": {
        "monet": {"fid": Figure(269.3)},
        "genesis_v1": {"fid": Figure(183.2)},
        "genesis_v2": {"fid": Figure(245.6)},
    },
}

# Table 6: ablations of GENESIS-V2, by variant and data set. The published text lost the signs of
# the kernels; they are in the order in which Section 3.2 introduces them.
ABLATIONS = {
    Variant(False, "gaussian", True): {
        "objects_room": _segmentation(Figure(0.79, 0.01), Figure(0.47, 0.17)),
        "shapestacks": _segmentation(Figure(0.79, 0.01), Figure(0.67, 0.00)),
    },
    Variant(False, "laplacian", True): {
        "objects_room": _segmentation(Figure(0.74, 0.08), Figure(0.48, 0.20)),
        "shapestacks": _segmentation(Figure(0.79, 0.01), Figure(0.67, 0.01)),
    },
    Variant(False, "epanechnikov", True): {
        "objects_room": _segmentation(Figure(0.78, 0.01), Figure(0.34, 0.08)),
        "shapestacks": _segmentation(Figure(0.78, 0.01), Figure(0.66, 0.01)),
    },
    Variant(True, "gaussian", True): {
        "objects_room": _segmentation(Figure(0.84, 0.01), Figure(0.58, 0.03)),
        "shapestacks": _segmentation(Figure(0.81, 0.00), Figure(0.68, 0.01)),
    },
    Variant(True, "gaussian", False): {
        "objects_room": _segmentation(Figure(0.79, 0.05), Figure(0.59, 0.02)),
        "shapestacks": _segmentation(Figure(0.60, 0.38), Figure(0.56, 0.21)),
    },
}
