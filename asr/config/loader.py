"""YAML files <-> frozen dataclasses.

Strict on purpose. An unknown key is an error that names the nearest known one. A value of the wrong type is an error
that names the key. Nothing is read from the environment. ``key=value`` overrides address nested keys with dots
(``model.layers=4``); the value is parsed as YAML.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import numbers
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from asr.cloud.addresses import without_secrets
from asr.errors import ConfigError

_T = TypeVar("_T")

LARGEST_YAML = 1_000_000
"""Bytes of a configuration, which has a few thousand."""
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 120
_NUMBERS: dict[type, type] = {int: numbers.Integral, float: numbers.Real}


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice, of which YAML itself would take the last in silence, and aliases, by
    which a few lines become more than memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not supported; write the value again", mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value} occurs twice; remove one of them", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Safe YAML that quotes the line breaks of Unicode, which PyYAML writes bare and reads back as breaks; without
    aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = '"' if set(text) & {"\x85", "\u2028", "\u2029"} else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def read_yaml(kind: type[_T], path: str | Path, overrides: Sequence[str] = ()) -> _T:
    """Read a YAML file into the config dataclass ``kind``; ``overrides`` are ``key.sub=value`` strings applied on top.

    Raises ``ConfigError`` (file and key named) for unreadable YAML, unknown keys, wrong types and bad values.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_YAML + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error}") from error
    if len(text) > LARGEST_YAML:
        raise ConfigError(f"{path}: expected a configuration of at most {LARGEST_YAML:,} bytes, got more")
    try:
        tree = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections at the top, got {type(tree).__name__}")
    try:
        config = from_dict(kind, tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    # The file is read first, alone, so that an error says which of the two it is in.
    for override in overrides:
        _override(tree, override)
    return from_dict(kind, tree) if overrides else config


def parse_yaml(text: str) -> Any:
    """Plain values of YAML that may be anybody's. Raises ``ValueError``."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dumps(config: Any) -> str:
    """YAML text of a config dataclass; ``from_dict(type(config), yaml.safe_load(text))`` gives it back."""
    return dump(to_dict(config))


def dump(tree: Mapping[str, Any]) -> str:
    """YAML text of a mapping of plain values."""
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain dict (tuples become lists) of a config dataclass, to be stored: URLs lose their secrets."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str):  # which may be the URL of a manifest
        return without_secrets(value)
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def from_dict(cls: type[_T], tree: Mapping[str, Any], prefix: str = "") -> _T:
    """Build the dataclass ``cls`` from a mapping, strictly.

    Raises ``ConfigError`` naming the dotted key, what was expected and what came.
    """
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    check_names(tree, [f.name for f in fields], f"key {prefix}")
    for field in fields:
        if field.name not in tree and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"expected a key {prefix}{field.name}, got none")
    return cls(**{key: _coerce(hints[key], value, f"{prefix}{key}") for key, value in tree.items()})


def check_names(given: Iterable[Any], known: Sequence[str], what: str) -> None:
    """Refuse names that are not ``known``; ``what`` they are, such as ``"option "``, stands in front of them. Raises
    ``ConfigError`` with the nearest known name, or all of them."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name)[:100], known, n=1, cutoff=0.5)
            prefix = what.split(" ")[-1]
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known {what.split()[0]}s: {', '.join(known)}"
            raise ConfigError(f"unknown {what}{str(name)[:100]}; {hint}")


def check_types(config: Any) -> None:
    """Hold the fields of a config dataclass that was made in Python to their types, as ``from_dict`` holds a file's:
    for its ``__post_init__``. Raises ``ConfigError`` naming the field, what was expected and what came."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = _coerce(hints[field.name], getattr(config, field.name), field.name)
        object.__setattr__(config, field.name, value)


def as_number(value: Any, key: str) -> float:
    """A number that was given in Python. Raises ``ConfigError`` naming ``key`` for a truth value and what is none."""
    if isinstance(value, str):
        raise ConfigError(f"{key}: expected float, got {_short.repr(value)}")
    found: float = _coerce(float, value, key)
    return found


def _coerce(kind: Any, value: Any, key: str) -> Any:
    """``value`` as type ``kind``: ints pass as floats, lists as tuples, numpy's numbers as Python's; nothing else is
    converted."""
    if dataclasses.is_dataclass(kind):
        if isinstance(value, typing.cast(type, kind)):
            return value
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}: expected a mapping, got {_short.repr(value)}")
        return from_dict(typing.cast(Any, kind), value, prefix=f"{key}.")
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _coerce_union([a for a in args if a is not type(None)], value, key)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{key}: expected a list, got {_short.repr(value)}")
        if args[-1] is Ellipsis:
            args = (args[0],) * len(value)
        if len(args) != len(value):
            raise ConfigError(f"{key}: expected {len(args)} values, got {len(value)}")
        return tuple(_coerce(a, v, f"{key}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}: expected a mapping, got {_short.repr(value)}")
        return {_coerce(args[0], k, key): _coerce(args[1], v, f"{key}.{k}") for k, v in value.items()}
    if kind in (int, float) and not isinstance(value, bool):
        # YAML 1.1 reads 2e-3 (no dot) as a string; a learning rate written so is a number to everyone else.
        if isinstance(value, _NUMBERS[kind]) or (kind is float and isinstance(value, str)):
            with contextlib.suppress(ValueError, OverflowError):
                value = kind(value)
        if isinstance(value, float) and math.isnan(value):
            raise ConfigError(f"{key}: expected {kind.__name__}, got nan")
        if kind is int and isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ConfigError(f"{key}: expected int of 64 bits, got a larger number")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{key}: expected {kind.__name__}, got {_short.repr(value)}")
    return value


def _coerce_union(kinds: Sequence[Any], value: Any, key: str) -> Any:
    """``value`` as the first of ``kinds`` that it fits; a class among several takes its objects alone, no mapping."""
    if len(kinds) == 1:
        return _coerce(kinds[0], value, key)
    for kind in kinds:
        is_class = isinstance(kind, type) and typing.get_origin(kind) is None
        if not is_class or isinstance(value, kind) or (kind is float and isinstance(value, numbers.Real)):
            with contextlib.suppress(ConfigError):
                return _coerce(kind, value, key)
    names = [kind.__name__ if isinstance(kind, type) else "a list" for kind in kinds]
    raise ConfigError(f"{key}: expected {' or '.join(dict.fromkeys(names))}, got {_short.repr(value)}")


def _override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override {override!r}: expected key.sub=value")
    try:
        # Nothing behind the sign, as a shell leaves of ``data.valid=''``, is an empty text and not YAML's null.
        value = parse_yaml(text) if text else ""
    except ValueError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from error
    *sections, last = key.split(".")
    node = tree
    for section in sections:
        child = node.setdefault(section, {})
        if child is None:
            child = node[section] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {section} is not a section")
        node = child
    node[last] = value
