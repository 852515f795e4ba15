"""Small numerical helpers shared by the painters: colours, ramps and noise."""

import hashlib

import numpy as np


def srgb_to_linear(colour) -> np.ndarray:
    """Decode sRGB values in [0, 1] to linear light."""
    colour = np.asarray(colour, float)
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def smoothstep(start, end, value):
    """Cubic ramp from 0 at `start` to 1 at `end` (either order)."""
    t = np.clip((value - start) / (end - start), 0, 1)
    return t * t * (3 - 2 * t)


def noise_tile(size: int, exponent: float, seed: int) -> np.ndarray:
    """A tileable square of noise in [0, 1] with spectrum 1/f^exponent."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.fft2(rng.standard_normal((size, size)))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    frequency[0, 0] = 1e9
    tile = np.fft.ifft2(spectrum / frequency**exponent).real
    tile = (tile - tile.mean()) / tile.std()
    return np.clip(0.5 + tile * 0.25, 0, 1).astype(np.float32)


def stable_rng(*key: str | int) -> np.random.Generator:
    """A random stream that depends on the words and numbers of `key` only."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def level_of(value: float, thresholds: tuple[float, ...]) -> int:
    """Index of the bin of `value` among ascending `thresholds`."""
    return sum(value >= threshold for threshold in thresholds)
