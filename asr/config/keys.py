"""All keys of a configuration with their comments, types, ranges and defaults: for people, and as a JSON schema for
editors."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import math
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from asr.config import loader
from asr.config.ranges import AutoOr, OneOf, Range, field_types, split_annotation

WIDTH = 100
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


@dataclass(frozen=True)
class _Key:
    """One key of a section."""

    name: str
    kind: Any
    """Its type, with what is declared beside it."""
    default: Any
    """Plain values, as JSON and YAML have them."""
    comment: str


def describe_keys(config: Any) -> str:
    """A text with every key of a config dataclass of sections: type, range, default and comment."""
    lines = []
    for section in dataclasses.fields(config):
        cls = typing.get_type_hints(config)[section.name]
        lines += [*textwrap.wrap(f"{section.name}: {_plain(cls.__doc__)}", WIDTH, subsequent_indent="    "), ""]
        lines += [*_key_lines(cls, section.name), ""]
    return "\n".join(lines[:-1])


def _key_lines(cls: Any, prefix: str) -> Iterator[str]:
    """The keys of a section, those of the sections in it behind their key with ``NAME`` for any name."""
    for key in _keys(cls):
        name = f"{prefix}.{key.name}"
        yield f"  {name}: {_describe(key.kind)}; default {json.dumps(key.default, ensure_ascii=False)}"
        yield from textwrap.wrap(key.comment, WIDTH, initial_indent="      ", subsequent_indent="      ")
        if (inner := _inner_section(key.kind)) is not None:
            yield from _key_lines(inner, f"{name}.NAME")


def _inner_section(kind: Any) -> Any:
    """The config dataclass that a mapping's values are; None for other types."""
    args = typing.get_args(split_annotation(kind)[0])
    return args[1] if len(args) == 2 and dataclasses.is_dataclass(args[1]) else None


def json_schema(config: Any, title: str) -> dict[str, Any]:
    """A JSON schema (draft 2020-12) of the files that ``asr.config.loader.read_yaml`` reads into a config dataclass of
    sections: types, ranges, comments, defaults. Conditions between keys are not in it."""
    hints = typing.get_type_hints(config)
    sections = {section.name: _section_schema(hints[section.name]) for section in dataclasses.fields(config)}
    schema = _mapping(config, sections)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def _section_schema(cls: Any) -> dict[str, Any]:
    keys = {key.name: {**_key_schema(key.kind), "default": key.default} for key in _keys(cls)}
    for key in _keys(cls):
        if key.comment:
            keys[key.name]["description"] = key.comment
    return _mapping(cls, keys)


def _mapping(cls: Any, properties: dict[str, Any]) -> dict[str, Any]:
    """A mapping with these keys and no others; one with nothing behind its colon is empty."""
    kind = ["object", "null"]
    return {"description": _plain(cls.__doc__), "type": kind, "properties": properties, "additionalProperties": False}


def _key_schema(kind: Any) -> dict[str, Any]:
    bare, declared = split_annotation(kind)
    args = typing.get_args(bare)
    schema: dict[str, Any]
    if typing.get_origin(bare) is tuple:
        if args[-1] is Ellipsis:
            schema = {"type": "array", "items": _key_schema(args[0])}
        else:
            parts = [_key_schema(part) for part in args]
            schema = {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}
    elif typing.get_origin(bare) is dict:
        inner = _inner_section(bare)
        values = _key_schema(args[1]) if inner is None else _section_schema(inner)
        schema = {"type": "object", "additionalProperties": values}
    else:
        auto = next((allowed for allowed in declared if isinstance(allowed, AutoOr)), None)
        if auto is not None:
            number = {"type": _TYPES[args[0]], **dict(_limits(auto.range))}
            return {"type": [_TYPES[args[0]], "string"], "anyOf": [{"const": "auto"}, number]}
        schema = {"type": _TYPES[bare]}
    for allowed in declared:
        if isinstance(allowed, OneOf):
            schema |= {"enum": list(allowed.values)}
        elif isinstance(allowed, Range):
            schema |= dict(_limits(allowed))
    return schema


def _limits(allowed: Range) -> Iterator[tuple[str, float]]:
    if math.isfinite(allowed.low):
        yield ("exclusiveMinimum" if allowed.above else "minimum"), allowed.low
    if math.isfinite(allowed.high):
        yield ("exclusiveMaximum" if allowed.below else "maximum"), allowed.high


def _describe(kind: Any) -> str:
    bare, declared = split_annotation(kind)
    args = typing.get_args(bare)
    if typing.get_origin(bare) is tuple:
        parts = [f"({_describe(part)})" for part in args if part is not Ellipsis]
        name = f"list of {parts[0]}" if args[-1] is Ellipsis else f"[{', '.join(parts)}]"
    elif typing.get_origin(bare) is dict:
        values = "sections with the keys below" if _inner_section(bare) else _describe(args[1])
        name = f"mapping of {_describe(args[0])} to {values}"
    else:
        name = " or ".join(kind.__name__ for kind in args) if args else bare.__name__
    return ", ".join([name, *(f"{'one of ' if isinstance(allowed, OneOf) else ''}{allowed}" for allowed in declared)])


def _keys(cls: Any) -> list[_Key]:
    comments = _comments(cls)
    hints, defaults = field_types(cls), loader.to_dict(cls())
    return [_Key(f.name, hints[f.name], defaults[f.name], comments.get(f.name, "")) for f in dataclasses.fields(cls)]


def _comments(cls: Any) -> dict[str, str]:
    """The string below each field of a class, by the field's name; none where the source is not there."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except OSError:
        return {}
    found = {}
    for field, comment in itertools.pairwise(typing.cast(ast.ClassDef, tree.body[0]).body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(comment, ast.Expr):
            found[field.target.id] = _plain(ast.literal_eval(comment.value))
    return found


def _plain(text: str | None) -> str:
    """A comment on one line, with the marks of Markdown."""
    return " ".join((text or "").split()).replace("``", "`")
