"""Siamese augmentation: who shares a draw with whom, what is drawn, what each operation does."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from datastill.compute import computing
from datastill.functional import augment as module
from datastill.functional.augment import (
    CROP,
    CUTOUT,
    OPERATIONS,
    ROTATE,
    SCALE,
    STRATEGY,
    Parameters,
    augment,
    augment_groups,
    augment_images,
    color,
    crop,
    cutout,
    draw,
    flip,
    rotate,
    scale,
    split_strategy,
)
from datastill.rng import RNG
from kit import Counting, quick

each_operation = pytest.mark.parametrize("operation", OPERATIONS)
seeds = st.integers(0, 10**6)
sides = st.integers(4, 40)
Call = Callable[[Tensor, RNG, str], Tensor]
each_call = pytest.mark.parametrize("call", [augment, augment_images])


def images(*shape: int, seed: int = 0) -> Tensor:
    return RNG("images", seed).uniform(*shape)


def neutral(n: int, **values: Tensor | float) -> Parameters:
    """Parameters that change nothing, but for the ones given."""
    still = {"flip": 1.0, "scale_x": 1.0, "scale_y": 1.0, "angle": 0.0, "crop_row": 0.0, "crop_col": 0.0,
             "cutout_row": 1000.0, "cutout_col": 1000.0, "u_brightness": 0.5, "u_saturation": 0.5, "u_contrast": 0.5}
    return Parameters(**{k: torch.as_tensor(v, dtype=torch.float32).expand(n) for k, v in {**still, **values}.items()})


def operation_of(call: Call, seed: int) -> str:
    """Which operation of the whole strategy a call takes at this seed: the one that alone gives the same images."""
    x = images(3, 3, 8, 8)
    y = call(x, RNG(seed), STRATEGY)
    found = [operation for operation in OPERATIONS if torch.equal(call(x, RNG(seed), operation), y)]
    assert len(found) == 1 or torch.equal(x, y)
    return found[0]


# --- who shares a draw ------------------------------------------------------------------------------------------------


@quick
@given(seeds, st.integers(1, 6), st.sampled_from([STRATEGY, *OPERATIONS]))
def test_equal_streams_transform_equally_whatever_the_batch_size(seed: int, n: int, strategy: str) -> None:
    x = images(7, 3, 9, 6, seed=seed)
    torch.testing.assert_close(augment(x, RNG(seed), strategy)[:n], augment(x[:n], RNG(seed), strategy))


@quick
@given(seeds)
def test_equal_images_of_a_siamese_call_stay_equal(seed: int) -> None:
    y = augment(images(1, 3, 8, 8).expand(4, -1, -1, -1), RNG(seed))
    torch.testing.assert_close(y, y[:1].expand_as(y))


@quick
@given(seeds, st.lists(st.integers(0, 2), min_size=1, max_size=8))
def test_images_of_one_group_share_a_draw(seed: int, group: list[int]) -> None:
    y = augment_groups(images(1, 3, 8, 8).expand(len(group), -1, -1, -1), torch.tensor(group), 3, RNG(seed))
    for label in set(group):
        rows = [i for i, g in enumerate(group) if g == label]
        torch.testing.assert_close(y[rows], y[rows[:1]].expand(len(rows), -1, -1, -1))


@quick
@given(seeds, st.permutations(range(6)))
def test_the_order_of_images_does_not_matter(seed: int, order: list[int]) -> None:
    x, group = images(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    shuffled = augment_groups(x[order], group[order], 3, RNG(seed))
    torch.testing.assert_close(shuffled, augment_groups(x, group, 3, RNG(seed))[order])


def test_groups_have_draws_of_their_own() -> None:
    group = torch.arange(12)
    y = augment_groups(images(1, 3, 8, 8).expand(12, -1, -1, -1), group, 12, RNG(0))
    assert len({tuple(image.flatten().tolist()) for image in y}) > 8


def test_a_group_may_be_absent_from_a_batch() -> None:
    """Real and synthetic batches share the draw of a class whatever other classes are in them."""
    x, group = images(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    rows = torch.tensor([2, 5])
    torch.testing.assert_close(augment_groups(x[rows], group[rows], 3, RNG(1)),
                               augment_groups(x, group, 3, RNG(1))[rows])


@each_operation
def test_images_of_a_training_batch_are_drawn_one_by_one(operation: str) -> None:
    y = augment_images(images(1, 3, 8, 8).expand(16, -1, -1, -1), RNG(0), operation)
    assert len({tuple(image.flatten().tolist()) for image in y}) > (1 if operation == "flip" else 5)


@each_call
def test_a_call_takes_one_operation_and_each_one_at_some_time(call: Call) -> None:
    taken = [operation_of(call, seed) for seed in range(120)]
    assert {operation for operation in OPERATIONS if taken.count(operation) > 5} == set(OPERATIONS)


@quick
@given(seeds)
def test_calls_are_functions_of_the_stream(seed: int) -> None:
    x = images(3, 3, 8, 8)
    for call in (augment, augment_images):
        assert torch.equal(call(x, RNG(seed)), call(x, RNG(seed)))


def test_only_operations_of_the_strategy_are_drawn() -> None:
    x = images(2, 3, 8, 8)
    for seed in range(20):
        y = augment(x, RNG(seed), "flip")
        assert torch.equal(y, x) or torch.equal(y, x.flip(3))


@pytest.mark.parametrize(("strategy", "unknown"), [
    ("crop_wrap", "wrap"), ("", ""), ("Crop", "Crop"), ("crop__flip", ""), ("brightness", "brightness")])
def test_an_unknown_operation_is_named_with_the_known(strategy: str, unknown: str) -> None:
    with pytest.raises(ValueError, match=f"unknown augmentation '{unknown}'.*color, crop, cutout, flip, scale, rotate"):
        split_strategy(strategy)


def test_a_strategy_is_its_operations_in_order() -> None:
    assert split_strategy(STRATEGY) == ["color", "crop", "cutout", "flip", "scale", "rotate"]
    assert split_strategy("flip") == ["flip"]


# --- operations in turn, as in IDC ---------------------------------------------------------------------------------------


def test_in_turn_mirrors_and_colors_first_and_cuts_out_last() -> None:
    x = images(8, 3, 8, 8)
    for seed in range(10):
        y = augment(x, RNG(seed), "idc_cutout_crop_color_flip")
        p = Parameters(*(one.expand(8) for one in draw(1, (8, 8), RNG(seed)("parameters"))))
        assert torch.equal(y, cutout(crop(color(flip(x, p), p), p), p))
        z = augment_images(x, RNG(seed), "idc_cutout_crop_color_flip")
        p = draw(8, (8, 8), RNG(seed)("parameters"))
        assert torch.equal(z, cutout(crop(color(flip(x, p), p), p), p))


def test_in_turn_draws_one_of_the_others() -> None:
    x = images(4, 3, 8, 8)
    seen = set()
    for seed in range(40):
        y = augment(x, RNG(seed), "idc_crop_scale_rotate")
        p = Parameters(*(one.expand(4) for one in draw(1, (8, 8), RNG(seed)("parameters"))))
        (found,) = (name for name, one in (("crop", crop(x, p)), ("scale", scale(x, p)), ("rotate", rotate(x, p)))
                    if torch.equal(y, one))
        seen.add(found)
    assert seen == {"crop", "scale", "rotate"}


def test_in_turn_is_shared_within_a_group() -> None:
    x = images(1, 3, 8, 8).expand(6, 3, 8, 8)
    group = torch.tensor([0, 1, 2, 0, 1, 2])
    y = augment_groups(x, group, 3, RNG(3), "idc_dsa")
    assert torch.equal(y[:3], y[3:])
    assert not torch.equal(y[0], y[1])


def test_in_turn_without_any_to_draw() -> None:
    x = images(3, 3, 8, 8)
    p = Parameters(*(one.expand(3) for one in draw(1, (8, 8), RNG(0)("parameters"))))
    assert torch.equal(augment(x, RNG(0), "idc_color_cutout"), cutout(color(x, p), p))


# --- what is drawn ----------------------------------------------------------------------------------------------------


@quick
@given(seeds, sides, sides)
def test_parameters_lie_in_their_ranges(seed: int, height: int, width: int) -> None:
    p = draw(50, (height, width), RNG(seed))
    assert all(value.shape == (50,) for value in p)
    for u in (p.flip, p.u_brightness, p.u_saturation, p.u_contrast):
        assert ((u >= 0) & (u < 1)).all()
    for factor in (p.scale_x, p.scale_y):
        assert ((factor >= 1 / SCALE - 1e-6) & (factor <= SCALE + 1e-6)).all()
    assert (p.angle.abs() <= math.radians(ROTATE) + 1e-6).all()
    for shift, center, side in ((p.crop_row, p.cutout_row, height), (p.crop_col, p.cutout_col, width)):
        assert (shift.abs() <= int(CROP * side + 0.5)).all()
        assert ((center >= 0) & (center <= side)).all()
        assert (shift == shift.round()).all()
        assert (center == center.round()).all()


def test_ranges_are_used_to_their_ends() -> None:
    p = draw(4000, (32, 16), RNG(0))
    assert set(p.crop_row.tolist()) == set(range(-4, 5))
    assert set(p.crop_col.tolist()) == set(range(-2, 3))
    assert set(p.cutout_row.tolist()) == set(range(33))
    assert set(p.cutout_col.tolist()) == set(range(17))
    assert p.scale_x.min() < 0.84
    assert p.scale_x.max() > 1.19
    assert p.angle.abs().max() > math.radians(14.9)


def test_parameters_are_drawn_apart_from_each_other() -> None:
    table = torch.stack(draw(2000, (32, 32), RNG(1)))
    assert (torch.corrcoef(table) - torch.eye(len(table))).abs().max() < 0.1


# --- what an operation does -------------------------------------------------------------------------------------------


@each_operation
@pytest.mark.parametrize("shape", [(3, 3, 8, 8), (2, 1, 8, 8), (2, 3, 6, 11), (1, 1, 28, 28)])
def test_shape_type_and_range_are_kept(operation: str, shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.float64):
        y = augment_images(images(*shape).to(dtype), RNG(3), operation)
        assert (y.shape, y.dtype) == (shape, dtype)
        assert torch.isfinite(y).all()


@each_operation
def test_neutral_parameters_change_nothing(operation: str) -> None:
    x = images(3, 3, 7, 10)
    torch.testing.assert_close(OPERATIONS[operation](x, neutral(3)), x)


@each_operation
def test_the_input_is_left_as_it_was(operation: str) -> None:
    x = images(3, 3, 8, 8)
    before = x.clone()
    augment_images(x, RNG(0), operation)
    assert torch.equal(x, before)


@each_operation
def test_every_operation_is_differentiable(operation: str) -> None:
    x = images(2, 3, 4, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment_images(x, RNG(5), operation), (x,))


@each_operation
def test_a_gradient_comes_through_a_grouped_call(operation: str) -> None:
    x = images(4, 3, 8, 8).requires_grad_()
    augment_groups(x, torch.tensor([0, 1, 0, 1]), 2, RNG(0), f"{operation}_color").square().sum().backward()
    assert x.grad is not None
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()


def test_flip_mirrors_left_to_right() -> None:
    x = images(2, 3, 4, 5)
    y = OPERATIONS["flip"](x, neutral(2, flip=torch.tensor([0.49, 0.5])))
    assert torch.equal(y[0], x[0].flip(2))
    assert torch.equal(y[1], x[1])


@quick
@given(sides, sides, st.integers(-5, 5), st.integers(-5, 5))
def test_crop_shifts_by_whole_pixels(height: int, width: int, row: int, col: int) -> None:
    row, col = max(-height + 1, min(row, height - 1)), max(-width + 1, min(col, width - 1))
    x = images(1, 2, height, width) + 1
    y = OPERATIONS["crop"](x, neutral(1, crop_row=row, crop_col=col))
    padded = torch.nn.functional.pad(x, (abs(col), abs(col), abs(row), abs(row)))
    wanted = padded[..., row + abs(row):, col + abs(col):][..., :height, :width]
    assert torch.equal(y, wanted)


@quick
@given(sides, sides, seeds)
def test_cutout_sets_a_square_of_half_the_side_to_zero(height: int, width: int, seed: int) -> None:
    p = draw(1, (height, width), RNG(seed))
    zero = (OPERATIONS["cutout"](torch.ones(1, 3, height, width), p)[0] == 0)
    assert (zero == zero[:1]).all()
    rows, cols = zero[0].any(1).nonzero().flatten().tolist(), zero[0].any(0).nonzero().flatten().tolist()
    assert zero[0].sum() == len(rows) * len(cols)
    for covered, center, side in ((rows, int(p.cutout_row), height), (cols, int(p.cutout_col), width)):
        length = int(CUTOUT * side + 0.5)
        first = center - length // 2
        assert covered == list(range(max(first, 0), min(first + length, side)))
        assert covered


def test_a_turn_by_a_right_angle_is_one() -> None:
    x = images(1, 3, 8, 8)
    y = OPERATIONS["rotate"](x, neutral(1, angle=math.pi / 2))
    quarter_turns = [torch.rot90(x, k, (2, 3)) for k in (1, 3)]
    assert min((y - turned).abs().max() for turned in quarter_turns) < 1e-4


def test_scale_above_one_shrinks_the_content() -> None:
    x = torch.ones(1, 1, 16, 16)
    assert OPERATIONS["scale"](x, neutral(1, scale_x=2.0)).sum((0, 1)).count_nonzero(1).unique().tolist() == [8]
    assert torch.equal(OPERATIONS["scale"](x, neutral(1, scale_x=0.5, scale_y=0.5)), x)


@quick
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_color_is_brightness_then_saturation_then_contrast(
        brightness: float, saturation: float, contrast: float) -> None:
    x = images(2, 3, 4, 4)
    y = OPERATIONS["color"](x, neutral(2, u_brightness=brightness, u_saturation=saturation, u_contrast=contrast))
    bright = x + brightness - 0.5
    gray = bright.mean(1, keepdim=True)
    saturated = gray + 2 * saturation * (bright - gray)
    mean = saturated.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(y, mean + (contrast + 0.5) * (saturated - mean))


def test_saturation_leaves_gray_images_alone() -> None:
    x = images(2, 1, 4, 4)
    torch.testing.assert_close(OPERATIONS["color"](x, neutral(2, u_saturation=0.9)), x)


@each_call
def test_the_global_generator_is_left_alone(call: Call) -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    call(images(2, 3, 8, 8), RNG(0), STRATEGY)
    assert torch.equal(torch.random.get_rng_state(), before)


# --- on another device ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [augment, augment_images])
def test_drawn_parameters_go_to_a_device_in_one_copy(call: Call) -> None:
    with Counting() as counting:
        assert call(torch.empty(3, 3, 8, 8, device="meta"), RNG(0), "scale").device.type == "meta"
    assert counting.seen["transfer"] == 1


@pytest.mark.parametrize("operation", ["scale", "rotate", "crop"])
@pytest.mark.parametrize("shape", [(9, 3, 8, 8), (5, 1, 7, 12)])
def test_the_form_with_a_deterministic_kernel_is_equal_with_both_derivatives(
        operation: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(*shape).double()

    def found() -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        y = augment_images(leaf, RNG(3), operation)
        (gradient,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        return [y, gradient, *torch.autograd.grad(gradient.pow(3).sum(), leaf)]

    usual = found()
    asked: list[torch.device] = []
    monkeypatch.setattr(module, "needs_deterministic", lambda device: asked.append(device) or True)
    monkeypatch.setattr(module.F, "grid_sample", None)
    for a, b in zip(found(), usual, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert asked == [torch.device("cpu")]


def test_where_deterministic_kernels_are_asked_for_the_sampler_is_not_called() -> None:
    x = torch.empty(3, 3, 8, 8, device="meta", requires_grad=True)
    for asked, calls in ((False, 1), (True, 0)):
        with Counting() as counting, computing(x.device, deterministic=asked):
            augment(x, RNG(0), "rotate").sum().backward()
        assert counting.seen["grid_sampler_2d"] == counting.seen["grid_sampler_2d_backward"] == calls
