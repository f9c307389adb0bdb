"""Convolutions and pools in NumPy float64, written without a thought of speed."""

import numpy as np


def windows(x: np.ndarray, kernel: tuple[int, int], fill: float) -> np.ndarray:
    """What each position of x [H, W, C] sees around itself, filled outside: [H, W, C, h, w]."""
    (h, w), c = kernel, x.shape[-1]
    padding = [(h // 2, h // 2), (w // 2, w // 2), (0, 0)]
    padded = np.pad(x.astype(np.float64), padding, constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(padded, (h, w, c), (0, 1, 2))[
        :, :, 0
    ].transpose(0, 1, 4, 2, 3)


def conv(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    """The cross-correlation of x [H, W, I] with a PyTorch kernel [O, I, h, w]: [H, W, O]."""
    seen = windows(x, kernel.shape[2:], 0.0)
    return np.einsum("abihw,oihw->abo", seen, kernel.astype(np.float64), optimize=True) + bias


def mean_pool(x: np.ndarray) -> np.ndarray:
    """The mean over 3×3 positions of those that lie inside."""
    return np.nanmean(windows(x, (3, 3), np.nan), axis=(-2, -1))


def max_pool(x: np.ndarray) -> np.ndarray:
    """The largest of 3×3 positions."""
    return windows(x, (3, 3), -np.inf).max(axis=(-2, -1))
