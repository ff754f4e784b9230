"""DM: what it draws, what it augments, where it starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill.core import Method
from datastill.description import load
from datastill.errors import InputError
from datastill.functional.distances import class_means, mean_feature_distance


def first_step(**options: Any) -> tuple[ds.Step, ds.Task, Any]:
    run = tiny.run(network=options.pop("network", tiny.NETWORK), ipc=options.pop("ipc", 2), method_options=options)
    task = tiny.task(run)
    synthetic = run.method.start(task, run.ipc, ds.RNG(0))
    for parameter in synthetic.groups().values():
        parameter.requires_grad_()
    (step,) = run.method.iterate(0, synthetic, task, ds.RNG(0, "x"))
    return step, task, synthetic


@pytest.mark.parametrize("network", [tiny.NETWORK, "convnet:width=4,depth=2,norm=batch", "mlp"])
def test_loss_is_that_of_a_loop_over_classes(network: str) -> None:
    """The spec's ten lines, class by class (for batch normalization: all at once), on the same draws."""
    step, task, synthetic = first_step(augment="none", network=network)
    net = task.fresh(ds.RNG(0, "x")("network"))
    real = task.random_real(8, ds.RNG(0, "x")("real"))
    if "batch" in network:
        want = mean_feature_distance(*(class_means(net.embed(b.x), b.y) for b in (real, synthetic.batch())))
    else:
        want = sum(((net.embed(real.x[8 * c:8 * c + 8]).mean(0) - net.embed(synthetic.batch().x[2 * c:2 * c + 2]).mean(0)) ** 2
                    ).sum() for c in range(10))
    torch.testing.assert_close(step.loss, want)


def test_only_the_images_get_a_gradient() -> None:
    step, _, synthetic = first_step()
    step.loss.backward()
    assert synthetic.images["pixels"].grad.abs().sum() > 0
    assert all(p.grad is None for p in step.net.parameters())


def test_real_and_synthetic_images_of_a_class_share_their_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the synthetic images are the real ones, the loss is 0 under any augmentation."""
    run = tiny.run(ipc=4, method_options={"batch_real": 4, "augment": "color_crop_cutout_scale_rotate"})
    task = tiny.task(run)
    real = task.random_real(4, ds.RNG(5))
    monkeypatch.setattr(ds.Task, "random_real", lambda self, n, rng: real)
    synthetic = task.synthetic(real)
    for i in range(5):
        (step,) = run.method.iterate(0, synthetic, task, ds.RNG(i))
        assert float(step.loss) < 1e-9


def test_starts_from_real_images_or_noise() -> None:
    run = tiny.run()
    task = tiny.task(run)
    real = run.method.start(task, 3, ds.RNG(0)).batch()
    pool = {tuple(x.flatten().tolist()) for x in task.real.batch(torch.arange(len(task.real))).x}
    assert all(tuple(x.flatten().tolist()) in pool for x in real.x)
    noise = tiny.method("distribution", init="noise").start(task, 50, ds.RNG(0)).batch()
    assert abs(float(noise.x.mean())) < 0.02
    assert float(noise.x.std()) == pytest.approx(1.0, abs=0.02)
    assert noise.y.argmax(1).tolist() == [c for c in range(10) for _ in range(50)]


def test_unknown_augmentation_is_refused_when_read() -> None:
    with pytest.raises(InputError, match=r"augment: unknown augmentation 'mixup'"):
        load(Method, {"kind": "distribution", "augment": "crop_mixup"})


def test_published_settings_are_the_defaults() -> None:
    method = ds.find(Method, "distribution")()
    assert (method.iterations, method.batch_real, method.init) == (20_000, 256, "real")
    assert (method.optim.name, method.optim.images.lr, method.optim.images.momentum) == ("sgd", 1.0, 0.5)


def test_changing_one_setting_of_the_optimizer_keeps_the_methods_others() -> None:
    method = load(Method, {"kind": "distribution", "optim": {"ema": 0.9, "images": {"momentum": 0.0}}})
    assert (method.optim.ema, method.optim.images.lr, method.optim.images.momentum) == (0.9, 1.0, 0.0)
