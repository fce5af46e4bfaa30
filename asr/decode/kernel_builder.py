"""Compiles the kernels of the search into a library, as a step of building the wheel (``setup.py``).

    python -m asr.decode.kernel_builder FOLDER    # writes kernels.so and kernels.json
    python -m asr.decode.kernel_builder --check   # status 0 where this machine can, 3 where it cannot

numba compiles each kernel for the kinds of arguments that the search has, for any processor of this machine's family.
The C compiler links the result: it compiles no C. ``asr.decode.built_kernels`` loads it. Needs numba.
"""

# numba has no types for what is used here.
# mypy: allow-untyped-calls, no-warn-return-any

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from asr.decode import built_kernels

LINK = ("cc", "-shared", "-nostartfiles", "-Wl,-z,noexecstack", "-Wl,-z,defs")
"""The command that makes a library of an object file."""
MATHEMATICS = ("-lm", "-lc")
PROCESSOR = "generic"
"""As LLVM calls the least processor of each family."""
_Example: TypeAlias = tuple[Callable[..., Any], str, tuple[Any, ...]]


def can_build() -> bool:
    """Whether this machine can build the library: numba is there, and a C compiler that links."""
    if sys.platform != "linux" or os.environ.get(built_kernels.VARIABLE) == "numba":
        return False
    if importlib.util.find_spec("numba") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "empty.c"
        source.write_text("double exp(double); double asr_try(double x) { return exp(x); }\n", encoding="ascii")
        try:
            command = [*LINK, "-fPIC", str(source), "-o", str(Path(folder) / "empty.so"), *MATHEMATICS]
            return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False


def build_library(folder: Path) -> None:
    """Write the library and its description into a folder. Raises ``subprocess.CalledProcessError``."""
    from asr.decode import kernel, phrase_kernel, pools

    forms: dict[str, list[dict[str, Any]]] = {}
    objects = []
    for function, result, examples in _examples(kernel, pools, phrase_kernel):
        name = function.__name__
        known = forms.setdefault(name, [])
        symbol = f"asr_{name}_{len(known)}"
        objects.append((symbol, _entry(function, symbol, examples, result)))
        known.append({"symbol": symbol, "arguments": [_described(value) for value in examples], "result": result})
    folder.mkdir(parents=True, exist_ok=True)
    # First, so that a build that is broken off leaves no description of another library.
    (folder / built_kernels.DESCRIPTION).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for symbol, assembly in objects:
            files.append(str(Path(scratch) / f"{symbol}.o"))
            Path(files[-1]).write_bytes(_machine_code(assembly, symbol))
        subprocess.run([*LINK, *files, "-o", str(folder / built_kernels.LIBRARY), *MATHEMATICS], check=True)
    description = {"sources": built_kernels.stamp(Path(kernel.__file__).parent), "kernels": forms}
    (folder / built_kernels.DESCRIPTION).write_text(json.dumps(description), encoding="ascii")


def _examples(kernel: Any, pools: Any, phrase_kernel: Any) -> Iterator[_Example]:
    """Each kernel that Python calls, what it returns (``none``, ``bool``, ``int`` or ``pair``, of a float and an
    integer), and arguments of each kind that it gets."""
    from asr.decode.beam import BeamSearch
    from asr.decode.search_memory import as_frames, new_output

    state, words = BeamSearch(beam=2)._state, kernel.NO_WORDS
    output, thresholds = new_output(1, 1, 1), np.zeros(3)
    work, frames = kernel.new_work(2, 2, True), as_frames(np.zeros((1, 2)), np.array([0, 1]))
    for some in (None, words):
        yield kernel.search, "bool", (state, some, work, thresholds, frames, output, True, True, True)
    yield kernel.index, "none", (state,)
    yield kernel.trace, "none", (state, 0, output.tokens, 0)
    yield kernel.ngram, "pair", (kernel.NO_NGRAM, 0, 0)
    yield pools.compact, "none", (state, np.zeros(1, np.int64))
    yield pools.agreed_prefixes, "int", (state,)
    yield pools.drop_others, "none", (state, 0)
    column, ints = np.zeros(1, np.int32), np.zeros(1, np.int64)
    graph = phrase_kernel.GraphArrays(
        *[column] * 4, ends=np.zeros(1, bool), vocabulary=1,
        **dict.fromkeys(("rest", "roots", "parent", "back", "calls", "frame_rest"), column),
    )  # fmt: skip
    prefixes, active = phrase_kernel.Prefixes(*[column] * 10), phrase_kernel.Active(column, np.zeros(1), np.zeros(1))
    candidates = (column, column, np.zeros(1), np.zeros(1), np.zeros(1))
    stack, rows = np.zeros((1, 2), np.int32), np.zeros((1, 2))
    yield phrase_kernel.follow, "int", (graph, rows, 0, prefixes, active, ints, candidates, column, stack, 1, 0.5)
    yield phrase_kernel.whole_phrases, "int", (graph, prefixes, active, ints, column)


def _described(value: Any) -> dict[str, Any]:
    """An argument for ``kernels.json``."""
    if value is None:
        return {"kind": "none"}
    if isinstance(value, float):
        return {"kind": "f"}
    if isinstance(value, bool | int):
        return {"kind": "i"}
    kind = "tuple" if isinstance(value, tuple) else "array"
    return {"kind": kind, "leaves": [_leaf(leaf) for leaf in _leaves(value)]}


