"""What a camera does to an image: exposure, colour cast, veil, vignette, blur, noise, JPEG."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, slots=True)
class ImageEffects:
    """Parameters of one camera; the defaults change nothing."""

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    #: Stray light added everywhere, in 0..1 of full scale; lifts the blacks.
    veil: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gamma: float = 1.0
    saturation: float = 1.0
    vignette: float = 0.0
    #: Standard deviations in fractions of the image height.
    blur: float = 0.0
    motion_blur: float = 0.0
    motion_angle: float = 0.0
    sharpen: float = 0.0
    #: Standard deviation of the noise in grey values, and the size of its grain in pixels.
    noise: float = 0.0
    noise_grain: float = 0.0
    jpeg_quality: int = 0

    def apply(self, image: Image, rng: np.random.Generator) -> Image:
        """The image as this camera would give it.

        Args:
            image: (H, W, 3).
            rng: makes the noise.

        Returns:
            (H, W, 3).
        """
        height, width = image.shape[:2]
        levels = np.linspace(0.0, 1.0, 256) ** self.gamma
        table = np.clip(levels[:, None] * np.array(self.gain) + np.array(self.veil), 0.0, 1.2)
        out = (255.0 * table).astype(np.float32)[image, np.arange(3)]
        if self.saturation != 1.0:
            grey = (out @ _LUMA)[..., None]
            out = grey + np.float32(self.saturation) * (out - grey)
        if self.vignette > 0:
            y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
            x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
            out *= (1 - np.float32(0.5 * self.vignette) * (x * x + y * y))[..., None]
        out = self._focus(out, height)
        if self.noise > 0:
            noise = rng.standard_normal((height, width, 3), dtype=np.float32)
            if self.noise_grain > 0:
                noise = cv2.GaussianBlur(noise, (0, 0), self.noise_grain)
                noise *= np.float32(1.0) / max(float(noise.std()), 1e-6)
            out = out + np.float32(self.noise) * noise
        result = np.clip(out + 0.5, 0, 255).astype(np.uint8)
        if self.jpeg_quality > 0:
            ok, data = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality])
            assert ok, "OpenCV could not encode a JPEG"
            # Encoded as if BGR and decoded likewise, so the channels come back in place.
            result = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
        return result

    def _focus(self, out: npt.NDArray[np.float32], height: int) -> npt.NDArray[np.float32]:
        if self.sharpen > 0:
            soft = cv2.GaussianBlur(out, (0, 0), max(0.8, 0.008 * height))
            out = out + np.float32(self.sharpen) * (out - soft)
        if self.blur * height > 0.2:
            out = np.asarray(cv2.GaussianBlur(out, (0, 0), self.blur * height), dtype=np.float32)
        length = round(self.motion_blur * height)
        if length > 1:
            kernel = np.zeros((2 * length + 1, 2 * length + 1), np.float32)
            reach = 0.5 * length * np.array([np.cos(self.motion_angle), np.sin(self.motion_angle)])
            ends = [(np.rint(length + sign * reach)).astype(int).tolist() for sign in (-1, 1)]
            cv2.line(kernel, ends[0], ends[1], 1.0, 1)
            out = np.asarray(cv2.filter2D(out, -1, kernel / kernel.sum()), dtype=np.float32)
        return out


def sample_effects(rng: np.random.Generator, *, sketchy: bool, moving: bool) -> ImageEffects:
    """A random camera. Sketchy's is light, soft and slightly green, with lifted blacks.

    Args:
        rng: makes the choices.
        sketchy: Sketchy's camera.
        moving: for a sequence, whose camera is a decent one: in focus, little noise.
    """
    exposure = float(np.exp(rng.normal(0.08, 0.12 if sketchy else 0.16)))
    if sketchy:
        cast = np.array([1.0, 1.08, 0.86]) * np.exp(rng.normal(0, 0.05, 3))
        veil = rng.uniform(0.0, 0.14) * np.array([1.0, 1.06, 0.82])
    else:
        cast = np.exp(rng.normal(0, 0.08, 3))
        veil = rng.uniform(0.0, 0.10) * np.exp(rng.normal(0, 0.1, 3))
    gain = exposure * cast * (1 - veil)
    effects = ImageEffects(
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        veil=(float(veil[0]), float(veil[1]), float(veil[2])),
        gamma=float(np.exp(rng.normal(-0.05, 0.14))),
        saturation=float(rng.uniform(0.7, 1.25)),
        vignette=float(rng.uniform(0.0, 0.35)) if rng.random() < 0.6 else 0.0,
        blur=float(rng.uniform(0.0, 0.012)) if rng.random() < 0.75 else 0.0,
        motion_blur=float(rng.uniform(0.01, 0.035)) if rng.random() < 0.08 else 0.0,
        motion_angle=float(rng.uniform(0, np.pi)),
        sharpen=float(rng.uniform(0.2, 1.0)) if rng.random() < 0.2 else 0.0,
        noise=float(rng.uniform(0.0, 3.5) if rng.random() < 0.8 else rng.uniform(3.5, 9.0)),
        noise_grain=float(rng.uniform(0.4, 0.9)) if rng.random() < 0.4 else 0.0,
        jpeg_quality=int(rng.integers(35, 98)) if rng.random() < 0.7 else 0,
    )
    if not moving:
        return effects
    return replace(
        effects,
        blur=0.25 * effects.blur,
        motion_blur=0.0,
        noise=0.4 * effects.noise,
        jpeg_quality=max(effects.jpeg_quality, 80) if effects.jpeg_quality else 0,
    )
