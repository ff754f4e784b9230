"""DC and DSA: loops, what is trained, what is augmented."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import datastill as ds
import tiny
from datastill.data import Batch
from datastill.methods.gradient import GradientMatching
from datastill.run import check_run
from kit import input_error


@pytest.mark.parametrize(("ipc", "loops"), [(1, (1, 1)), (10, (10, 50)), (20, (20, 25)), (30, (30, 20)), (40, (40, 15)),
                                            (50, (50, 10)), (100, (100, 2))])
def test_loops_of_the_authors(ipc: int, loops: tuple[int, int]) -> None:
    assert GradientMatching().loops(ipc) == loops


def test_loops_for_every_ipc() -> None:
    inner = [GradientMatching().loops(ipc)[1] for ipc in range(2, 200)]
    assert inner == sorted(inner, reverse=True)
    assert inner[-1] == 2
    assert GradientMatching(outer=3, inner=4).loops(17) == (3, 4)


def steps(**options: object) -> tuple[list[ds.Step], list[torch.Tensor]]:
    """All steps of one iteration and the network's weights at each."""
    network = options.pop("network", tiny.NETWORK)
    run = tiny.run("gradient", network=network, ipc=2, method_options=options)
    task = tiny.task(run)
    synthetic = run.method.start(task, 2, ds.RNG(0))
    synthetic.images["pixels"].requires_grad_()
    found, weights = [], []
    for step in run.method.iterate(0, synthetic, task, ds.RNG(1)):
        found.append(step)
        weights.append(torch.cat([p.detach().flatten().clone() for p in step.net.parameters()]))
    return found, weights


def test_network_is_trained_between_steps_and_not_after_the_last() -> None:
    found, weights = steps(outer=3, inner=1)
    assert len(found) == 3
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    after = torch.cat([p.detach().flatten() for p in found[-1].net.parameters()])
    assert torch.equal(after, weights[2])


def test_inner_training_is_plain_sgd_on_the_synthetic_images() -> None:
    found, weights = steps(outer=2, inner=1, batch_train=256, lr_net=0.1)
    run = tiny.run("gradient", ipc=2)
    net = tiny.task(run).fresh(ds.RNG(1)("network"))
    batch = found[0].batch
    loss = torch.nn.functional.cross_entropy(net(batch.x.detach()), batch.y)
    moved = [p - 0.1 * g for p, g in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True)]
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in moved]), weights[1])


def test_equal_images_give_distance_zero_under_any_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny.run("gradient", ipc=4, method_options={"augment": "color_crop_cutout_scale_rotate", "outer": 1})
    task = tiny.task(run)
    real = task.random_real(4, ds.RNG(5))
    monkeypatch.setattr(ds.Task, "random_real", lambda self, n, rng: real)
    synthetic = task.synthetic(real)
    synthetic.images["pixels"].requires_grad_()
    (step,) = run.method.iterate(0, synthetic, task, ds.RNG(0))
    assert float(step.loss.detach()) < 0.01  # of at most some 180 rows; not 0 because of the 1e-6 beside small norms
    assert step.gradient_norms.shape == (10,)


def test_batch_normalization_is_set_by_real_images_and_held() -> None:
    found, _ = steps(network="convnet:width=4,depth=2,norm=batch", outer=1)
    norms = [m for m in found[0].net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(not m.training for m in norms)
    assert all(m.num_batches_tracked == 1 for m in norms)


def test_stop_inside_the_outer_loop_redoes_the_iteration(tmp_path: Path) -> None:
    """A crash between two steps of an iteration: the resumed set is the unbroken one's."""
    run = tiny.run("gradient", method_options={"outer": 3, "inner": 1})
    whole = tiny.distill(run, tmp_path / "whole").batch().x
    calls = 0

    original = GradientMatching._match

    def match(self: GradientMatching, *arguments: object) -> ds.Step:
        nonlocal calls
        calls += 1
        if calls == 5:  # the second step of the second iteration
            raise KeyboardInterrupt
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GradientMatching, "_match", match)
        with pytest.raises(KeyboardInterrupt):
            tiny.distill(run, tmp_path / "run", every=0.0)
    assert torch.equal(tiny.distill(run, tmp_path / "run").batch().x, whole)


def test_published_settings_are_the_defaults() -> None:
    method = GradientMatching()
    assert (method.iterations, method.batch_real, method.init, method.lr_net) == (1000, 256, "noise", 0.01)
    assert (method.optim.images.lr, method.optim.images.momentum) == (0.1, 0.5)


def test_parts_by_class_keep_the_order_of_the_batch() -> None:
    label = torch.tensor([2, 0, 2, 3, 0, 2])
    batch = Batch(torch.arange(6.0).view(6, 1, 1, 1), torch.eye(4)[label])
    parts = GradientMatching()._by_class(batch, ds.RNG(0))
    assert [part.x.flatten().tolist() for part in parts] == [[1, 4], [], [0, 2, 5], [3]]
    assert [part.y.argmax(1).tolist() for part in parts] == [[0, 0], [], [2, 2, 2], [3]]


@pytest.mark.parametrize("networks", [[], [tiny.NETWORK, "mlp"]])
def test_only_convolutions_of_a_network_without_any_are_refused_before_the_work(networks: list[str]) -> None:
    run = tiny.run("gradient", network=tiny.NETWORK if networks else "mlp", method_options={"layers": "convolutions", "networks": networks})
    with input_error("layers=convolutions", "mlp", "layers=all"):
        check_run(run, tiny.splits().train, root=tiny.ROOT)
