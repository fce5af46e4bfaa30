"""Where compiled kernels are kept: in the user's cache folder (or in ``NUMBA_CACHE_DIR``), never beside the package.

Files that numba leaves in ``site-packages/asr`` outlive ``pip uninstall``, and the folder that holds them hides an
editable install. Each place of the package and each version of numba has a folder of its own, so that two installs
never replace each other's files. Only the kernels of this package are concerned: numba's settings stay as they are.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from multiprocessing import current_process, parent_process
from pathlib import Path
from typing import Any

import numba

from asr.decode.built_kernels import stamp


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Let one process at a time write the files of a folder.

    numba reads a kernel's index, adds a line and writes it. Of two processes that do so at once, one would lose its
    line, or both would give their files the same name.
    """
    try:
        import fcntl  # not on Windows
    except ImportError:
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # some network folders know no locks
            os.makedirs(os.path.dirname(path), exist_ok=True)
            fcntl.flock(stack.enter_context(open(path, "w", encoding="utf-8")), fcntl.LOCK_EX)
        yield


@functools.cache
def _cache_class() -> Any:
    """The class of numba's caches in a folder of ours.

    It is made of what numba keeps to itself, the same from 0.61 to 0.68. Raises ``ImportError``, ``AttributeError`` or
    ``TypeError`` where that is another.
    """
    import numba.core.caching

    caching: Any = numba.core.caching

    class Folder(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):  # type: ignore[misc]
        """``numba/decode_<hash of the package's folder>/<version of numba>`` in the user's cache folder."""

        def __init__(self, function: Any, file: str) -> None:
            self._py_file = file
            self._lineno = function.__code__.co_firstlineno
            self._path = os.path.join(cache_folder(), self.get_suitable_cache_subpath(file), numba.__version__)

        def get_cache_path(self) -> str:
            return self._path

        def get_source_stamp(self) -> Any:
            return super().get_source_stamp(), _sources()

    class Files(caching.CompileResultCacheImpl):  # type: ignore[misc]
        _locator_classes = (Folder,)

    class Cache(caching.FunctionCache):  # type: ignore[misc]
        """numba's cache, save that its faults cost time and nothing else."""

        _impl_class = Files
        slow = False

        def load_overload(self, *args: Any) -> Any:
            found = None
            try:
                found = super().load_overload(*args)
            except Exception:  # a damaged file raises whatever unpickling raises
                with contextlib.suppress(OSError):
                    self.flush()
            if found is None and self.slow:
                _announce()
            return found

        def save_overload(self, *args: Any) -> None:
            try:
                with _alone(os.path.join(self._cache_path, "lock")):
                    super().save_overload(*args)
            except Exception as error:  # a full disk, say
                _note(f"{cache_folder()}: {getattr(error, 'strerror', None) or error}")

    return Cache


@functools.cache
def _sources() -> str:
    """A checksum of all modules that kernels are made of: numba alone sees changes of a kernel's own module only, and
    not of the constants and the options that it takes from another."""
    return stamp(Path(__file__).parent)


def cache_folder() -> str:
    """The folder that ``NUMBA_CACHE_DIR`` names, else numba's in the user's cache folder."""
    import numba.core.config
    import numba.misc.appdirs

    config: Any = numba.core.config
    appdirs: Any = numba.misc.appdirs
    return str(config.CACHE_DIR or appdirs.AppDirs(appname="numba", appauthor=False).user_cache_dir)


def keep(kernel: Any, *, slow: bool = False) -> Any:
    """``kernel`` (what ``numba.njit`` gives), whose compiled forms are kept on disk from now on.

    Where a ``slow`` kernel must be compiled, a line on standard error says so first. Where the folder cannot be
    written, or numba is a newer one that keeps them otherwise, every process compiles again, and a note says so once.
    """
    try:
        cache = _cache_class()(kernel.py_func)
        cache.slow = slow
        kernel._cache = cache
    except RuntimeError:  # numba's own way to say so
        _note(f"{cache_folder()}: cannot be written")
    except (ImportError, AttributeError, TypeError) as error:
        _note(f"numba {numba.__version__} is not one of 0.61 to 0.68 ({error})")
    return kernel


def _speaks() -> bool:
    """Whether this process prints messages: the first one, and of several workers (``--jobs``) the first."""
    return parent_process() is None or current_process().name.endswith("-1")


@functools.cache
def _announce() -> None:
    if _speaks():
        print("compiling the search for this machine, once: 5 to 10 s", file=sys.stderr, flush=True)


@functools.cache
def _note(reason: str) -> None:
    if _speaks():
        print(
            f"note: {reason}; the compiled beam search is not kept, so that every start compiles it again, which takes "
            "5 to 10 s; NUMBA_CACHE_DIR=FOLDER names another folder",
            file=sys.stderr,
            flush=True,
        )
