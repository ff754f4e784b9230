"""ZCA as an option of the data: fitted on the training images once, kept with what is distilled, never mixed up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import datastill as ds
import tiny
from datastill.data import whitening
from datastill.export import to_npz
from kit import input_error


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> ds.Splits:
    return ds.Data(source="digits", validation=0.1, zca=True).load(tmp_path_factory.mktemp("root"))


def covariance(x: torch.Tensor) -> torch.Tensor:
    return torch.cov(x.flatten(1).double().T)


def test_training_images_come_out_white_but_for_eps(splits: ds.Splits) -> None:
    """With W = U (s + eps)^-1/2 U' the covariance becomes U s / (s + eps) U': no direction is louder than 1."""
    x = splits.train.batch(torch.arange(len(splits.train))).x
    plain = tiny.splits().train.batch(torch.arange(len(splits.train))).x
    values = torch.linalg.eigvalsh(covariance(plain))
    assert torch.allclose(torch.linalg.eigvalsh(covariance(x)), values / (values + whitening.EPS), atol=1e-4)
    assert x.mean(0).abs().max() < 1e-4


def test_every_split_is_whitened_by_the_training_images_and_can_be_undone(splits: ds.Splits) -> None:
    w = splits.train.whitening
    assert w is not None
    for mine, plain in zip(splits, tiny.splits(), strict=True):
        rows = torch.tensor([3, 0])
        assert mine.whitening is w
        assert torch.allclose(mine.batch(rows).x, w.whiten(plain.batch(rows).x), atol=1e-5)
        assert torch.allclose(w.undo(mine.batch(rows).x), plain.batch(rows).x, atol=1e-4)


def test_subsets_and_draws_are_whitened_too(splits: ds.Splits) -> None:
    part = splits.test.subset(torch.tensor([5, 2]))
    assert torch.equal(part.batch(torch.tensor([1])).x, splits.test.batch(torch.tensor([2])).x)
    assert torch.equal(part.to(torch.device("cpu")).batch(torch.tensor([0])).x, splits.test.batch(torch.tensor([5])).x)


def test_whitened_data_have_another_fingerprint(splits: ds.Splits) -> None:
    for mine, plain in zip(splits, tiny.splits(), strict=True):
        assert mine.fingerprint != plain.fingerprint


def test_it_is_fitted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = ds.Data(source="digits", zca=True)
    first = described.load(tmp_path)
    (kept,) = tmp_path.glob("*.safetensors")
    monkeypatch.setattr(whitening, "fit", None)  # would fail if it were called
    again = described.load(tmp_path)
    rows = torch.arange(5)
    assert torch.equal(first.test.batch(rows).x, again.test.batch(rows).x)
    monkeypatch.undo()
    kept.write_bytes(b"damaged")
    assert torch.allclose(described.load(tmp_path).test.batch(rows).x, first.test.batch(rows).x, atol=1e-5)
    described.load(tmp_path / "nowhere")  # cannot be written to, since it does not exist: fitted, not kept
    assert not (tmp_path / "nowhere").exists()


def test_a_set_too_large_for_it_says_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(whitening.memory, "total", lambda: 2**20)
    with input_error("zca", "GiB", "data.size", "data.zca=false"):
        ds.Data(source="digits", zca=True).load(tmp_path)
    monkeypatch.undo()
    with input_error("224", "GiB"):
        whitening.check_memory(1_281_167, (3, 224, 224))


def test_what_is_distilled_keeps_it(tmp_path: Path, splits: ds.Splits) -> None:
    run = tiny.run(data=ds.Data(source="digits", validation=0.1, zca=True))
    ds.distill(run, splits.train, tmp_path / "run")
    loaded = ds.load(tmp_path / "run")
    assert loaded.whitening is not None
    assert torch.allclose(loaded.whitening.matrix, splits.train.whitening.matrix)  # type: ignore[union-attr]
    seen = loaded.whitening.undo(loaded.x) * loaded.std[0] + loaded.mean[0]
    assert (seen.clamp(0, 1)[:, 0] - loaded.view[..., 0].float() / 255).abs().max() < 0.005
    (score,) = ds.evaluate(loaded, "dc:epochs=3,augment=none", splits.test, network="mlp", trials=1)
    assert score.accuracy > 0
    with input_error("ZCA", "data.zca=true"):
        ds.evaluate(loaded, "dc:epochs=3", tiny.splits().test, network="mlp", trials=1)
    with np.load(to_npz(loaded, tmp_path / "set.npz")) as file:
        assert np.allclose((file["images"].reshape(10, -1) @ np.linalg.inv(file["zca_matrix"]) + file["zca_mean"])[0],
                           loaded.whitening.undo(loaded.x)[0].flatten().numpy(), atol=1e-3)
    (tmp_path / "run" / "whitening.safetensors").write_bytes(b"damaged")
    with input_error("whitening.safetensors", "damaged"):
        ds.load(tmp_path / "run")


def test_a_set_without_it_is_not_scored_on_whitened_images(tmp_path: Path, splits: ds.Splits) -> None:
    tiny.distill(tiny.run(), tmp_path / "run")
    with input_error("ZCA", "data.zca=false"):
        ds.evaluate(ds.load(tmp_path / "run"), "dc:epochs=3", splits.test, network="mlp", trials=1)


def test_whitening_is_differentiable_both_ways(splits: ds.Splits) -> None:
    w = splits.train.whitening
    assert w is not None
    x = splits.test.batch(torch.arange(2)).x.requires_grad_()
    (there,) = torch.autograd.grad(w.whiten(x).sum(), x)
    (back,) = torch.autograd.grad(w.undo(w.whiten(x)).sum(), x)
    assert (there - 1).abs().max() > 0.1
    assert (back - 1).abs().max() < 1e-3
