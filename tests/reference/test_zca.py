"""ZCA whitening and its inverse against kornia's, as MTT and others use it."""

import pytest

from datastill.data.whitening import fit
from reference.golden import Golden, error

GOLDEN = Golden("zca")


@pytest.mark.parametrize("parts", [1, 3])
def test_whitening_and_its_inverse(parts: int) -> None:
    train, test, other = (GOLDEN[f"in.{name}"].double() for name in ("train", "test", "other"))
    whitening = fit(train.chunk(parts), eps=GOLDEN.config["eps"])
    assert error(whitening.matrix, GOLDEN["out.W"]) < 1e-8
    assert error(whitening.inverse, GOLDEN["out.W_inv"]) < 1e-8
    assert error(whitening.whiten(train), GOLDEN["out.train_zca"]) < 1e-8
    assert error(whitening.whiten(test), GOLDEN["out.test_zca"]) < 1e-8
    assert error(whitening.undo(GOLDEN["out.test_zca"]), GOLDEN["out.inverse"]) < 1e-8
    assert error(whitening.undo(other), GOLDEN["out.inverse_other"]) < 1e-8
