"""DSA's operations against the original implementation, with the parameters it drew."""

import pytest
import torch
from torch import Tensor

from datastill.functional import augment
from datastill.functional.augment import Parameters
from reference.golden import Golden, error

OPS, SIAMESE = Golden("dsa_ops"), Golden("dsa_siamese")
NAMES = {"flip.u": "flip", "scale.sx": "scale_x", "scale.sy": "scale_y", "rotate.angle_rad": "angle",
         "crop.row": "crop_row", "crop.col": "crop_col", "cutout.row": "cutout_row", "cutout.col": "cutout_col",
         "brightness.u": "u_brightness", "saturation.u": "u_saturation", "contrast.u": "u_contrast"}


def parameters(values: dict[str, Tensor], n: int) -> Parameters:
    neutral = dict.fromkeys(Parameters._fields, torch.zeros(n))
    return Parameters(**{**neutral, **{k: v.float().expand(n) for k, v in values.items()}})


@pytest.mark.parametrize("name", ["flip", "scale", "rotate", "crop", "cutout", "brightness", "saturation", "contrast"])
def test_operation_and_its_gradient(name: str) -> None:
    given = {NAMES[k.removeprefix("in.")]: v for k, v in OPS.tensors.items() if k.startswith(f"in.{name}.")}
    x = OPS["in.x"].clone().requires_grad_()
    y = getattr(augment, name)(x, parameters(given, len(x)))
    assert error(y, OPS[f"out.{name}.y"]) < 2e-5
    (gradient,) = torch.autograd.grad((OPS["in.cotangent"] * y).sum(), x)
    assert error(gradient, OPS[f"out.{name}.vjp"]) < 2e-5


@pytest.mark.parametrize("case", range(len(SIAMESE.config["ops"])))
def test_siamese(case: int) -> None:
    operation = SIAMESE.config["ops"][case]
    prefix = f"in.case{case:02d}."
    given = {}
    for key, value in SIAMESE.tensors.items():
        if key.startswith(prefix):
            short = key.removeprefix(prefix)
            given[short if short in Parameters._fields else NAMES[f"{operation}.{short}"]] = value
    for side in ("real", "syn"):
        x = SIAMESE[f"in.{side}"]
        got = augment.OPERATIONS[operation](x, parameters(given, len(x)))
        assert error(got, SIAMESE[f"out.case{case:02d}.{side}"]) < 2e-5
