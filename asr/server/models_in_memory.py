"""The served models, loaded once; only this part of the server imports torch."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from asr.server.catalogue import Catalogue, ServedModel

if TYPE_CHECKING:
    from asr.recognize.recognizer import Recognizer


class LoadedModels:
    """Recognizers by served model; each is loaded at its first use, or all by ``warm``."""

    def __init__(self, catalogue: Catalogue, device: str = "auto") -> None:
        self.catalogue = catalogue
        self.device = device
        self.computing = threading.Lock()
        """Held by whoever computes."""
        self._found: dict[str, Recognizer] = {}

    def get(self, model: ServedModel) -> Recognizer:
        """The recognizer of a model. Raises ``ModelError`` where it is damaged."""
        from asr.recognize.recognizer import load

        if model.name not in self._found:
            self._found[model.name] = load(model.path, device=self.device)
        return self._found[model.name]

    def warm(self) -> None:
        """Load all models, and decode with each once, so that compiled code is ready."""
        import numpy as np

        for model in self.catalogue.models.values():
            with self.computing:
                self.get(model).transcribe(np.zeros(model.rate_hz, np.float32))
