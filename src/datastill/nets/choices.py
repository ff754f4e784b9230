"""Which form a pass has on this machine: measured once where the work is long enough to repay it, and kept."""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datastill.digest import dump
from datastill.errors import InputError
from datastill.files import checksum, make_folder, reason
from datastill.foreign import is_foreign
from datastill.late import torch
from datastill.nets._timing import choose
from datastill.nets.forms import Form, Kind, _choices
from datastill.progress import log
from datastill.rng import RNG
from datastill.store import locked, read_record, write_record

if TYPE_CHECKING:
    from torch import Tensor, nn

SPEED, RECORD = "speed", "speed.json"  # folder under a root, and file in the folder of a run
WORTH = 2e13  # forward FLOP from which on two seconds of measuring are repaid: minutes on any processor
WORTH_COMPILING = 20 * WORTH  # and half a minute of compiling


@contextmanager
def choosing(folder: Path | None, record: Path | None = None, repeats: int = 1, portable: bool = False,
             keep: bool = True) -> Iterator[Choices]:
    """Inside, work that is worth it is done in forms that are measured on this machine.

    folder: where choices are kept by machine, for all work; None: nowhere. record: file of the choices of this work, which
    it keeps to when it is continued, on whatever machine, measured or portable as it was begun. repeats: how often each
    pass will be done. portable: measure nothing, always use the usual forms. keep: False: write nothing. Raises InputError:
    a record that was altered.
    """
    choices = Choices(folder, record, repeats, portable, keep)
    with using(choices):
        yield choices


@contextmanager
def using(choices: Choices) -> Iterator[None]:
    """Inside, these choices are asked for the form of every pass."""
    token = _choices.set(choices)
    try:
        yield
    finally:
        _choices.reset(token)


class Choices:
    """Forms chosen by measurement. ``used``: those of this work, by pass. ``seconds``: of an image by form, for passes that
    were measured. ``kept``: those of them that later work will find. again: measure every pass, whether it is worth it or
    not and whatever is known."""

    def __init__(self, folder: Path | None, record: Path | None = None, repeats: int = 1, portable: bool = False,
                 keep: bool = True, again: bool = False) -> None:
        self.folder, self.record, self.repeats, self.keep = folder, record, repeats, keep
        self.again, self.seconds, self.kept = again, dict[str, Mapping[str, float]](), set[str]()
        self._machine = None if portable else machine()
        self.used, was_portable = _recorded(record)
        self.portable = portable or was_portable
        if record is not None and keep and portable and not record.exists():
            write_record(record, {"machine": None, "choices": {}, "portable": True})

    @property
    def facts(self) -> dict[str, Any]:
        """What a card records: the forms by pass, if some were chosen."""
        return {"speed": {key: str(form) for key, form in self.used.items()}} if self.used else {}

    def form(self, network: nn.Module, x: Tensor, kind: Kind, usual: Form, repeats: int = 1) -> Form:
        """The form of such passes: of this work, if it has one; usual, if measuring is not worth it; kept; or measured."""
        made = vars(network).get("_origin")
        if made is None or is_foreign(made[0]) or not len(x):  # networks from outside may do anything
            return usual
        key = _key(made, x, kind)
        if key in self.used:
            return self.used[key]
        if self.portable:
            return usual
        images = max(self.repeats, repeats) * len(x)
        if not self.again and images * _at_most(network, x) < WORTH:
            return usual
        worth = images * _flop(network, made, x)
        if worth < WORTH and not self.again:
            return usual
        kept = None if self.again else self._kept().get(key)
        if kept is not None:
            found = Form.model_validate(kept["form"])
        else:
            found, timed = choose(network, x, kind, usual, compiling=worth >= WORTH_COMPILING or self.again)
            if timed is not None:
                self.seconds[key] = timed
                self._keep(key, found, timed)
        self._use(key, found)
        return found

    def _use(self, key: str, form: Form) -> None:
        self.used[key] = form
        if self.record is not None and self.keep:
            made = {key: dump(one) for key, one in self.used.items()}
            write_record(self.record, {"machine": self._machine, "choices": made})

    @property
    def _path(self) -> Path | None:
        return None if self.folder is None else self.folder / f"{checksum(self._machine or {})[:12]}.json"

    def _kept(self) -> dict[str, Any]:
        """What is kept for this machine and these versions: tables of form and seconds by pass; nothing if the file is
        damaged, or of another machine."""
        if self._path is None:
            return {}
        try:
            found = read_record(self._path, "")
            if found is None or found["machine"] != self._machine:
                return {}
            for one in found["choices"].values():
                Form.model_validate(one["form"])
            return dict(found["choices"])
        except (InputError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _keep(self, key: str, form: Form, timed: Mapping[str, float]) -> None:
        if self._path is None or not self.keep:
            return
        try:
            make_folder(self._path.parent)
            with locked(self._path.parent, wait=True):
                choices = {**self._kept(), key: {"form": dump(form), "seconds": dict(timed)}}
                write_record(self._path, {"machine": self._machine, "choices": choices})
            self.kept.add(key)
        except (InputError, OSError) as error:
            log.warning("the measured speeds cannot be kept in %s: %s", self._path,
                        reason(error) if isinstance(error, OSError) else error)


def _recorded(path: Path | None) -> tuple[dict[str, Form], bool]:
    """The forms of a work that was begun before, by pass, and whether it measures nothing. Raises InputError."""
    again = "delete it: the forms are measured again"
    known = None if path is None else read_record(path, again)
    if known is None:
        return {}, False
    try:
        return {key: Form.model_validate(form) for key, form in known["choices"].items()}, bool(known.get("portable"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is damaged, or of another version of datastill; {again}") from None


def _key(made: Any, x: Tensor, kind: Kind) -> str:
    *_, classes, name = made
    cast = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    size = "x".join(map(str, x.shape[1:]))
    return f"{kind} of {name}, {len(x)} x {size}, {classes} classes, {str(cast).removeprefix('torch.')}, {_threads(x)}"


def _threads(x: Tensor) -> str:
    return f"{torch.get_num_threads()} threads" if x.device.type == "cpu" else torch.cuda.get_device_name(x.device) \
        if x.device.type == "cuda" else x.device.type


def machine() -> dict[str, Any]:
    """What forms are measured on: another processor or version measures anew."""

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "none"

    name = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        name = next((line.partition(":")[2].strip() for line in info.read_text(encoding="utf-8").splitlines()
                     if line.startswith("model name")), name)
    return {"processor": name, "instructions": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count(),
            **{package: of(package) for package in ("datastill", "torch", "numba")}}


def _at_most(network: nn.Module, x: Tensor) -> float:
    """More than ``_flop``, without a pass: every weight is used at most once at every pixel."""
    return 8.0 * sum(one.numel() for one in network.parameters()) * x.shape[-2] * x.shape[-1]


_FLOP: dict[Any, float] = {}  # by the arguments of ``fresh`` and the shape of an image


def _flop(network: nn.Module, made: Any, x: Tensor) -> float:
    """Floating-point operations of convolutions and matrix products for one image forward."""
    key = (made, x.shape[1:])
    if key not in _FLOP:
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        with torch.no_grad(), RNG("flop").as_global(x.device), counter:
            copy.deepcopy(network).eval()(x[:1].detach())
        _FLOP[key] = float(counter.get_total_flops())
    return _FLOP[key]
