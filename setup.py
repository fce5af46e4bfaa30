"""Builds the package: a wheel holds the search as machine code where a C compiler links it, and then needs no numba.

Elsewhere, or with ``ASR_KERNELS=numba`` in the environment, the wheel is one for every machine and depends on numba,
which compiles the search at its first use. An editable install gets the library into the source tree.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["recurrent-asr"]


def build_kernels(*arguments: str) -> int:
    """The exit status of ``asr/decode/kernel_builder.py``."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "asr.decode.kernel_builder", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}).returncode


CHECKED = 3 if os.environ.get("ASR_KERNELS") == "numba" else build_kernels("--check")
if CHECKED not in (0, 3):
    raise SystemExit("asr/decode/kernel_builder.py failed; see above. ASR_KERNELS=numba builds without it")
AHEAD = CHECKED == 0


class BuildWithKernels(build_py):
    """Copies the modules, then compiles the kernels beside them."""

    def run(self) -> None:
        super().run()
        folder = (ROOT if self.editable_mode else Path(self.build_lib).absolute()) / "asr" / "decode"
        if not AHEAD:
            for name in ("kernels.so", "kernels.json"):  # of an earlier build in the same folder
                (folder / name).unlink(missing_ok=True)
            return
        if build_kernels(str(folder)):
            raise SystemExit("the search could not be compiled; see above. ASR_KERNELS=numba builds without that")


class WheelForThisMachine(bdist_wheel):
    """A wheel with machine code fits any Python of this platform."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = not AHEAD

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return ("py3", "none", platform) if AHEAD else (python, abi, platform)


setup(
    cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelForThisMachine},
    install_requires=[*PROJECT["dependencies"], *([] if AHEAD else PROJECT["search"])],
)
