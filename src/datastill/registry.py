"""Members of families by name. The file names are the registry: ``datastill/plugins/clom.py`` holds the plug-in ``clom``.

Code outside the package is found by entry point (group ``datastill.plugins``) or as ``package.module:Class``. A family is
any class with ``home``, the package whose files are its members.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import types
from importlib.metadata import entry_points
from typing import Any

from datastill.errors import InputError
from datastill.foreign import calling
from datastill.tables import nearest

NOUNS = {"datastill.nets": "network", "datastill.data": "dataset", "datastill.plugins": "plug-in"}


def kind(member: Any) -> str:
    """Name under which ``find`` returns this class: its file name, or ``package.module:Class`` outside its home."""
    cls: Any = member if isinstance(member, type) else type(member)
    package, _, module = cls.__module__.rpartition(".")
    return module if package == cls.home else f"{cls.__module__}:{cls.__qualname__}"


def find(family: Any, name: str) -> Any:
    """The member of ``family`` called ``name``: a file of its home, a name from the literature (``presets``), an entry
    point, or ``package.module:Class``.

    Raises InputError for an unknown name (with the nearest ones) or a class that is not a member.
    """
    return preset(family, name)[0]


def preset(family: Any, name: str) -> tuple[Any, dict[str, Any]]:
    """The member ``find`` returns, and the settings that a name from the literature stands for: ``dsa`` is gradient matching
    with augmentation. Raises InputError like ``find``."""
    if not isinstance(family, type) or not hasattr(family, "home"):
        raise InputError(f"expected a family, such as datastill.Method, got {family!r}")
    if not isinstance(name, str):
        raise InputError(f"expected the name of a {noun(family)}, got {name!r}")
    if ":" in name:
        return _outside(family, name), {}
    if (member := inside(family, name)) is not None:
        return member, {}
    if (known := presets(family).get(name.lower())) is not None:
        return known
    for entry in entry_points(group=family.home, name=name):
        with calling(f"{name}: importing {entry.module}", entry.module.partition(".")[0]):
            return _check_member(family, entry.load(), name), {}
    raise InputError(f"unknown {noun(family)} {name!r}{nearest(name, names(family))}")


def presets(family: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Names from the literature: the member each belongs to, and the settings it stands for."""
    return {name: (member, settings) for file in _files(family) if (member := inside(family, file)) is not None
            for name, settings in vars(member).get("presets", {}).items()}


def names(family: Any) -> list[str]:
    """All names ``find`` knows for this family: files of its home, names from the literature, entry points."""
    files = [file for file in _files(family) if inside(family, file) is not None]
    outside = {entry.name for entry in entry_points(group=family.home)}
    return [*files, *sorted({*presets(family), *outside} - set(files))]


def members(family: Any) -> list[str]:
    """Only the names of different classes: files of the family's home, then entry points."""
    named = presets(family)
    return [name for name in names(family) if name not in named]


def inside(family: Any, name: str) -> Any:
    """The member in the file ``name`` of the family's home, or None."""
    if not family.home or not name.isidentifier() or name.startswith("_"):
        return None
    try:
        return _member_of(family, importlib.import_module(f"{family.home}.{name}"))
    except ModuleNotFoundError as error:
        if error.name != f"{family.home}.{name}":
            raise
        return None


def _files(family: Any) -> list[str]:
    home = importlib.import_module(family.home) if family.home else None
    found = () if home is None else pkgutil.iter_modules(home.__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def noun(family: Any) -> str:
    """What a member of the family is called."""
    return NOUNS.get(family.home, family.__name__.lower())


def _member_of(family: Any, module: types.ModuleType) -> Any:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, family) and value.__module__ == module.__name__ \
                and not inspect.isabstract(value):
            return value
    return None


def _check_member(family: Any, value: Any, name: str) -> Any:
    if not isinstance(value, type) or not issubclass(value, family):
        raise InputError(f"{name} is not a {noun(family)}: expected a subclass of datastill.{family.__name__}")
    if inspect.isabstract(value):
        missing = ", ".join(sorted(getattr(value, "__abstractmethods__", ())))
        raise InputError(f"{name} is abstract: it does not define {missing}")
    return value


def _outside(family: Any, name: str) -> Any:
    module_name, _, class_name = name.partition(":")
    if inside(family, module_name) is not None:
        if "=" in class_name:
            raise InputError(f"{name}: expected commas between options, as in {name},option=value")
        raise InputError(f"{name}: option {class_name!r} needs a value, as in {module_name}:{class_name}=..." if class_name
                         else f"{name}: expected name:option=value, or the name alone")
    if not all(part.isidentifier() for part in (*module_name.split("."), *class_name.split("."))):
        raise InputError(f"{name}: expected package.module:Class, or name:option=value")
    try:
        with calling(f"{name}: importing {module_name}", module_name.partition(".")[0], (ModuleNotFoundError,)):
            module = sys.modules.get(module_name) or importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise InputError(f"{name}: importing {module_name} failed: {error}") from error
        raise InputError(f"{name}: no module {module_name!r}; it must be importable "
                         "(the working folder and PYTHONPATH are searched)") from None
    found: Any = module
    for part in class_name.split("."):
        if not hasattr(found, part):
            classes = [k for k, v in vars(found).items() if isinstance(v, type) and v.__module__ == module.__name__]
            raise InputError(f"{name}: {module_name} has no class {class_name!r}{nearest(part, classes)}")
        found = getattr(found, part)
    return _check_member(family, found, name)
