"""Binary files of KenLM, for rescoring and perplexity.

KenLM maps its binaries into memory without checks. A damaged or hostile file can end the process that reads it, at
loading or at a later word. So a separate process reads it (``asr.decode.kenlm_child``); if that process ends, an error
names the file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.decode import kenlm_child
from asr.decode.ngram import LN10, as_words
from asr.errors import ModelError

KENLM_MAGIC = b"mmap lm http://kheafield.com/code"
NO_UNKNOWN = -99.0
"""Logarithm to base 10 that only an ``<unk>`` has that KenLM put in because the model had none (1e-100)."""

NOBODY = -1
"""The process that a child is of that cannot be asked any more."""
CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL")
"""Signals that end a process for what it does itself; any other comes from outside, such as the system's when memory
is short."""


def is_kenlm(path: Path) -> bool:
    """Whether a file begins as KenLM's binaries do."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(KENLM_MAGIC)) == KENLM_MAGIC
    return False


class KenlmNgram:
    """A binary file of KenLM (extra ``lm``): for rescoring and perplexity. The search needs the ARPA file.

    Raises ``ModelError`` where the package is missing or cannot read the file; so does every method where KenLM
    crashes or its process is ended from outside. The next call starts another process.
    """

    def __init__(self, path: Path) -> None:
        if importlib.util.find_spec("kenlm") is None:
            raise ModelError(f"{path}: a KenLM binary needs the kenlm package: pip install kenlm")
        self.path = path
        self._lock = threading.Lock()
        self._known: dict[str, bool] = {}
        about = self._start()
        self.order: int = about["order"]
        self.has_unknown: bool = about["unknown"] > NO_UNKNOWN
        """Whether the model has an ``<unk>`` of its own."""

    def knows(self, word: str) -> bool:
        """Whether the model lists a word."""
        if word not in self._known:
            self._full_scores([word])
        return self._known[word]

    def word_scores(self, sentence: str | Sequence[str]) -> list[float | None]:
        """As ``Ngram.word_scores``."""
        scores = self._full_scores([*as_words(sentence), "</s>"])
        return [log_prob * LN10 if known or self.has_unknown else None for log_prob, known in scores]

    def score(self, sentence: str | Sequence[str]) -> float:
        """Natural logarithm of the probability of a sentence, its end included."""

        from asr.decode import kernel

        return sum(kernel.NEVER if score is None else score for score in self.word_scores(sentence))

    def _full_scores(self, words: Sequence[str]) -> list[tuple[float, bool]]:
        """Logarithm to base 10 of each word after those before it, from a sentence's start, and whether it is known."""
        with self._lock:
            if self._owner != os.getpid():  # ended; or a fork, which must not talk into its parent's pipe
                self._start()
            answer = self._ask(json.dumps(list(words)))
        scores = [(float(log_prob), not oov) for log_prob, oov in answer]
        if not all(math.isfinite(log_prob) for log_prob, _ in scores):
            raise self._damaged("kenlm gives a probability that is not a number")
        self._known.update((word, known) for word, (_, known) in zip(words, scores, strict=True))
        return scores

    def _start(self) -> dict[str, Any]:
        """Start the other process, which ends with this one; gives what it says of the model."""
        child = [sys.executable, "-I", kenlm_child.__file__, str(self.path), json.dumps(sys.path)]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        self._owner = NOBODY
        try:
            self._child = subprocess.Popen(child, stdin=pipe, stdout=pipe, stderr=nothing, text=True, encoding="utf-8")
        except OSError as error:
            raise ModelError(f"{self.path}: cannot start a process that reads it: {error}") from error
        weakref.finalize(self, _end, self._child, os.getpid())
        about: dict[str, Any] = self._ask("")
        if "error" in about:
            raise ModelError(f"{self.path}: kenlm cannot read it: {about['error']}")
        self._owner = os.getpid()
        return about

    def _ask(self, request: str) -> Any:
        """The child's next answer, to ``request`` where there is one. Raises ``ModelError`` where it has ended.

        A child that was asked and whose answer was not read, as after Ctrl-C, is ended: what it says next would be
        taken for the answer to the next request.
        """
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                if request:
                    self._child.stdin.write(request + "\n")
                    self._child.stdin.flush()
            answer = self._child.stdout.readline()
            if not answer.endswith("\n"):
                raise self._ended(self._child.wait())
        except BaseException:
            self._owner = NOBODY
            _end(self._child, os.getpid())
            raise
        return json.loads(answer)

    def _ended(self, status: int) -> ModelError:
        """Why the child has ended, by its exit status, which is negative for a signal."""
        names = {number.value: number.name for number in signal.Signals}
        name = names.get(-status, "")
        if name in CRASHES:
            return self._damaged(f"kenlm crashes when it reads this file ({name})")
        return ModelError(
            f"{self.path}: the process that reads it has ended ({name or f'status {status}'}), which the file need not "
            "be the cause of: memory may be short; try again"
        )

    def _damaged(self, what: str) -> ModelError:
        return ModelError(
            f"{self.path}: {what}: it is damaged; make it anew from its ARPA file with KenLM's build_binary"
        )


def _end(child: subprocess.Popen[str], owner: int) -> None:
    """End a child of the process ``owner``; a fork may hold its input open, so that it would not notice its end."""
    ours = os.getpid() == owner  # a fork lets its parent's child live
    if ours:
        child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if ours:
        child.wait()