def _leaf(leaf: Any) -> list[Any]:
    if not isinstance(leaf, np.ndarray):
        return ["int", -1]
    return [leaf.dtype.descr if leaf.dtype.fields else leaf.dtype.str, leaf.ndim]


def _leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, tuple) else [value]


def _entry(kernel: Callable[..., Any], symbol: str, examples: Sequence[Any], result: str) -> str:
    """LLVM assembly of a function of numbers and addresses that makes arrays of them and calls the kernel."""
    import numba
    from numba import types

    njit: Any = numba.njit
    names: dict[str, Any] = {"kernel": kernel, "signed": np.int64}
    values = [_made(value, f"a{number}", None, names) for number, value in enumerate(examples)]
    call = f"kernel({', '.join(values)})"
    kinds = [types.float64 if isinstance(value, float) else types.int64 for value in examples]
    lines = {"none": [call, "return signed(0)"], "pair": [f"first, second = {call}", "place[0] = first",
             "return signed(second)"]}.get(result, [f"return signed({call})"])  # fmt: skip
    if result == "pair":  # the float goes to the last address
        kinds.append(types.int64)
        lines.insert(0, f"place = {_made(np.zeros(1), 'a' + str(len(examples)), None, names)}")
    parameters = ", ".join(f"a{number}" for number in range(len(kinds)))
    exec(f"def entry({parameters}):\n    " + "\n    ".join(lines), names)
    compiled = njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)(names["entry"])
    compiled.compile(tuple(kinds))
    (form,) = compiled.overloads.values()
    own = [f"{'double' if kind is types.float64 else 'i64'} %a{number}" for number, kind in enumerate(kinds)]
    return (
        compiled.inspect_llvm(tuple(kinds))
        + f"""
define i64 @{symbol}({", ".join(own)}) {{
  %result = alloca i64
  %error = alloca ptr
  store ptr null, ptr %error
  %status = call i32 @"{form.fndesc.mangled_name}"(ptr %result, ptr %error, {", ".join(own)})
  %value = load i64, ptr %result
  ret i64 %value
}}
"""
    )


def _made(value: Any, name: str, at: Iterator[int] | None, names: dict[str, Any]) -> str:
    """The expression that makes an argument again. ``at``: counts the numbers behind an address; None: the argument is
    one of its own."""
    if value is None:
        return "None"
    if isinstance(value, tuple | np.ndarray) and at is None:
        at = iter(range(1 << 20))
    if isinstance(value, tuple):
        parts = [_made(part, name, at, names) for part in value]
        if not hasattr(value, "_fields"):
            return f"({', '.join(parts)},)"
        names[type(value).__name__] = type(value)
        return f"{type(value).__name__}({', '.join(parts)})"
    if at is None:
        return f"bool({name})" if isinstance(value, bool) else name
    if not isinstance(value, np.ndarray):
        names["number"] = _number()
        return f"number({name}, {next(at)})"
    kind = zlib.crc32(repr((value.dtype.descr, value.ndim)).encode())
    view = f"view_{kind}"
    names[view] = names.get(view) or _view(value.dtype, value.ndim)
    first, *_ = [next(at) for _ in range(1 + value.ndim)]
    return f"{view}({name}, {first})"


def _number() -> Any:
    """A function for kernels: the number at a place behind an address."""
    from numba import types
    from numba.core import cgutils
    from numba.core.extending import intrinsic

    @intrinsic
    def number(_: Any, address: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            base = builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(types.int64)))
            return builder.load(cgutils.gep(builder, base, arguments[1]))

        return types.int64(types.int64, types.int64), generate

    return number


def _view(dtype: np.dtype[Any], axes: int) -> Any:
    """A function for kernels: the array whose address and shape are at a place behind an address."""
    from numba import types
    from numba.core import cgutils
    from numba.core.extending import intrinsic
    from numba.np.arrayobj import make_array, populate_array
    from numba.np.numpy_support import from_dtype

    kind = types.Array(from_dtype(dtype), axes, "C", aligned=dtype.fields is None)

    @intrinsic
    def view(_: Any, address: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            base = builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(types.int64)))
            places = [builder.add(arguments[1], context.get_constant(types.intp, one)) for one in range(1 + axes)]
            address, *shape = [builder.load(cgutils.gep(builder, base, place)) for place in places]
            size = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
            strides = [size]
            for length in shape[:0:-1]:
                strides.insert(0, builder.mul(strides[0], length))
            array = make_array(kind)(context, builder)
            data = builder.inttoptr(address, array.data.type)
            populate_array(array, data=data, shape=shape, strides=strides, itemsize=size, meminfo=None)
            return array._getvalue()

        return kind(types.int64, types.int64), generate

    return view


def _machine_code(assembly: str, symbol: str) -> bytes:
    """An object file of the assembly, for any processor of this machine's family, that shows one symbol."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    module = binding.parse_assembly(assembly)
    for function in module.functions:
        if not function.is_declaration and function.name != symbol:
            function.linkage = "internal"
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"
    target = binding.Target.from_default_triple()
    machine = target.create_target_machine(cpu=PROCESSOR, opt=3, reloc="pic", codemodel="default")
    code: bytes = machine.emit_object(module)
    return code


def main() -> int:
    """Build into the folder that the command names, or say whether that can be."""
    if sys.argv[1:] == ["--check"]:
        return 0 if can_build() else 3
    # numba reads these when it is imported: it shall not use what only this machine's processor has.
    os.environ |= {"NUMBA_CPU_NAME": PROCESSOR, "NUMBA_CPU_FEATURES": "", built_kernels.VARIABLE: "numba"}
    build_library(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
