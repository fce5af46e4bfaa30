"""``python -m asr.cli`` is the command ``asr``, for torchrun and other launchers."""

import sys

from asr.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command())
