"""Loops over feature maps that numba compiles for the processor it runs on: the work of ``_fused.py``.

A map is H x W values of one channel of one image; arrays hold ``planes`` = images x channels of them. Each function works on
planes ``first`` to ``last``, so that threads can share them. Sums may be reordered (vectorized); NaN stays NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

ZERO, QUARTER = np.float32(0), np.float32(0.25)


def compiled(function: Any) -> Any:
    """The function, compiled when it is first called; kept on disk where that is possible."""
    options: Any = {"nogil": True, "fastmath": {"reassoc", "contract", "arcp", "nsz"}, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in
        return njit(**options)(function)


@compiled
def forward(x: Any, weight: Any, bias: Any, eps: Any, out: Any, means: Any, scales: Any, first: Any, last: Any) -> None:
    """Normalize each plane, multiply by its channel's weight and add its bias, clamp at 0, average 2x2 squares."""
    channels, height, width = len(weight), x.shape[1], x.shape[2]
    size = height * width
    count, clamped = np.float32(height * width), np.empty(height * width, np.float32)
    for k in range(first, last):
        plane = x[k].reshape(size)
        total = ZERO
        for i in range(size):
            total += plane[i]
        mean = total / count
        squares = ZERO
        for i in range(size):
            away = plane[i] - mean
            squares += away * away
        scale = np.float32(1) / np.sqrt(squares / count + np.float32(eps))
        means[k], scales[k] = mean, scale
        factor = scale * weight[k % channels]
        shift = bias[k % channels] - mean * factor
        for i in range(size):
            value = factor * plane[i] + shift
            clamped[i] = ZERO if value <= ZERO else value
        _average(clamped, out[k], width, height)


@compiled
def backward(gradient: Any, x: Any, weight: Any, bias: Any, means: Any, scales: Any, to_x: Any, to_weight: Any, to_bias: Any,
             first: Any, last: Any) -> None:
    """The derivatives of ``forward``; those of weight and bias for each plane."""
    channels, height, width = len(weight), x.shape[1], x.shape[2]
    size, count = height * width, np.float32(height * width)
    for k in range(first, last):
        mean, scale = means[k], scales[k]
        factor = scale * weight[k % channels]
        shift = bias[k % channels] - mean * factor
        plane, found = x[k].reshape(size), to_x[k].reshape(size)
        _spread(gradient[k], found, width, height)
        total, along = ZERO, ZERO
        for i in range(size):
            at = ZERO if factor * plane[i] + shift <= ZERO else found[i]
            found[i] = at
            total += at
            along += at * (plane[i] - mean)
        to_weight[k], to_bias[k] = along * scale, total
        middle, slope = total / count * factor, along / count * scale * scale * factor
        for i in range(size):
            found[i] = factor * found[i] - middle - (plane[i] - mean) * slope


