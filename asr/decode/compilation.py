"""How the functions of the search become machine code: from the library in the wheel, or by numba at first use.

Where the package holds a library of the kernels (``asr.decode.built_kernels``), numba is not needed and not imported.
Elsewhere, in a source tree say, numba compiles them when they are first called (``asr.decode.compiled`` keeps them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from asr.decode.built_kernels import built_kernel, find_library, why_no_library
from asr.errors import DecodeError

Function = TypeVar("Function", bound=Callable[..., Any])


def compile_kernel(function: Function) -> Function:
    """For what Python calls too: from the library, or kept on disk where there is a writable place for it.

    None of the kernels allocates memory. So numba's reference counts are off (``_nrt``): their atomic operations took
    half of the time."""
    return _compile(function, {"_nrt": False}, kept=True)


def compile_search(function: Function) -> Function:
    """``compile_kernel`` for a kernel that holds a whole search: a line says when it must be compiled."""
    return _compile(function, {"_nrt": False}, kept=True, slow=True)


def compile_inner(function: Function) -> Function:
    """``compile_kernel`` for what other kernels call for each prefix."""
    return _compile(function, {"_nrt": False, "forceinline": True}, kept=True)


def compile_part(function: Function) -> Function:
    """For what only other kernels call: inlined, without an entry from Python, and not kept by itself."""
    return _compile(function, {"_nrt": False, "forceinline": True, "no_cpython_wrapper": True}, kept=False)


def compile_apart(function: Function) -> Function:
    """``compile_part`` for what is called seldom or from several places: not copied into each of them."""
    return _compile(function, {"_nrt": False, "no_cpython_wrapper": True}, kept=False)


def _compile(function: Function, options: dict[str, Any], *, kept: bool, slow: bool = False) -> Function:
    library = find_library()
    if library is not None:
        # What it lacks only other kernels call.
        return (
            cast(Function, built_kernel(library, function.__name__))
            if function.__name__ in library.kernels
            else function
        )
    try:
        import numba
        from numba.core.options import DefaultOptions
    except ImportError as error:
        raise DecodeError(
            f"the beam search needs numba, which compiles it: pip install numba ({error}). Reason: {why_no_library()}"
        ) from error
    from asr.decode.compiled import keep
    from asr.decode.kernel_parts import part_pipeline

    # Options that numba keeps for itself: a version that has them no more still compiles, to slower code.
    options = {"no_cfunc_wrapper": True, **options}
    known: dict[str, Any] = {name: value for name, value in options.items() if hasattr(DefaultOptions, name)}
    if not kept and (pipeline := part_pipeline()) is not None:
        known["pipeline_class"] = pipeline
    njit: Any = numba.njit
    compiled = njit(nogil=True, error_model="numpy", **known)(function)
    return cast(Function, keep(compiled, slow=slow) if kept else compiled)
