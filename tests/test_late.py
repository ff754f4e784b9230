"""Names, help and refusals do not wait for torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LISTED = ("methods", "plugins", "data", "networks", "pools", "protocols", "parametrizations", "recipes", "studies")
ANSWERED = ["--help", "distill --help", *(f"list {what}" for what in LISTED), "show mtt", "show dm/cifar10-ipc10", "show convnet", "show run"]
REFUSED = ["distill dm/cifar10-ipc10 method.foo=1", "distill dm/cifar11-ipc10", "distill dm/cifar10-ipc10 ipc=0", "plan mtt/cifar10-ipc10 method.max_start=100",
           "export nowhere x", "evaluate nowhere", "report nowhere", "show mttt", "list everything", "study ptm-weight", "teach superwised"]
CODE = """
import contextlib, io, json, sys
from datastill import cli
found = {}
for line in sys.argv[1:]:
    sys.argv, said, code = ["datastill", *line.split()], io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
    found[line] = [code, said.getvalue(), [name for name in ("torch", "torchvision", "scipy", "sklearn") if name in sys.modules]]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, list[str]]]:
    """What each command line gave, one after the other in one process: exit code, text, which slow libraries were there then."""
    done = subprocess.run([sys.executable, "-c", CODE, *ANSWERED, *REFUSED], cwd=tmp_path_factory.mktemp("late"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize("line", [*ANSWERED, *REFUSED])
def test_it_is_answered_without_the_slow_libraries(line: str, found: dict[str, tuple[int, str, list[str]]]) -> None:
    code, said, loaded = found[line]
    assert code == (2 if line in REFUSED else 0), said
    assert said.strip()
    assert loaded == []


def test_the_public_names_are_there_before_torch() -> None:
    code = "import sys, datastill as ds; ds.Run; ds.DM(iterations=3); ds.Data(source='cifar10'); dir(ds); ds.InputError; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_the_library_itself() -> None:
    import torch
    import torch.nn.functional

    from datastill import late
    assert late.torch.zeros is torch.zeros
    assert late.nn.Module is torch.nn.Module
    assert late.F.relu is torch.nn.functional.relu


def test_no_grad_is_torchs() -> None:
    import torch

    from datastill.late import no_grad

    @no_grad
    def doubled(x: torch.Tensor) -> torch.Tensor:
        """Twice it."""
        return 2 * x

    assert not doubled(torch.ones(1, requires_grad=True)).requires_grad
    assert torch.is_grad_enabled()
    assert (doubled.__name__, doubled.__doc__) == ("doubled", "Twice it.")
