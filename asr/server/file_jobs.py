"""Transcripts of whole files for the protocols; long ones are cut, so that short ones overtake them."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import AsyncGenerator

from asr.errors import AsrError, ConfigError, DecodeError
from asr.server.catalogue import Catalogue
from asr.server.live_streams import check_stream_options
from asr.server.messages import Done, FileEvent, FileOptions, StreamOptions
from asr.server.metrics import Metrics
from asr.server.problems import BusyError, ClosingError, RequestError
from asr.server.settings import Settings
from asr.server.wire import CancelFile, TranscribeFile
from asr.server.workers import WorkerPool
from asr.transcript import Transcript


class FileService:
    """Transcribes files."""

    def __init__(self, settings: Settings, catalogue: Catalogue, pool: WorkerPool, metrics: Metrics) -> None:
        self.settings, self.catalogue, self.pool, self.metrics = settings, catalogue, pool, metrics
        self.jobs = 0
        """Under way."""
        self.closing = False
        self._numbers = itertools.count(1)

    def check(self, options: FileOptions) -> None:
        """Raise what ``pieces`` would raise for these options now: call it before a large upload is read.

        Raises ``BusyError``, ``ClosingError``, ``UnknownModelError`` or ``RequestError``.
        """
        if self.closing:
            raise ClosingError("the server is shutting down")
        if self.jobs >= self.settings.limits.file_jobs:
            self.metrics.refused["file"] += 1
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
        model = self.catalogue.find(options.model)
        self.jobs += 1
        try:
            worker = await self.pool.for_file()
            request = TranscribeFile(next(self._numbers), model.name, os.fspath(path), options)
            worker.files += 1
            self.metrics.opened["file"] += 1
            try:
                async with contextlib.aclosing(worker.listen(request)) as events:
                    async for event in events:
                        yield event
            except (ConfigError, DecodeError) as error:
                raise RequestError(str(error), "phrases" if options.phrases else "hot_words") from error
            except AsrError:
                self.metrics.failed["file"] += 1
                raise
            finally:
                worker.files -= 1
                worker.tell(CancelFile(request.job))
        finally:
            self.jobs -= 1
