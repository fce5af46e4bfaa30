"""What protocol modules get: the services, the catalogue and the settings."""

from __future__ import annotations

import asyncio

from asr.server.catalogue import Catalogue
from asr.server.file_jobs import FileService
from asr.server.live_streams import LiveService
from asr.server.models_in_memory import LoadedModels
from asr.server.settings import Settings


class Services:
    """Everything that protocols share.

    ``live`` opens streams, ``files`` transcribes files. ``ready`` is set when all models are loaded and compiled code
    is warm; requests before that wait. ``closing`` is set at shutdown.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.catalogue = Catalogue(settings)
        self._models = LoadedModels(self.catalogue, settings.device)
        self.live = LiveService(settings, self.catalogue, self._models)
        self.files = FileService(settings, self.catalogue, self._models)
        self.ready = asyncio.Event()
        self.closing = asyncio.Event()

    async def start(self) -> None:
        """Load and warm the models; returns when they are ready."""
        await asyncio.to_thread(self._models.warm)
        self.ready.set()

    async def stop(self) -> None:
        """Refuse what is new, wait for what is under way as long as the settings allow."""
        self.closing.set()
        self.live.closing = self.files.closing = True
