"""Frozen dataclasses from plain values and `--set`, strictly, and back."""

from __future__ import annotations

import copy
import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, cast

from rlseg.errors import ConfigError
from rlseg.files import load_json, load_toml, parse_value

__all__ = ["apply_overrides", "build", "dump", "load_json", "load_toml", "merge", "nearest"]

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean a or b?"` for the names most like `name`, or an empty string."""
    near = get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


# Building and dumping


def build(cls: type[T], values: Mapping[str, object], where: str) -> T:
    """An instance of a frozen dataclass from plain values, checked field by field.

    Understood are bool, int, float, str, Path, None, Literal, unions, `tuple[X, ...]`,
    `tuple[X, Y]`, `Mapping[str, X]`, nested dataclasses, and `object` or `Any` for values taken as
    they are. A whole number is accepted for a float; a bool is no number; numbers are finite. The
    word `"none"` stands for None (TOML has no such value) where the field takes no other string.

    Args:
        cls: a dataclass; what is absent in `values` keeps its default.
        values: field name -> value, nested.
        where: what the values are, for messages: a file, `"--set"`, `"data set cells"`.

    Raises:
        ConfigError: unknown key (the nearest valid one is named), wrong type, missing field, or a
            rule of the dataclass itself; the message holds the path of the key.
    """
    return cast(T, _build_dataclass(cls, values, where, ""))


def dump(config: object) -> dict[str, Any]:
    """Plain values of a dataclass, fit for JSON; `build` makes an equal one from them.

    Raises:
        ConfigError: a value that JSON cannot hold.
    """
    plain = _dump(config, "")
    if not isinstance(plain, dict):
        raise ConfigError(f"expected a config object to write, got {type(config).__name__}")
    return plain


def _dump(value: object, path: str) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _dump(getattr(value, f.name), _join(path, f.name))
            for f in dataclasses.fields(value)
            if f.init
        }
    if isinstance(value, Mapping):
        return {str(key): _dump(item, _join(path, str(key))) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_dump(item, _join(path, str(i))) for i, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path} is {value}; config files hold finite numbers only")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(f"{path} is a {type(value).__name__}; config files cannot hold it")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _fail(where: str, path: str, message: str) -> NoReturn:
    place = ": ".join(part for part in (where, path) if part)
    raise ConfigError(f"{place}: {message}" if place else message)


def _build_dataclass(cls: type[Any], values: object, where: str, path: str) -> object:
    if not isinstance(values, Mapping):
        _fail(where, path, f"expected a table of settings, got {_shown(values)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in values:
        if key not in fields:
            known = f" Known: {', '.join(fields)}" if fields else " There are none here"
            hint = nearest(str(key), fields) or "."
            _fail(where, _join(path, str(key)), f"unknown setting{hint}{known}")
    chosen: dict[str, Any] = {}
    for name, item in fields.items():
        if name in values:
            chosen[name] = _convert(hints[name], values[name], where, _join(path, name))
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            _fail(where, _join(path, name), f"missing; expected {_expected(hints[name])}")
    try:
        return cls(**chosen)
    except ConfigError as error:
        _fail(where, path, str(error))


def _convert(hint: Any, value: object, where: str, path: str) -> object:
    origin = typing.get_origin(hint)
    if hint is Any or hint is object:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, where, path)
    if dataclasses.is_dataclass(hint):
        return _build_dataclass(cast("type[Any]", hint), value, where, path)
    if origin is tuple and isinstance(value, (list, tuple)):
        return _convert_tuple(hint, value, where, path)
    if origin is not None and issubclass_safe(origin, Mapping) and isinstance(value, Mapping):
        item_hint = typing.get_args(hint)[1]
        return {
            str(key): _convert(item_hint, item, where, _join(path, str(key)))
            for key, item in value.items()
        }
    matched, result = _scalar(hint, value)
    if not matched:
        _fail(where, path, f"expected {_expected(hint)}, got {_shown(value)}")
    return result


def issubclass_safe(kind: object, parent: type) -> bool:
    """Whether `kind` is a class below `parent`; False for what is no class at all."""
    return isinstance(kind, type) and issubclass(kind, parent)


