"""DataDAM beyond the golden step: any network, any precision, what it draws."""

from __future__ import annotations

import pytest
import torch

import datastill as ds
import tiny


@pytest.mark.parametrize("network", ["mlp", "alexnet:width=4", "convnet:width=4,depth=2,norm=batch", "convnet:width=4,depth=1",
                                     "vit:width=8,depth=2"])
def test_every_kind_of_map_can_be_matched(network: str) -> None:
    run = tiny.run("attention", network=network, ipc=2)
    task = tiny.task(run)
    synthetic = run.method.start(task, 2, ds.RNG(0))
    pixels = synthetic.images["pixels"].requires_grad_()
    (step,) = run.method.iterate(0, synthetic, task, ds.RNG(1))
    (gradient,) = torch.autograd.grad(step.loss, pixels)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_equal_images_have_no_loss() -> None:
    run = tiny.run("attention", ipc=8, method_options={"augment": "none"})
    task = tiny.task(run)
    real = task.random_real(8, ds.RNG(1, "x")("real"))
    (step,) = run.method.iterate(0, task.synthetic(real), task, ds.RNG(1, "x"))
    assert float(step.loss) < 1e-9


@pytest.mark.parametrize("method", ["attention", "distribution"])
def test_bfloat16_differs_by_rounding(method: str) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        run = tiny.run(method, ipc=2, precision=precision, method_options={"augment": "none"})
        task = tiny.task(run)
        (step,) = run.method.iterate(0, run.method.start(task, 2, ds.RNG(0)), task, ds.RNG(1))
        assert step.loss.dtype == torch.float32
        losses.append(float(step.loss))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_a_network_of_one_map_alone_leaves_nothing_to_match_without_task_balance() -> None:
    run = tiny.run("attention", network="convnet:width=4,depth=1", method_options={"task_balance": 0.0})
    with pytest.raises(ds.InputError, match="nothing is matched; choose a deeper network"):
        run.method.start(tiny.task(run), 1, ds.RNG(0))
