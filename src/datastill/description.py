"""Descriptions: frozen models whose fields are hyperparameters, written the same way in Python and in TOML."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from annotated_types import Le, Lt
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from datastill.errors import InputError
from datastill.foreign import guard, is_foreign, name_of, reading
from datastill.registry import find, inside, kind, members, preset
from datastill.tables import NONE, PLAIN, is_plain, is_unicode, near, nearest, parse_spec, shown, today

LARGEST = 10**9  # whole number, in a field that sets no limit of its own
NOT_DECISIVE = "not decisive"  # metadata of a field that does not affect the result (such as a path): left out of the digest

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass as _Metaclass
else:
    _Metaclass = type(BaseModel)  # which has no public name

D = TypeVar("D", bound="Description")


class _Over(NamedTuple):
    """Settings, and the description they override."""

    base: Description
    given: Any


class _OneLine(_Metaclass):
    """Makes a description built in Python fail like one read from a file: with a one-line InputError."""

    def __call__(cls, *arguments: Any, **settings: Any) -> Any:
        if arguments:
            raise InputError(_by_name(cls.__name__, list(vars(cls)["__pydantic_fields__"]), arguments))
        if not inspect.isabstract(cls):
            try:
                return _complete(super().__call__(*arguments, **settings))
            except ValidationError as error:
                raise InputError(explain(error)) from None
        return super().__call__(*arguments, **settings)


class Description(BaseModel, metaclass=_OneLine):
    """A frozen set of hyperparameters; unknown keys are rejected. ``version`` is increased when the meaning changes.

    Where a description is expected, a table with some of its settings is accepted too; they override the default of that
    field. ``bare`` names the field that a plain string sets.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True,
                              coerce_numbers_to_str=True)
    version: ClassVar[int] = 1
    bare: ClassVar[str] = ""

    def __hash__(self) -> int:
        return hash((type(self), *(tuple(sorted(value.items())) if isinstance(value, dict) else value
                                   for _, value in self)))

    @model_validator(mode="wrap")
    @classmethod
    def _read_description(cls, value: Any, handler: Any) -> Any:
        base, given = value if isinstance(value, _Over) else (None, value)
        member = isinstance(given, type) and issubclass(given, cls) and not inspect.isabstract(given)
        if member or isinstance(given, Preset):
            given = given()  # named without its brackets
        if isinstance(given, cls):
            return given
        try:
            settings = cls._as_table(given)
            chosen, base, settings = cls._choose_class(settings, base)
        except InputError as error:
            raise ValueError(str(error)) from None
        laid = chosen._lay_over(base if type(base) is chosen else None, settings)
        if chosen is not cls:
            with reading(chosen):
                return chosen.model_validate(laid)
        with reading(cls):
            made = _complete(handler(laid))
            if is_foreign(cls):
                _see_inherited(made)
                _see_plain(made)
            return made

    @classmethod
    def _as_table(cls, given: Any) -> dict[str, Any]:
        if isinstance(given, str) and cls.bare:
            return {cls.bare: given}
        if not isinstance(given, Mapping):
            raise InputError(f"expected a table, got {shown(given)}{cls._accepted()}")
        return dict(given)

    @classmethod
    def _accepted(cls) -> str:
        """What can be given besides a table, for a message."""
        return f"; in Python a dict or {cls.__name__}"

    @classmethod
    def _choose_class(cls, settings: dict[str, Any], base: Any) -> tuple[type[Description], Any, dict[str, Any]]:
        """The class to create, the description that the settings override, the settings."""
        return cls, base, settings

    @classmethod
    def _lay_over(cls, base: Description | None, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings that differ from the class's defaults; those inside a field are laid over what they override."""
        laid = {} if base is None else {key: getattr(base, key) for key in cls.model_fields}
        for key, value in settings.items():
            if key not in cls.model_fields:
                raise PydanticCustomError("unknown_key", "{hint}", {"key": key, "hint": cls._meant(key, value)})
            usual = laid[key] if key in laid else cls._usual(key)
            over = isinstance(usual, Description) and isinstance(value, (str, Mapping))
            laid[key] = _Over(usual, value) if over else value
        return laid

    def is_path(self, key: str) -> bool:
        """Whether the value of a field is a path, which is no part of a digest, where other values of it may be a name. What
        is in the file has to be in ``identity``."""
        return False

    @classmethod
    def _usual(cls, key: str) -> Any:
        """The default of a field."""
        return cls.model_fields[key].get_default(call_default_factory=True)

    @classmethod
    def _meant(cls, key: str, value: Any) -> str:
        """The end of a message about an unknown key: which one was meant, who else has it, or the known ones."""
        return cls._meant_here(key, value) or cls._elsewhere(key) or nearest(key, cls.model_fields)

    @classmethod
    def _meant_here(cls, key: str, value: Any) -> str:
        """A key of this class that was meant, or nothing. An old name counts if the value fits the new."""
        now = today(cls.__name__.lower(), key)
        if now in cls.model_fields and (isinstance(value, (str, Mapping)) or not isinstance(cls._usual(now), Description)):
            return f"; it is now called {now!r}"
        inside = " or ".join(map(repr, cls._keys_inside(key)))
        return f"; did you mean {inside}?" if inside else near(key, cls.model_fields)

    @classmethod
    def _elsewhere(cls, key: str) -> str:
        """What other class has a setting of this name, or nothing."""
        return ""

    @classmethod
    def _keys_inside(cls, key: str) -> list[str]:
        """Where a setting of this name is, inside the fields."""
        kinds = {name: (type(cls._usual(name)), field.annotation) for name, field in cls.model_fields.items()}
        return [f"{name}.{key}" for name, either in kinds.items() if any(
            isinstance(kind, type) and issubclass(kind, Description) and key in kind.model_fields for kind in either)][:3]

    @field_validator("*", mode="wrap")
    @classmethod
    def _read_field(cls, value: Any, handler: Any, info: ValidationInfo) -> Any:
        """The value as given, or else what it may be short for: None for "none", a list for values with commas between, or
        for a single value."""
        value = str(value) if isinstance(value, os.PathLike) else value
        if isinstance(value, str) and not is_unicode(value):
            raise ValueError(f"expected valid Unicode, got {value!r}")
        ways = [None, value] if isinstance(value, str) and value == NONE else [value]
        if isinstance(value, str) and "," in value:
            ways.append(tuple(part.strip() for part in value.split(",")))
        if isinstance(value, (str, int, float, Mapping, Description, Preset, type)):
            ways.append((value,))
        failures = []
        for way in ways:
            try:
                found = handler(way)
            except ValidationError as error:
                if error.errors()[0]["type"].startswith(("less_than", "greater_than")):  # of true, taken as 1
                    _refuse_true_as_number(way, 1)
                failures.append((_depth(error), way is value, error))
                continue
            _refuse_true_as_number(value, found)
            if not any(isinstance(one, (Le, Lt)) for one in cls.model_fields[info.field_name or ""].metadata):
                _refuse_huge(found)
            return found
        raise max(failures, key=lambda failure: failure[:2])[2]


class Family(Description):
    """A description whose class is chosen by name (``kind``). ``home`` is the package its members are found in; ``bare`` the
    field whose value may follow the name without a key: ``torchvision:resnet50``. ``presets``: names from the literature
    for a member with certain settings."""

    home: ClassVar[str] = ""
    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        if is_foreign(cls):
            _see_names_free(cls)
            guard(cls)

    @classmethod
    def _as_table(cls, given: Any) -> dict[str, Any]:
        return parse_spec(given) if isinstance(given, str) else super()._as_table(given)

    @classmethod
    def _accepted(cls) -> str:
        example = f"; a name such as {next(iter(members(cls)))!r}" if cls.home else ""
        return example + super()._accepted()

    @classmethod
    def _elsewhere(cls, key: str) -> str:
        family = next((one for one in cls.__mro__ if vars(one).get("home")), None)
        if family is None or cls is family:
            return ""
        others = [name for name in members(family) if key in find(family, name).model_fields]
        if not others:
            return ""
        have = f"{', '.join(others[:3])} {'has' if len(others) == 1 else 'have'}"
        return f"; {have} it, {kind(cls)} does not (settings stay when only the kind is changed: give {kind(cls)} instead " \
               f"of kind={kind(cls)} to leave them out)"

    @classmethod
    def _choose_class(cls, settings: dict[str, Any], base: Any) -> tuple[type[Description], Any, dict[str, Any]]:
        settings = dict(settings)
        name = settings.pop("kind", None)
        if name is None:
            if isinstance(base, cls):
                return type(base), base, settings
            if inspect.isabstract(cls):
                raise InputError(f"'kind' is missing; known: {', '.join(members(cls))}")
            return cls, base, settings
        if not isinstance(name, str):
            raise PydanticCustomError("wrong_kind", "expected a name, got {got}", {"got": repr(name)})
        head, _, bare = name.partition(":")
        if bare and (member := inside(cls, head)) is not None and member.bare:
            settings.setdefault(member.bare, bare)
            return member, base, settings
        chosen, usual = preset(cls, name)
        return chosen, chosen.model_validate(usual) if usual else base, settings


def _see_inherited(made: Description) -> None:
    """Raises ValueError for a field of ours that a foreign class declares with another type, if its value is not what we
    expect."""
    ours: type[Description] = next(base for base in type(made).__mro__ if not is_foreign(base))
    for name, field in ours.model_fields.items():
        if type(made).model_fields[name].annotation != field.annotation:
            value, wanted = getattr(made, name), Any if field.annotation is None else field.annotation
            try:
                fits = TypeAdapter[Any](wanted).validate_python(value) == value
            except ValidationError:
                fits = False
            if not fits:
                raise ValueError(f"{name}: {name_of(type(made))} declares it as another type than {ours.__name__}, and its "
                                 f"value {value!r} does not fit there")


def _see_plain(made: Description) -> None:
    """Raises ValueError for a value that run.toml and a card cannot hold."""
    for name, value in made:
        if not is_plain(value, Description):
            raise ValueError(f"{name}: {name_of(type(made))} has {shown(value)}, which run.toml and a card cannot hold; "
                             f"expected {PLAIN}")


def _complete(made: D) -> D:
    """The description, if its class did not bypass ours when it was created. Raises InputError."""
    if not hasattr(made, "__pydantic_fields_set__"):
        raise InputError(f"{name_of(type(made))}.__init__ does not call super().__init__(**settings), so that it has no "
                         "settings; call it, or leave __init__ out")
    return made


def _see_names_free(cls: type[Family]) -> None:
    """Raises InputError for a field that hides a method or a constant of the families."""
    taken = {name for base in cls.__mro__ if not is_foreign(base) for name in vars(base)
             if name not in getattr(base, "model_fields", {})}
    if clashing := sorted((taken | {"kind"}) & set(cls.model_fields)):
        raise InputError(f"{name_of(cls)}: the field {clashing[0]!r} has the name of a method or a constant of datastill; "
                         "choose another, or define it as datastill does")


def _depth(error: ValidationError) -> int:
    """How deep parsing got before it failed; the alternative that got furthest is the one that was meant."""
    return max(len(one["loc"]) for one in error.errors(include_url=False))


class Preset:
    """A member of a family with the settings of a paper. Call it with the settings to change."""

    def __init__(self, family: type[Family], name: str) -> None:
        self.family, self.name = family, name
        member, settings = preset(family, name)
        with_ = f" With the settings {settings}." if settings else ""
        self.__doc__ = f"``{name}``.{with_} {inspect.getdoc(member)}"

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        if arguments:
            raise InputError(_by_name(self.name, list(preset(self.family, self.name)[0].model_fields), arguments))
        if "kind" in settings:
            raise InputError(f"{self.name}: its kind is {preset(self.family, self.name)[0].__name__}, got kind="
                             f"{settings['kind']!r}; leave kind out")
        return load(self.family, {"kind": self.name, **settings})

    def __repr__(self) -> str:
        return f"datastill preset {self.name}"


def _by_name(what: str, fields: list[str], arguments: tuple[Any, ...]) -> str:
    example = f", as in {fields[0]}={shown(arguments[0])}" if fields else ""
    return f"{what}: settings are given by name{example}; got {shown(arguments[0])} without one"


def _refuse_true_as_number(value: Any, found: Any) -> None:
    if isinstance(value, (list, tuple)) and isinstance(found, (list, tuple)):
        for one, other in zip(value, found, strict=False):
            _refuse_true_as_number(one, other)
    elif isinstance(value, bool) and isinstance(found, (int, float)) and not isinstance(found, bool):
        raise ValueError(f"expected a number, got {str(value).lower()}")


def _refuse_huge(found: Any) -> None:
    for one in found if isinstance(found, tuple) else (found,):
        if isinstance(one, int) and abs(one) > LARGEST:
            raise ValueError(f"expected at most {LARGEST}, got {shown(one)}")


def load(cls: type[D], given: Any, path: str = "", base: Any = None) -> D:
    """A description from a table (or, for a family, from a name with options), validated; a description stays as it is.

    Settings that are not given are taken from ``base`` if it is of the same class.

    Raises InputError: one line with the path of the wrong key, what was given and what is allowed.
    """
    if isinstance(given, cls):
        return given
    try:
        return cls.model_validate(given if base is None else _Over(base, given))
    except ValidationError as error:
        raise InputError(explain(error, path)) from None


def load_each(cls: type[D], given: Any, path: str) -> list[D]:
    """Descriptions from a list, or one from what stands alone. Raises InputError like ``load``."""
    return [load(cls, one, path) for one in (given if isinstance(given, (list, tuple)) else [given])]


def explain(error: ValidationError, path: str = "") -> str:
    """A pydantic error as one line: where, what was expected, what was given."""
    problems: list[Any] = list(error.errors(include_url=False))
    first = problems[0]
    alternatives = [one for one in problems if one["loc"][:-1] == first["loc"][:-1] and one["input"] is first["input"]
                    and one["type"] != "missing"]
    if len(first["loc"]) > 1 and len(alternatives) > 1:  # a field that accepts several types
        first = {**first, "loc": first["loc"][:-1], "msg": " or ".join(dict.fromkeys(
            one["msg"][:1].lower() + one["msg"][1:] for one in alternatives))}
        problems = [one for one in problems if one not in alternatives[1:]]
    where = _place(path, first["loc"])
    if first["type"] == "unknown_key":
        text = f"unknown key {_place(where, [first['ctx']['key']])!r}{first['msg']}"
    elif first["type"] == "missing":
        text = f"{where} is missing"
    elif first["type"] == "wrong_kind":
        text = f"{_place(where, ['kind'])}: {first['msg']}"
    elif first["type"] == "int_parsing_size":
        text = f"{where}: the number is too large, got {shown(_given(first['input']))}"
    elif first["type"] == "value_error":
        text = f"{where}: {first['ctx']['error']}" if where else str(first["ctx"]["error"])
    else:
        says = first["msg"].replace(" after validation", "")
        says = re.sub(r"\d{20,}", lambda digits: f"{float(digits[0]):g}", says)  # 1e+30 is a limit of learning rates
        text = f"{where}: {says[:1].lower()}{says[1:]}, got {shown(_given(first['input']))}"
    return " ".join(text.split()) + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _place(path: str, loc: Any) -> str:
    for key in loc:
        if isinstance(key, str) and key.endswith("]"):  # pydantic's name of an alternative, as in "tuple[int, ...]"
            continue
        path += f"[{key}]" if isinstance(key, int) and path else f".{key}" if path else str(key)
    return path


def _given(value: Any) -> Any:
    return value.given if isinstance(value, _Over) else value
