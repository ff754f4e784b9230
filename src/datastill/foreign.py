"""One boundary around code from outside the package: whatever a custom class raises, or returns in place of what its
interface promises, becomes one line that names the class, the method, and the place."""

from __future__ import annotations

import functools
import pkgutil
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datastill.errors import InputError, RunError

HOME = __name__.partition(".")[0]
LONGEST = 300  # characters of another library's message that are shown

# What a method must return, by the annotation of our method that it overrides; what is not here is checked where it is used.
RETURNS = {
    "nn.Module": "torch.nn:Module", "dict": "builtins:dict", "Mapping": "collections.abc:Mapping",
    "list": "builtins:list", "tuple": "builtins:tuple", "int": "numbers:Integral", "float": "numbers:Real",
    "str": "builtins:str", "Iterable": "collections.abc:Iterable", "Labeler": "datastill.core:Labeler",
    "Protocol": "datastill.core:Protocol", "Self": "datastill.description:Family",
    "Domain": "datastill.data.domain:Domain", "Teacher": "datastill.teachers:Teacher",
    "Trajectory": "datastill.teachers.pool:Trajectory", "Arrays": "datastill.data.source:Arrays"}


def is_foreign(cls: type) -> bool:
    """Whether a class is from outside the package."""
    return package_of(cls) != HOME


def name_of(cls: type) -> str:
    """``package.module:Class``."""
    return f"{cls.__module__}:{cls.__qualname__}"


@contextmanager
def calling(what: str, package: str, passing: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Whatever is raised inside becomes an InputError that says that ``what`` raised it, and where in ``package``. Errors
    that are meant for the user (InputError, RunError), those that stop the process and those in ``passing`` stay as they
    are."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, (InputError, RunError, KeyboardInterrupt, GeneratorExit, *passing)):
            raise
        raise InputError(f"{what} raised {said(error)}{_place(error, package)}") from error


@contextmanager
def blaming(*parts: tuple[str, type | None]) -> Iterator[None]:
    """Errors of torch inside are reported as those of the foreign classes among these parts, (what it is, its class): some
    only show when gradients are computed, outside the class."""
    try:
        yield
    except RuntimeError as error:
        foreign = [what if what.endswith(name_of(cls)) else f"{what} {name_of(cls)}"  # a plug-in's label is its name
                   for what, cls in parts if cls is not None and is_foreign(cls)]
        if not foreign:
            raise
        raise InputError(f"{' or '.join(foreign)} raised {said(error)}") from error


@contextmanager
def reading(cls: type) -> Iterator[None]:
    """Around the validation of a description: validators of a foreign class may raise anything. What pydantic turns into a
    message passes."""
    if is_foreign(cls):
        with calling(f"{name_of(cls)}: reading its settings", package_of(cls), (ValueError, AssertionError)):
            yield
    else:
        yield


def said(error: BaseException) -> str:
    """An exception as one line: its type and its message."""
    text = str(error)
    if "TorchScript interpreter" in text:  # pages of a traceback, and the message in its last line
        text = text.strip().splitlines()[-1].removeprefix(f"{type(error).__name__}: ")
    text = " ".join(text.split())
    return f"{type(error).__name__}{': ' if text else ''}{text[:LONGEST]}"


def guard(cls: type) -> None:
    """Put the boundary around every method and property of a foreign class that overrides one of ours."""
    ours = [base for base in cls.__mro__ if not is_foreign(base)]
    for name in {name for base in ours for name in vars(base) if not name.startswith("__")}:
        owner = next(base for base in cls.__mro__ if name in vars(base))
        if owner in ours or (owner is not cls and hasattr(owner, "home")):  # guarded already
            continue
        value, kept = vars(owner)[name], next(vars(base)[name] for base in ours if name in vars(base))
        if isinstance(value, property) and value.fget is not None:
            promised = kept.fget if isinstance(kept, property) else kept
            setattr(cls, name, property(_guarded(cls, name, value.fget, promised), doc=value.__doc__))
        elif isinstance(value, types.FunctionType):
            setattr(cls, name, _guarded(cls, name, value, kept))


def guard_instance(one: Any, who: str, origin: type, checks: Mapping[str, Callable[..., Any]]) -> None:
    """Put the boundary around methods of an object that a foreign class ``origin`` made; ``who``: its name in messages. Each
    result is passed through its check, with the method's name, the object and what the method was given by position. The
    object gets a subclass of its class: copies work."""
    if "_made_by" in vars(one):
        return
    vars(one)["_made_by"] = (who, package_of(origin))
    cls: Any = type(one)
    if "_guarded" not in vars(cls):
        own: dict[str, Any] = {name: _on_instance(getattr(cls, name), name, check)
                               for name, check in checks.items() if hasattr(cls, name)}
        cls._guarded = type(cls.__name__, (cls,), {"__module__": cls.__module__, "__qualname__": cls.__qualname__, **own})
    one.__class__ = cls._guarded


def _on_instance(function: Callable[..., Any], name: str, check: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(self: Any, *arguments: Any, **options: Any) -> Any:
        who, package = vars(self)["_made_by"]
        what = f"{who}: {type(self).__name__}.{name}"
        with calling(what, package):
            found = function(self, *arguments, **options)
        return _each(found, what, package) if isinstance(found, Iterator) else check(found, what, self, *arguments)
    return called


def _guarded(cls: type, name: str, function: Callable[..., Any], promised: Any) -> Callable[..., Any]:
    what, package = f"{name_of(cls)}.{name}", package_of(cls)
    annotation = str(getattr(promised, "__annotations__", {}).get("return", ""))

    @functools.wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        with calling(what, package):
            found = function(*arguments, **options)
        return _each(found, what, package) if isinstance(found, Iterator) else _checked(found, annotation, what)
    return called


def _each(values: Iterable[Any], what: str, package: str) -> Iterator[Any]:
    with calling(what, package):
        yield from values


def _checked(found: Any, annotation: str, what: str) -> Any:
    """What a method returned, if it is what its interface promises; nothing counts as an empty mapping."""
    head, _, none = annotation.partition(" | ")
    head = head.partition("[")[0]
    if found is None and (none or head == "Mapping"):
        return {} if head == "Mapping" else None
    if head in RETURNS and (not isinstance(found, _named(RETURNS[head])) or (head == "Iterable" and isinstance(found, str))):
        raise InputError(f"{what} returned {type(found).__name__}; expected {annotation}")
    return found


@functools.cache
def _named(path: str) -> type:
    found: type = pkgutil.resolve_name(path)
    return found


def package_of(cls: type) -> str:
    """The top package a class is from."""
    return cls.__module__.partition(".")[0]


def _place(error: BaseException, package: str) -> str:
    """The innermost line of the package that the error passed, or else the innermost one outside of ours."""
    frames = [(str(frame.f_globals.get("__name__")).partition(".")[0], frame.f_code.co_filename, line)
              for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [frame for frame in frames if frame[0] == package] or \
        [frame for frame in frames if frame[0] not in (HOME, "importlib", "contextlib")]
    if not own:
        return ""
    _, file, line = own[-1]
    path = Path(file)
    return f" ({path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}, line {line})"
