"""Students: paired, a function of the seed, refused where they cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill.errors import InputError, RunError
from datastill.nets.mlp import MLP
from datastill.protocols.dc import DC
from kit import input_error

PROTOCOL, NETWORK = DC(epochs=6, lr=0.1, augment="none"), MLP(width=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scored") / "run"
    tiny.distill(tiny.run(), place)
    return place


def test_evaluate_takes_sets_loaded_sets_and_images(folder: Path) -> None:
    synthetic = tiny.distill(tiny.run(), folder)
    of_set, of_loaded = (ds.evaluate(s, PROTOCOL, tiny.splits().test, network=NETWORK, trials=2)
                         for s in (synthetic, ds.load(folder)))
    assert [s.accuracy for s in of_set] == [s.accuracy for s in of_loaded]
    assert len({s.accuracy for s in of_set}) == 2
    (real,) = ds.evaluate(tiny.splits().train, "dc:epochs=5,lr=0.05,augment=none", tiny.splits().test, network="mlp", trials=1)
    assert real.accuracy > 0.5


def test_accuracy_is_the_share_of_right_predictions(folder: Path) -> None:
    (one,) = ds.evaluate(ds.load(folder), PROTOCOL, tiny.splits().test, network=NETWORK, trials=1)
    counts = tiny.splits().test.targets.bincount().tolist()
    right = sum(a * n for a, n in zip(one.per_class, counts, strict=True) if a is not None)
    assert one.accuracy == pytest.approx(right / sum(counts))


def test_trials_are_a_function_of_the_seed(folder: Path) -> None:
    a, b, c = (ds.evaluate(ds.load(folder), PROTOCOL, tiny.splits().test, network=NETWORK, trials=1, seed=s)[0].accuracy
               for s in (0, 0, 1))
    assert a == b != c


def test_other_classes_or_normalization_are_refused(folder: Path) -> None:
    test = tiny.splits().test
    with pytest.raises(InputError, match="differ in classes"):
        ds.evaluate(ds.load(folder), PROTOCOL, replace(test, classes=tuple("abcdefghij")), network=NETWORK)
    with pytest.raises(InputError, match="differ in mean"):
        ds.evaluate(ds.load(folder), PROTOCOL, replace(test, mean=(0.5,)), network=NETWORK)
    with pytest.raises(InputError, match="trials: expected a whole number, 1 or more"):
        ds.evaluate(ds.load(folder), PROTOCOL, test, network=NETWORK, trials=0)


def test_diverging_student_says_what_to_do(folder: Path) -> None:
    with pytest.raises(RunError, match="training diverged"):
        ds.evaluate(ds.load(folder), DC(epochs=30, lr=1e6, augment="none"), tiny.splits().test, network=NETWORK, trials=1)


def test_other_shape_and_no_images_are_refused(folder: Path) -> None:
    test = tiny.splits().test
    with pytest.raises(InputError, match="differ in shape"):
        ds.evaluate(ds.load(folder), PROTOCOL, replace(test, pixels=test.pixels.repeat(1, 1, 2, 2)), network=NETWORK)
    with pytest.raises(InputError, match="no images to score on"):
        ds.evaluate(ds.load(folder), PROTOCOL, test.subset(torch.tensor([], dtype=torch.long)), network=NETWORK)


def test_student_with_another_number_of_outputs(folder: Path) -> None:
    class Narrow(ds.Architecture):
        def build(self, shape: Any, classes: int) -> Any:
            return MLP().build(shape, 3)

    with pytest.raises(InputError, match=r"an output of shape \(3,\)"):
        ds.evaluate(ds.load(folder), PROTOCOL, tiny.splits().test, network=Narrow())


def test_weights_lost_in_the_very_last_step_are_no_score(folder: Path) -> None:
    with pytest.raises(RunError, match="diverged"):
        ds.evaluate(ds.load(folder), DC(epochs=1, lr=1e20, augment="none"), tiny.splits().test, network="convnet:width=4,depth=2",
                    trials=1)


def test_any_dataset_is_scored_like_images(folder: Path) -> None:
    images, protocol = tiny.splits().test, DC(epochs=1)
    wanted = ds.evaluate(ds.load(folder), protocol, images, network=tiny.NETWORK, trials=1)[0].accuracy
    pixels: Any = images.pixels
    for given in ((pixels, images.targets), torch.utils.data.TensorDataset(pixels, images.targets), (pixels.permute(0, 2, 3, 1).numpy(), images.targets.numpy())):
        for subject in (ds.load(folder), folder, str(folder)):
            assert ds.evaluate(subject, protocol, given, network=tiny.NETWORK, trials=1)[0].accuracy == wanted
    whole = tiny.run().task(tiny.splits().train)
    assert ds.evaluate(whole.synthetic(whole.random_real(1, ds.RNG(0))), protocol, (pixels, images.targets), network=tiny.NETWORK, trials=1)
    assert 0 <= ds.evaluate((pixels[:20], images.targets[:20]), protocol, images, network=tiny.NETWORK, trials=1)[0].accuracy <= 1


@pytest.mark.parametrize(("changes", "parts"), [
    ({"trials": 1.5}, ("trials", "whole number", "1.5")), ({"trials": True}, ("trials", "True")), ({"trials": 0}, ("trials: expected a whole number, 1 or more",)), ({"seed": -1}, ("seed", "-1")), ({"seed": "a"}, ("seed",)),
    ({"images": None}, ("NoneType",)), ({"images": "test"}, ("'test'",)), ({"images": tiny.splits()}, ("Splits", "splits.test")), ({"synthetic": None}, ("NoneType",)), ({"synthetic": "nowhere"}, ("nowhere", "no distilled set")),
    ({"images": (torch.zeros(4, 3, 8, 8).byte(), torch.arange(4))}, ("3 channels", "training images 1")), ({"images": (torch.zeros(4, 1, 9, 9).byte(), torch.arange(4))}, ("shape",)),
])
def test_what_cannot_be_evaluated_is_refused_in_one_line(folder: Path, changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    given: dict[str, Any] = {"synthetic": folder, "protocol": DC(epochs=1), "images": tiny.splits().test, "network": tiny.NETWORK, "trials": 1, **changes}
    with input_error(*parts):
        ds.evaluate(**given)
