"""The loops of ``_kernels.py`` for maps whose channels are last in memory, (images, height, width, channels): the innermost
loop is over channels. Each function works on images ``first`` to ``last``."""

from __future__ import annotations

from typing import Any

import numpy as np

from datastill.functional._kernels import QUARTER, ZERO, compiled


@compiled
def forward(x: Any, weight: Any, bias: Any, eps: Any, out: Any, means: Any, scales: Any, first: Any, last: Any) -> None:
    """Normalize each channel of each image, weight and shift it, clamp at 0, average 2x2 squares."""
    height, width, channels = x.shape[1:]
    count = np.float32(height * width)
    factor, shift = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for k in range(first, last):
        mean, scale, pixels = means[k], scales[k], x[k].reshape(height * width, channels)
        for c in range(channels):
            mean[c] = ZERO
            scale[c] = ZERO
        for i in range(height * width):
            for c in range(channels):
                mean[c] += pixels[i, c]
        for c in range(channels):
            mean[c] /= count
        for i in range(height * width):
            for c in range(channels):
                away = pixels[i, c] - mean[c]
                scale[c] += away * away
        for c in range(channels):
            scale[c] = np.float32(1) / np.sqrt(scale[c] / count + np.float32(eps))
            factor[c] = scale[c] * weight[c]
            shift[c] = bias[c] - mean[c] * factor[c]
        for i in range(height // 2):
            for j in range(width // 2):
                for c in range(channels):
                    one, two = factor[c] * x[k, 2 * i, 2 * j, c] + shift[c], factor[c] * x[k, 2 * i, 2 * j + 1, c] + shift[c]
                    three = factor[c] * x[k, 2 * i + 1, 2 * j, c] + shift[c]
                    four = factor[c] * x[k, 2 * i + 1, 2 * j + 1, c] + shift[c]
                    one, two = ZERO if one <= ZERO else one, ZERO if two <= ZERO else two
                    three, four = ZERO if three <= ZERO else three, ZERO if four <= ZERO else four
                    out[k, i, j, c] = QUARTER * (one + two + three + four)


@compiled
def backward(gradient: Any, x: Any, weight: Any, bias: Any, means: Any, scales: Any, to_x: Any, to_weight: Any, to_bias: Any,
             first: Any, last: Any) -> None:
    """The derivatives of ``forward``; those of weight and bias for each image."""
    height, width, channels = x.shape[1:]
    count = np.float32(height * width)
    factor, shift = np.empty(channels, np.float32), np.empty(channels, np.float32)
    middle, slope = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for k in range(first, last):
        mean, scale = means[k], scales[k]
        along, total = to_weight[k], to_bias[k]
        for c in range(channels):
            factor[c] = scale[c] * weight[c]
            shift[c] = bias[c] - mean[c] * factor[c]
            along[c] = ZERO
            total[c] = ZERO
        for i in range(height):
            for j in range(width):
                if i // 2 == height // 2 or j // 2 == width // 2:  # left over
                    for c in range(channels):
                        to_x[k, i, j, c] = ZERO
                else:
                    for c in range(channels):
                        value = x[k, i, j, c]
                        at = ZERO if factor[c] * value + shift[c] <= ZERO else QUARTER * gradient[k, i // 2, j // 2, c]
                        to_x[k, i, j, c] = at
                        total[c] += at
                        along[c] += at * (value - mean[c])
        for c in range(channels):
            middle[c] = total[c] / count * factor[c]
            slope[c] = along[c] / count * scale[c] * scale[c] * factor[c]
            along[c] *= scale[c]
        for i in range(height):
            for j in range(width):
                for c in range(channels):
                    to_x[k, i, j, c] = factor[c] * to_x[k, i, j, c] - middle[c] - (x[k, i, j, c] - mean[c]) * slope[c]


@compiled
def twice(gradient: Any, x: Any, weight: Any, bias: Any, means: Any, scales: Any, v: Any, p: Any, q: Any, to_gradient: Any,
          to_x: Any, to_weight: Any, first: Any, last: Any) -> None:
    """The derivatives of <v, to_x> + <p, to_weight> + <q, to_bias> of ``backward``; see ``_fused._Back``."""
    height, width, channels = x.shape[1:]
    count = np.float32(height * width)
    sums = np.empty((5, channels), np.float32)  # of u, u z, v, v z, v u
    factor, shift = np.empty(channels, np.float32), np.empty(channels, np.float32)
    of_u, of_v = np.empty(channels, np.float32), np.empty(channels, np.float32)
    middle, slope = np.empty(channels, np.float32), np.empty(channels, np.float32)
    rising, level = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for k in range(first, last):
        mean, scale = means[k], scales[k]
        sum_u, sum_uz, sum_v, sum_vz, sum_vu = sums[0], sums[1], sums[2], sums[3], sums[4]
        for c in range(channels):
            factor[c] = scale[c] * weight[c]
            shift[c] = bias[c] - mean[c] * factor[c]
            sum_u[c] = sum_uz[c] = sum_v[c] = sum_vz[c] = sum_vu[c] = ZERO
        for i in range(height):
            for j in range(width):
                inside = QUARTER if i // 2 < height // 2 and j // 2 < width // 2 else ZERO
                above, left = min(i // 2, height // 2 - 1), min(j // 2, width // 2 - 1)
                for c in range(channels):
                    value, along = x[k, i, j, c], v[k, i, j, c]
                    at = ZERO if factor[c] * value + shift[c] <= ZERO else inside * gradient[k, above, left, c]
                    z = (value - mean[c]) * scale[c]
                    to_x[k, i, j, c] = at
                    sum_u[c] += at
                    sum_uz[c] += at * z
                    sum_v[c] += along
                    sum_vz[c] += along * z
                    sum_vu[c] += along * at
        for ch in range(channels):
            own, s = weight[ch], scale[ch]
            mean_v, c, b = sum_v[ch] / count, sum_vz[ch] / count, own * sum_uz[ch] / count
            a = own * sum_vu[ch] / count - mean_v * (own * sum_u[ch] / count) - b * c
            to_weight[k, ch] = s * (sum_vu[ch] - mean_v * sum_u[ch] - c * sum_uz[ch])
            d, e = p[ch] - s * c * own, s * b
            middle[ch] = s * (d * sum_u[ch] / count - e * mean_v)
            slope[ch] = s * (d * sum_uz[ch] / count - e * c) + s * s * a
            of_u[ch], of_v[ch] = s * d, s * e
            rising[ch], level[ch] = p[ch] - factor[ch] * c, q[ch] - factor[ch] * mean_v
        for i in range(height // 2):
            for j in range(width // 2):
                for c in range(channels):
                    to_gradient[k, i, j, c] = ZERO
        for i in range(height):
            for j in range(width):
                part = QUARTER if i // 2 < height // 2 and j // 2 < width // 2 else ZERO
                above, left = min(i // 2, height // 2 - 1), min(j // 2, width // 2 - 1)
                for c in range(channels):
                    value, along = x[k, i, j, c], v[k, i, j, c]
                    z = (value - mean[c]) * scale[c]
                    open_ = ZERO if factor[c] * value + shift[c] <= ZERO else part
                    to_gradient[k, above, left, c] += open_ * (factor[c] * along + rising[c] * z + level[c])
                    to_x[k, i, j, c] = of_u[c] * to_x[k, i, j, c] - of_v[c] * along - middle[c] - z * slope[c]