def _scalar(hint: Any, value: object) -> tuple[bool, object]:
    if typing.get_origin(hint) is Literal:
        for option in typing.get_args(hint):
            if type(option) is type(value) and option == value:
                return True, option
        return False, None
    if hint is None or hint is type(None):
        return value is None, None
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            return False, None
        return math.isfinite(number), number
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if hint is bool:
        return isinstance(value, bool), value
    if hint is str:
        return isinstance(value, str), value
    if hint is Path:
        return isinstance(value, (str, Path)), Path(str(value))
    return False, None


def _convert_union(hint: Any, value: object, where: str, path: str) -> object:
    options = typing.get_args(hint)
    for option in options:
        matched, result = _scalar(option, value)
        # 2 for `float | int` stays whole, as the value was written.
        if matched and not (option is float and isinstance(value, int) and int in options):
            return result
    if value == "none" and type(None) in options:
        return None
    for option in options:
        table = isinstance(value, Mapping) and (
            dataclasses.is_dataclass(option) or issubclass_safe(typing.get_origin(option), Mapping)
        )
        row = isinstance(value, (list, tuple)) and typing.get_origin(option) is tuple
        if table or row:
            return _convert(option, value, where, path)
    _fail(where, path, f"expected {_expected(hint)}, got {_shown(value)}")


def _convert_tuple(hint: Any, value: Sequence[object], where: str, path: str) -> tuple[object, ...]:
    hints = typing.get_args(hint)
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        _fail(where, path, f"expected a list of {len(hints)} values, got {_shown(value)}")
    pairs = zip(hints, value, strict=True)
    return tuple(_convert(h, v, where, _join(path, str(i))) for i, (h, v) in enumerate(pairs))


def _expected(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(repr(option) for option in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(option) for option in arguments)
    if origin is tuple:
        return f"a list ({_expected(arguments[0])} each)"
    if dataclasses.is_dataclass(hint) or issubclass_safe(origin, Mapping):
        return "a table of settings"
    words = {
        int: "a whole number", float: "a finite number", bool: "true or false",
        str: "a text in quotes", Path: "a path in quotes", type(None): "'none'",
    }  # fmt: skip
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


# Overrides


def merge(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """One nested table: later tables win key by key, lists are replaced as a whole.

    A key with dots is a path: `{"rewards.split": "ins"}` is `{"rewards": {"split": "ins"}}`.
    """
    result: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            *parents, last = key.split(".")
            target = result
            for parent in parents:
                if not isinstance(target.get(parent), dict):
                    target[parent] = {}
                target = target[parent]
            old = target.get(last)
            if isinstance(value, Mapping):
                target[last] = merge(old if isinstance(old, dict) else {}, value)
            else:
                target[last] = copy.deepcopy(value)
    return result


def apply_overrides(values: Mapping[str, Any], pairs: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with `key.path=value` settings put in, the last one winning.

    Args:
        values: nested plain values.
        pairs: texts such as `"rewards.radii=[5, 8]"`, `"bits=auto"`, `"phases.0.steps=10"`: values
            are TOML, bare words are texts, whole numbers in a path count list entries from 0.

    Raises:
        ConfigError: no `=`, an empty key, or a path through something that is no table.
    """
    result = copy.deepcopy(dict(values))
    for pair in pairs:
        key, equals, text = pair.partition("=")
        names = key.strip().split(".")
        if not equals or not all(names):
            raise ConfigError(f"--set {pair!r}: expected key.path=value, for example bits=6")
        target: Any = result
        for position, name in enumerate(names[:-1]):
            target = _step_into(target, name, pair, ".".join(names[: position + 1]))
        last: Any = names[-1]
        if isinstance(target, list):
            last = _index(target, last, pair)
        target[last] = parse_value(text.strip())
    return result


def _step_into(target: Any, name: str, pair: str, path: str) -> Any:
    inner = target[_index(target, name, pair)] if isinstance(target, list) else None
    if isinstance(target, dict):
        inner = target.setdefault(name, {})
    if not isinstance(inner, (dict, list)):
        raise ConfigError(f"--set {pair!r}: {path} is {inner!r}, which has no settings inside")
    return inner


def _index(target: list[Any], name: str, pair: str) -> int:
    if not name.isdecimal() or int(name) >= len(target):
        raise ConfigError(
            f"--set {pair!r}: {name!r} is no entry of a list of {len(target)} "
            "(entries count from 0); set the whole list, key=[...]"
        )
    return int(name)
