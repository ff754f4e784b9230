"""The least a pass through the ConvNet can take here: its convolutions alone, each in the best form that was measured.

usage: python benchmarks/floor.py [--widths 32,128]

CIFAR-10 shape, depth 3. Each convolution is timed forward and in its two derivatives, for several batches and both memory
layouts; a pass is the sum of those it cannot do without. Everything else (normalization, pooling, augmentation, drawing) is
counted as nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import cache

import torch

from datastill.memory import keep_freed

SIDE, BATCHES, REPEATS = 32, (16, 64, 256), 5
KINDS = ("features", "pixels", "weights", "second", "unroll")


@cache
def floor(width: int) -> dict[str, float]:
    """Seconds of an image by kind of pass, in as many threads as torch uses now. "second": the derivative with respect to
    the images of a gradient with respect to the weights; "unroll": with respect to the weights too."""
    keep_freed()
    sides = (SIDE, SIDE // 2, SIDE // 4)
    layers = [_convolution(3 if number == 0 else width, width, side) for number, side in enumerate(sides)]
    found = dict.fromkeys(KINDS, 0.0)
    for number, (forward, to_x, to_weight) in enumerate(layers):
        through = number > 0  # the images of the first layer need no gradient while weights are differentiated
        weights = forward + to_weight + through * to_x
        # The derivative of a gradient: with respect to what came from above, two convolutions (one in the first layer); to
        # the layer's input and weights, one each; then once more backward through the forward pass.
        second = weights + (1 + through) * forward + to_x + to_x
        found["features"] += forward
        found["pixels"] += forward + to_x
        found["weights"] += weights
        found["second"] += second
        found["unroll"] += second + through * to_weight + to_weight
    return found


def _convolution(channels: int, width: int, side: int) -> tuple[float, float, float]:
    """Best seconds of an image: forward, derivative with respect to the input, to the weights."""
    best = [float("inf")] * 3
    for batch in BATCHES:
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(batch, channels, side, side).contiguous(memory_format=layout)
            weight = torch.randn(width, channels, 3, 3).contiguous(memory_format=layout)
            out = torch.randn(batch, width, side, side).contiguous(memory_format=layout)

            def backward(*wanted: bool, out: torch.Tensor = out, x: torch.Tensor = x,
                         weight: torch.Tensor = weight) -> object:
                return torch.ops.aten.convolution_backward(out, x, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1,
                                                           (*wanted, False))

            calls: list[Callable[[], object]] = [
                lambda x=x, weight=weight: torch.conv2d(x, weight, padding=1),  # type: ignore[misc]
                lambda backward=backward: backward(True, False), lambda backward=backward: backward(False, True)]
            with torch.no_grad():
                best = [min(known, _fastest(call) / batch) for known, call in zip(best, calls, strict=True)]
    return best[0], best[1], best[2]


def _fastest(call: Callable[[], object]) -> float:
    call()
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="32,128")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; milliseconds of an image\n")
    print(f"| width | {' | '.join(KINDS)} |\n|---{'|---' * len(KINDS)}|")
    for width in map(int, options.widths.split(",")):
        print(f"| {width} | {' | '.join(f'{1000 * value:.3f}' for value in floor(width).values())} |")


if __name__ == "__main__":
    main()
