"""Every form of a pass gives the authors' numbers, and a run in it continues as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill.errors import Stopped
from datastill.nets import forcing
from reference import test_datadam, test_dc, test_dc_eval, test_dcc, test_dm, test_trajectory

FORMS: list[dict[str, Any]] = [{"kernels": "torch"}, {"kernels": "torch", "channels_last": True}, {"chunk": 3}, {"chunk": 1},
                               {"chunk": 10**6}]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_golden_values(form: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with forcing(**form):
        for norm, key in (("instance", "in"), ("batch", "bn")):
            test_dm.test_loss_and_gradient(norm, key)
            with monkeypatch.context() as patch:
                test_dm.test_the_method_itself_gives_it(norm, key, patch)
        for metric in test_dc.NAMES:
            with monkeypatch.context() as patch:
                test_dc.test_one_step_of_the_method(metric, patch)
        for test in (test_dcc.test_dsac, test_datadam.test_the_step_is_that_of_the_authors):
            with monkeypatch.context() as patch:
                test(patch)
        test_trajectory.test_mtt(3, 3)
        test_trajectory.test_tesla(3)
        test_dc_eval.test_full_run()


class Stopping(ds.Progress):
    def tell(self, done: int, of: int, note: str = "") -> None:
        if done == 1 and note:
            raise Stopped


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("method", ["dm", "dsa", "mtt"])
def test_a_run_continues(method: str, form: dict[str, Any], tmp_path: Path) -> None:
    run = ds.Run(method=tiny.method(method), data=ds.Data(source="digits", validation=0.1), network=tiny.NETWORK, ipc=2)
    with forcing(**form):
        whole = tiny.distill(run, tmp_path / "whole").batch().x
        with pytest.raises(Stopped):
            tiny.distill(run, tmp_path / "parts", progress=Stopping())
        assert torch.equal(tiny.distill(run, tmp_path / "parts").batch().x, whole)
    torch.testing.assert_close(whole, tiny.distill(run, tmp_path / "usual").batch().x, rtol=1e-2, atol=1e-3)