@compiled
def twice(gradient: Any, x: Any, weight: Any, bias: Any, means: Any, scales: Any, v: Any, p: Any, q: Any, to_gradient: Any,
          to_x: Any, to_weight: Any, first: Any, last: Any) -> None:
    """The derivatives of <v, to_x> + <p, to_weight> + <q, to_bias> of ``backward``; see ``_fused._Back``."""
    channels, height, width = len(weight), x.shape[1], x.shape[2]
    size, count = height * width, np.float32(height * width)
    inside = np.empty(height * width, np.float32)
    for k in range(first, last):
        mean, scale, own = means[k], scales[k], weight[k % channels]
        factor = scale * own
        shift = bias[k % channels] - mean * factor
        plane, u, along = x[k].reshape(size), to_x[k].reshape(size), v[k].reshape(size)
        _spread(gradient[k], u, width, height)
        sum_u, sum_uz, sum_v, sum_vz, sum_vu = ZERO, ZERO, ZERO, ZERO, ZERO
        for i in range(size):
            z = (plane[i] - mean) * scale
            at = ZERO if factor * plane[i] + shift <= ZERO else u[i]
            u[i] = at
            sum_u += at
            sum_uz += at * z
            sum_v += along[i]
            sum_vz += along[i] * z
            sum_vu += along[i] * at
        mean_v, c, b = sum_v / count, sum_vz / count, own * sum_uz / count
        a = own * sum_vu / count - mean_v * (own * sum_u / count) - b * c
        to_weight[k] = scale * (sum_vu - mean_v * sum_u - c * sum_uz)
        of_u, of_v = p[k % channels] - scale * c * own, scale * b
        middle = scale * (of_u * sum_u / count - of_v * mean_v)
        slope = scale * (of_u * sum_uz / count - of_v * c) + scale * scale * a
        of_u, of_v = scale * of_u, scale * of_v
        rising, level = p[k % channels] - factor * c, q[k % channels] - factor * mean_v
        for i in range(size):
            z = (plane[i] - mean) * scale
            inside[i] = ZERO if factor * plane[i] + shift <= ZERO else factor * along[i] + rising * z + level
            u[i] = of_u * u[i] - of_v * along[i] - middle - z * slope
        _average(inside, to_gradient[k], width, height)


@compiled
def _average(plane: Any, squares: Any, width: Any, height: Any) -> None:
    """The mean of each square of four pixels; changes the plane."""
    for i in range(height // 2):
        above, below = plane[2 * i * width:(2 * i + 1) * width], plane[(2 * i + 1) * width:(2 * i + 2) * width]
        for j in range(width):
            above[j] += below[j]
        for j in range(width // 2):
            squares[i, j] = QUARTER * (above[2 * j] + above[2 * j + 1])


@compiled
def _spread(squares: Any, plane: Any, width: Any, height: Any) -> None:
    """A quarter of each value to the four pixels of its square; a leftover row or column gets 0."""
    left = width // 2
    for i in range(height // 2):
        above, below = plane[2 * i * width:(2 * i + 1) * width], plane[(2 * i + 1) * width:(2 * i + 2) * width]
        for j in range(left):
            value = QUARTER * squares[i, j]
            above[2 * j] = value
            above[2 * j + 1] = value
        if width % 2:
            above[width - 1] = ZERO
        for j in range(width):
            below[j] = above[j]
    if height % 2:
        for j in range(width):
            plane[(height - 1) * width + j] = ZERO


@compiled
def noted(x: Any, factor: Any, shift: Any, middle: Any, out: Any, sums: Any, squares: Any, first: Any, last: Any) -> None:
    """Multiply each plane by its channel's factor and add its shift; its sum and sum of squares, less the channel's
    middle."""
    channels, size = len(factor), x.shape[1] * x.shape[2]
    planes, found, c = x.reshape(len(x), size), out.reshape(len(x), size), first % channels
    for k in range(first, last):
        times, plus, less = factor[c], shift[c], middle[c]
        total, square = ZERO, ZERO
        for i in range(size):
            value = planes[k, i]
            away = value - less
            total += away
            square += away * away
            found[k, i] = times * value + plus
        sums[k], squares[k] = total, square
        c = 0 if c + 1 == channels else c + 1


@compiled
def noted_back(gradient: Any, x: Any, factor: Any, slope: Any, offset: Any, to_x: Any, first: Any, last: Any) -> None:
    """Each plane's gradient times its channel's factor, plus its values times the slope, plus the offset."""
    channels, size = len(factor), x.shape[1] * x.shape[2]
    given, planes, found = (gradient.reshape(len(x), size), x.reshape(len(x), size), to_x.reshape(len(x), size))
    c = first % channels
    for k in range(first, last):
        times, along, plus = factor[c], slope[c], offset[c]
        for i in range(size):
            found[k, i] = times * given[k, i] + along * planes[k, i] + plus
        c = 0 if c + 1 == channels else c + 1
