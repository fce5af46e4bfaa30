"""The kernels of the search as a library beside the package: machine code, without numba and without compiling.

``asr.decode.kernel_builder`` writes two files beside this module when a wheel is built. ``kernels.so`` has a function
for each kernel and each kind of arguments, and ``kernels.json`` says what the functions take.

An array is handed over as its address and its shape. So each argument is checked: another type, number of axes or order
in memory than the function was made for would read what is not there.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LIBRARY, DESCRIPTION = "kernels.so", "kernels.json"
SOURCES = (
    "kernel.py",
    "pools.py",
    "phrase_kernel.py",
    "compilation.py",
    "kernel_parts.py",
    "kernel_builder.py",
    "built_kernels.py",
)
"""Modules that decide what is in the library, and how it is called: kernels, how they are compiled, and this one."""
VARIABLE = "ASR_KERNELS"
"""An environment variable: with the value ``numba`` there is no library, neither built nor used."""


@dataclass
class Leaf:
    """An array in an argument: its type and number of axes. Of a number: None and -1."""

    dtype: np.dtype[Any] | None
    axes: int


@dataclass(frozen=True)
class Library:
    """The library and its description: ``kernels``, by name, lists ``symbol``, ``arguments``, ``result``."""

    code: ctypes.CDLL
    kernels: dict[str, list[dict[str, Any]]]


def stamp(folder: Path) -> str:
    """A checksum of ``SOURCES``. Raises ``OSError`` where they cannot be read."""
    return hashlib.sha256(b"\0".join((folder / name).read_bytes() for name in SOURCES)).hexdigest()


@functools.cache
def find_library(folder: Path = Path(__file__).parent) -> Library | None:
    """The library, unless there is none or it was made of other sources: then numba compiles those that are here."""
    if os.environ.get(VARIABLE) == "numba":
        return None
    try:
        description = json.loads((folder / DESCRIPTION).read_bytes())
        if description["sources"] != stamp(folder):
            return None
        return Library(ctypes.CDLL(str(folder / LIBRARY)), description["kernels"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def why_no_library(folder: Path = Path(__file__).parent) -> str:
    """Why ``find_library`` finds none, for messages."""
    if os.environ.get(VARIABLE) == "numba":
        return f"{VARIABLE}=numba asks for it"
    try:
        description = json.loads((folder / DESCRIPTION).read_bytes())
        if description["sources"] != stamp(folder):
            return f"{folder / LIBRARY} was made of other sources; pip install the package again to renew it"
        ctypes.CDLL(str(folder / LIBRARY))
    except FileNotFoundError:
        return "this package holds no machine code of it; a wheel that is built where there is a C compiler does"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder / LIBRARY} cannot be loaded: {error}"
    return "its machine code is there"


class Addresses:
    """Where the arrays of a named tuple lie. A copy of the tuple has other arrays: copies of this are empty."""

    __slots__ = ("at", "numbers")

    def __init__(self, numbers: array[int] | None = None) -> None:
        self.numbers = numbers
        self.at = 0 if numbers is None else numbers.buffer_info()[0]

    def __reduce__(self) -> tuple[type[Addresses], tuple[()]]:
        return Addresses, ()


def built_kernel(library: Library, name: str) -> Callable[..., Any]:
    """A kernel of the library as a function of numbers, arrays and tuples of arrays, as it is called with numba."""
    forms = {}
    for entry in library.kernels[name]:
        arguments = [_kind(argument) for argument in entry["arguments"]]
        function = getattr(library.code, entry["symbol"])
        function.argtypes = [ctypes.c_double if kind == "f" else ctypes.c_int64 for kind, _ in arguments]
        function.argtypes += [ctypes.c_void_p] * (entry["result"] == "pair")
        function.restype = ctypes.c_int64
        forms[tuple(kind == "none" for kind, _ in arguments)] = function, arguments, entry["result"]

    def call(*values: Any) -> Any:
        function, arguments, result = forms[tuple(value is None for value in values)]
        kept: list[Any] = []  # what must live until the kernel has returned
        passed = [
            _passed(name, value, kind, leaves, kept) for value, (kind, leaves) in zip(values, arguments, strict=True)
        ]
        if result == "pair":
            first = ctypes.c_double()
            place = array("q", [ctypes.addressof(first), 1])
            second = function(*passed, place.buffer_info()[0])
            return first.value, second
        found = function(*passed)
        return bool(found) if result == "bool" else found if result == "int" else None

    call.__name__ = name
    return call


def _kind(argument: dict[str, Any]) -> tuple[str, list[Leaf]]:
    """An argument as ``kernels.json`` describes it: its kind, and the leaves of a tuple."""
    leaves = []
    for text, axes in argument.get("leaves", ()):
        fields = [tuple(field) for field in text] if isinstance(text, list) else text
        leaves.append(Leaf(np.dtype(fields) if axes >= 0 else None, axes))
    return argument["kind"], leaves


def _passed(name: str, value: Any, kind: str, leaves: list[Leaf], kept: list[Any]) -> int | float:
    """A value as the library takes it: a number, or the address of addresses and shapes."""
    if kind == "f":
        return float(value)
    if kind in ("i", "none"):
        return 0 if value is None else int(value)
    attributes = getattr(value, "__dict__", None)
    if attributes is not None:
        known = attributes.get("addresses")
        if known is not None and known.at:
            kept.append(known)  # another thread may replace it meanwhile
            found: int = known.at
            return found
    numbers = array("q")
    if kind == "array":
        _add_array(name, value, leaves[0], numbers)
    else:
        _add_tuple(name, value, leaves, 0, numbers)
    kept.append(numbers)
    if attributes is not None:
        attributes["addresses"] = Addresses(numbers)
    return numbers.buffer_info()[0]


def _add_tuple(name: str, values: tuple[Any, ...], leaves: list[Leaf], at: int, numbers: array[int]) -> int:
    """Add the numbers of what is in a tuple, whose first leaf is ``leaves[at]``; return the place behind its last."""
    for value in values:
        if isinstance(value, tuple):
            at = _add_tuple(name, value, leaves, at, numbers)
            continue
        if leaves[at].axes < 0:
            numbers.append(int(value))
        else:
            _add_array(name, value, leaves[at], numbers)
        at += 1
    return at


def _add_array(name: str, value: Any, leaf: Leaf, numbers: array[int]) -> None:
    """Add the address and the shape of an array. Raises ``TypeError`` for one that the kernel was not made for."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"kernel {name}: expected an array, got {type(value).__name__}")
    if value.dtype is not leaf.dtype:  # comparing types of records takes longer than all the rest
        if value.dtype != leaf.dtype:
            raise TypeError(f"kernel {name}: expected an array of {leaf.dtype}, got {value.dtype}")
        leaf.dtype = value.dtype
    if value.ndim != leaf.axes:
        raise TypeError(f"kernel {name}: expected an array with {leaf.axes} axes, got {value.ndim}")
    if not value.flags.carray:
        raise TypeError(f"kernel {name}: expected a contiguous array that can be written")
    # `value.ctypes.data` takes eight times as long; of an empty array nothing is read.
    memory: Any = value
    numbers.append(ctypes.addressof(ctypes.c_char.from_buffer(memory)) if value.size else 0)
    numbers.extend(value.shape)
