"""What an image is, wherever one is given."""

from __future__ import annotations

import numpy as np


def check_image(image: object, name: str = "image") -> None:
    """Raise TypeError or ValueError unless this is a uint8 RGB array (H, W, 3) with pixels."""
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{name} is a {type(image).__name__}; expected a numpy array (H, W, 3)")
    if image.dtype != np.uint8:
        raise TypeError(f"{name} has dtype {image.dtype}; expected uint8")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"{name} has shape {image.shape}; expected (H, W, 3) with H, W >= 1")
