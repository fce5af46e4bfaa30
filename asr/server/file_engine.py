"""The files of a worker: each in a thread of its own, one of them computing at a time, in turns."""

from __future__ import annotations

import dataclasses
import threading
import traceback

from asr.errors import AsrError
from asr.recognize.gradual import transcribe_gradually
from asr.recognize.recognizer import Recognizer
from asr.recognize.recording import Recording
from asr.server.computing_turns import FileTurn, Turns
from asr.server.live_engine import in_case
from asr.server.messages import Done, Settled
from asr.server.wire import Emit, FileReport, Reply, TranscribeFile


class _Cancelled(Exception):
    """Nobody wants the file any more."""


class FileEngine:
    """Transcribes files. ``begin`` and ``cancel`` return at once; replies go to ``emit``."""

    def __init__(self, recognizers: dict[str, Recognizer], case: str, turns: Turns, emit: Emit) -> None:
        self.recognizers, self.case, self.turns, self.emit = recognizers, case, turns, emit
        self._wanted: set[int] = set()

    def begin(self, ticket: int, request: TranscribeFile) -> None:
        """Start a job."""
        self._wanted.add(request.job)
        threading.Thread(target=self._run, args=(ticket, request), daemon=True, name="file").start()

    def cancel(self, job: int) -> None:
        """Stop a job at its next pause."""
        self._wanted.discard(job)

    def _run(self, ticket: int, request: TranscribeFile) -> None:
        turn = self.turns.file()
        try:
            with turn:
                audio_s = self._transcribe(ticket, request, turn)
            self.emit([FileReport(request.model, audio_s, turn.used_s, turn.longest_s)])
        except _Cancelled:
            self.emit([Reply(ticket, error=AsrError("the request was cancelled"))])
        except AsrError as error:
            # The client knows the file by its own name; where it lies here is not its business, nor a parameter's name.
            text = str(error).replace(request.path, request.options.name or "the file").replace("max_duration_s=", "")
            self.emit([Reply(ticket, error=type(error)(text))])
        except Exception as error:  # a fault of ours, or memory: the client is told, the worker goes on
            traceback.print_exc()
            self.emit([Reply(ticket, error=AsrError(f"the recogniser has failed ({type(error).__name__})"))])
        finally:
            self._wanted.discard(request.job)

    def _transcribe(self, ticket: int, request: TranscribeFile, turn: FileTurn) -> float:
        def between() -> None:
            turn.pause()
            if request.job not in self._wanted:
                raise _Cancelled

        options = request.options
        recording = Recording(request.path, options.name or "audio")
        steps = transcribe_gradually(
            self.recognizers[request.model],
            recording,
            between,
            hotwords=options.hot_words or None,
            phrases=options.phrases,
        )
        for transcript, whole in steps:
            made = dataclasses.replace(in_case(transcript, self.case), source=options.name)
            if whole:
                self.emit([Reply(ticket, Done(made))])
                return made.duration_s
            if made.words:
                self.emit([Reply(ticket, Settled(made), more=True)])
        raise AssertionError("the last step is the whole")
