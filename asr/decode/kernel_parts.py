"""Functions that run only inside kernels: numba hands their code to the kernels, unoptimised and without an entry."""

from __future__ import annotations

import functools
from typing import Any

import numba


@functools.cache
def part_pipeline() -> Any:
    """A compiler for parts: LLVM gets their code, but makes no machine code of it and does not optimise it yet.

    A part runs only inside the kernels that call it, which numba optimises with all of their parts in them. Its own
    compiler optimises each part alone as well, and then once more in each kernel on the way to the search: a quarter
    of the time. None where numba is not one of the versions whose inner workings are known (0.61 to 0.68).
    """
    if not (0, 61) <= tuple(map(int, numba.__version__.split(".")[:2])) <= (0, 68):
        return None

    inside: Any = vars(numba)["core"]  # Any: numba says nothing of the types in it
    compiler: Any = inside.compiler
    lowering: Any = inside.typed_passes.NativeLowering
    make_entry = vars(numba)["_dynfunc"].make_function

    class PartLibrary(inside.codegen.JITCodeLibrary):  # type: ignore[misc]
        """The code of a part, to be linked into that of its callers."""

        def _optimize_final_module(self) -> None:
            pass

        def _finalize_final_module(self) -> None:
            self._finalize_dynamic_globals()
            self._finalized = True

    @inside.compiler_machinery.register_pass(mutates_CFG=True, analysis_only=False)
    class PartLowering(lowering):  # type: ignore[misc]
        """numba's last pass, with a ``PartLibrary``."""

        _name = "part_lowering"

        def run_pass(self, state: Any) -> bool:
            library = PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
            library.enable_object_caching()
            state.library = library
            state.flags.no_compile = True
            super().run_pass(state)
            library.finalize()
            found = state["cr"]
            # Callers know a part by its entry from Python, which a part has not: one without an address.
            module = found.fndesc.lookup_module()
            entry = make_entry(module, found.fndesc.qualname, "", 0, found.env, (library,))
            state.targetctx.insert_user_function(entry, found.fndesc, [library])
            state.reload_init.extend(getattr(library, "_reload_init", ()))  # which 0.61 lacks
            state["cr"] = found._replace(cfunc=entry)
            return True

    class PartCompiler(compiler.CompilerBase):  # type: ignore[misc]
        """numba's compiler with ``PartLowering`` as its last pass."""

        def define_pipelines(self) -> list[Any]:
            passes = inside.compiler_machinery.PassManager("part")
            for one, description in compiler.DefaultPassBuilder.define_nopython_pipeline(self.state).passes:
                passes.add_pass(PartLowering if one is lowering else one, description)
            passes.finalize()
            return [passes]

    return PartCompiler
