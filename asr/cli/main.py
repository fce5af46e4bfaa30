"""The command line. Heavy imports wait until a command needs them, so that --help is instant."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence

import asr
from asr import terminal
from asr.cli.corpus_verbs import add_corpus_commands
from asr.cli.export_verb import add_export_command
from asr.cli.held_out_verbs import add_held_out_commands
from asr.cli.language_verbs import add_language_commands
from asr.cli.learn_verb import add_learn_command
from asr.cli.model_verbs import add_model_commands
from asr.cli.report_verb import add_report_command
from asr.cli.scoring_verbs import add_scoring_commands
from asr.cli.serve_verb import add_serve_command
from asr.cli.shard_verb import add_shard_command
from asr.cli.shared_options import FAILED, OK, keep_inputs
from asr.cli.synth_verb import add_synth_command
from asr.cli.training_verbs import add_training_commands
from asr.cli.transcription_verbs import add_transcription_commands
from asr.config import cpus
from asr.config.arguments import Parser
from asr.errors import AsrError

FOR_TRAINING = {"torch", "torchaudio", "scipy"}
"""Packages of the extra ``train``."""
UNWRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 some inputs failed, 2 not done, 130 and 143 interrupted."""
    _open_standard_streams()
    with terminal.shown(), _terminable():
        return _guarded(argv)


def _guarded(argv: Sequence[str] | None) -> int:
    """Run the command; what a user can act on becomes a message and a status."""
    try:
        return run_verb(argv)
    except AsrError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as interrupt:
        stopped = isinstance(interrupt, terminal.Terminated)
        reason = f": {interrupt}" if str(interrupt) else ""
        print(f"{'terminated' if stopped else 'interrupted'}{reason}", file=sys.stderr)
        return 143 if stopped else 130
    except BrokenPipeError:  # The reader of a pipe (head, say) has had enough: not an error of ours.
        _drop_output()
        return OK
    except ModuleNotFoundError as error:
        if error.name not in FOR_TRAINING:
            raise
        print(
            f"error: this command needs the package {error.name}: pip install 'recurrent-asr[train]'; transcribe, "
            "stream, align, evaluate and export work without it",
            file=sys.stderr,
        )
        return FAILED
    except OSError as error:  # of a file whose reader or writer expected none, or of standard output
        _drop_output()
        place = error.filename or ("standard output" if error.errno in UNWRITTEN else "")
        print(f"error: {place}{': ' if place else ''}{error.strerror or error}", file=sys.stderr)
        return FAILED


def run_verb(argv: Sequence[str] | None = None) -> int:
    """As ``run_command``, but that errors are raised."""
    try:
        args = parse_arguments(argv)
    except SystemExit:  # --help, or wrong arguments
        print(end="", flush=True)
        raise
    cpus.settle(awake=args.awake)
    keep_inputs(args)
    status: int = args.run(args)
    print(end="", flush=True)  # so that a closed pipe or a full disk is noticed here
    return status


def _open_standard_streams() -> None:
    """Fill the places of streams that the caller has closed, so that no file of ours gets their numbers.

    What is written to a closed standard output is an error, as everywhere; messages and input go to and come from
    nowhere. Names that are no text in the terminal's encoding come out escaped.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (place := os.open(os.devnull, os.O_RDONLY)) < 3:
            pass
        os.close(place)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (for reading alone: to write is an error)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Send what standard output could not take nowhere, so that Python does not try once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises ``terminal.Terminated`` here, so that files are finished and processes of ours are ended."""

    def handle(number: int, frame: object) -> None:
        raise terminal.Terminated

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not the main thread: signals are not ours to handle
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parsed arguments; leaves the process with status 2 when they are wrong."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    # argparse takes positional arguments in one run only; those behind an option (train CONF --resume a=b) come back.
    if rest and ("extends" not in args or any(r.startswith("-") and r != "-" for r in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        getattr(args, args.extends).extend(rest)
    return args


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(prog="asr", description="Recurrent speech recognition with CTC.")
    parser.add_argument("--version", action="version", version=f"asr {asr.__version__}")
    parser.set_defaults(awake=False, cache_gb=None)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    add_transcription_commands(commands)
    add_corpus_commands(commands)
    add_export_command(commands)
    add_training_commands(commands)
    add_learn_command(commands)
    add_language_commands(commands)
    add_held_out_commands(commands)
    add_scoring_commands(commands)
    add_report_command(commands)
    add_model_commands(commands)
    add_synth_command(commands)
    add_shard_command(commands)
    add_serve_command(commands)
    return parser
