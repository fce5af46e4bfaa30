"""Transcripts of whole files for the protocols; long ones are cut, so that short ones overtake them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncGenerator

from asr.server.catalogue import Catalogue
from asr.server.live_streams import check_stream_options, in_case
from asr.server.messages import Done, FileEvent, FileOptions, Settled, StreamOptions
from asr.server.models_in_memory import LoadedModels
from asr.server.problems import BusyError, ClosingError
from asr.server.settings import Settings
from asr.transcript import Transcript


class FileService:
    """Transcribes files."""

    def __init__(self, settings: Settings, catalogue: Catalogue, models: LoadedModels) -> None:
        self.settings, self.catalogue, self.models = settings, catalogue, models
        self.jobs = 0
        self.closing = False

    def check(self, options: FileOptions) -> None:
        """Raise what ``pieces`` would raise for these options now: call it before a large upload is read.

        Raises ``BusyError``, ``ClosingError``, ``UnknownModelError`` or ``RequestError``.
        """
        if self.closing:
            raise ClosingError("the server is shutting down")
        if self.jobs >= self.settings.limits.file_jobs:
            raise BusyError(f"expected fewer than {self.jobs} files at a time; try again later")
        model = self.catalogue.find(options.model)
        as_stream = StreamOptions(model=model.name, hot_words=options.hot_words, phrases=options.phrases)
        check_stream_options(as_stream, self.catalogue, self.settings)

    async def transcribe(self, path: str | os.PathLike[str], options: FileOptions) -> Transcript:
        """The transcript of a file; raises as ``pieces``. Cancelling the task ends the work."""
        async with contextlib.aclosing(self.pieces(path, options)) as pieces:
            async for event in pieces:
                if isinstance(event, Done):
                    return event.transcript
        raise AssertionError("the last event is Done")

    async def pieces(self, path: str | os.PathLike[str], options: FileOptions) -> AsyncGenerator[FileEvent, None]:
        """``Settled`` for each utterance as soon as its text stands, then ``Done`` with the whole transcript.

        Use it in ``contextlib.aclosing``: closing it ends the work. The file must stay there until then.

        Raises ``AudioError`` for a file that cannot be read or is too long, ``RequestError`` and ``BusyError`` as
        ``check``, ``WorkerLostError``.
        """
        self.check(options)
        recognizer = await asyncio.to_thread(self.models.get, self.catalogue.find(options.model))
        self.jobs += 1
        try:

            def work() -> Transcript:
                with self.models.computing:
                    return recognizer.transcribe(path)

            made = in_case(await asyncio.to_thread(work), self.settings.case)
            made = dataclasses.replace(made, source=options.name)
            if made.words:
                yield Settled(made)
            yield Done(made)
        finally:
            self.jobs -= 1
