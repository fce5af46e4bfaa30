"""The models of a server by name. Reads their descriptions only, which needs no torch."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from asr.decode.confidence import CONFIDENCE_FILE, load_calibration
from asr.errors import ConfigError
from asr.models import bundled, description
from asr.recognize.options import STREAMING_FILE
from asr.server.problems import UnknownModelError, one_of
from asr.server.settings import Settings


@dataclass(frozen=True)
class ServedModel:
    """A model as clients see it."""

    name: str
    path: Path
    rate_hz: int
    """Sample rate that the model works at. Other rates are resampled."""
    streams: bool
    """Whether it is made for streams: unidirectional, or with chunks of its own (``streaming.yaml``). Others can stream
    too, in chunks of the default length."""
    writes: bool
    """Whether it has a tagger for case, punctuation and digits."""
    languages: tuple[str, ...] = ()
    """Codes of the languages that it is for (ISO 639), as its card has them; empty where that is not known."""
    calibrated: bool = False
    """Whether its confidences are fitted, so that they may be shown as doubt."""


class Catalogue:
    """Models by name, their aliases and the defaults.

    Raises ``ModelError`` for a model that is missing or damaged, ``ConfigError`` for an alias or default without model.
    """

    def __init__(self, settings: Settings) -> None:
        places = dict(settings.models) or {name: name for name in default_names()}
        self.models = {name: _served(name, place) for name, place in places.items()}
        """By the names that clients use, in the order of the options."""
        self.aliases = dict(settings.aliases)
        named = [("alias", name) for name in self.aliases.values()]
        named += [("file model", settings.file_model), ("live model", settings.live_model)]
        for option, name in named:
            if name and name not in self.models:
                raise ConfigError(f"{option}: expected {one_of(list(self.models))}, got {name!r}")
        for name in self.aliases.keys() & self.models.keys():
            raise ConfigError(f"alias: expected a name that no model has, got {name!r}, which is a model")
        first = next(iter(self.models))
        live = next((name for name, model in self.models.items() if model.streams), first)
        self._defaults = {"file": settings.file_model or first, "live": settings.live_model or live}

    def note_place(self, name: str, place: str) -> None:
        """A model is served from another directory: its confidences may be fitted there, or not."""
        calibrated = bool(load_calibration(bundled.model_file(Path(place), CONFIDENCE_FILE).parent))
        self.models[name] = dataclasses.replace(self.models[name], calibrated=calibrated)

    @property
    def names(self) -> list[str]:
        """All names that ``find`` knows: models, then aliases."""
        return [*self.models, *self.aliases]

    def find(self, name: str | None, *, live: bool = False) -> ServedModel:
        """The model of a name or alias; of None or an empty name the default for files, or for ``live`` streams.

        Raises ``UnknownModelError`` with the names that there are.
        """
        if not name:
            return self.models[self._defaults["live" if live else "file"]]
        found = self.models.get(self.aliases.get(name, name))
        if found is None:
            raise UnknownModelError(name, self.names)
        return found


def default_names() -> list[str]:
    """The bundled models, which are served where none is named: first the default one."""
    return list(dict.fromkeys([bundled.default_model(), *bundled.bundled_models()]))


def _served(name: str, place: str) -> ServedModel:
    found = description.read_description(place)
    return ServedModel(
        name,
        found.path,
        found.config.features.sample_rate_hz,
        streams=not found.config.model.bidirectional or os.path.isfile(found.path / STREAMING_FILE),
        writes=bundled.readable_folder(found.path) is not None,
        languages=description.card_languages(found.card, found.path),
        calibrated=bool(load_calibration(bundled.model_file(found.path, CONFIDENCE_FILE).parent)),
    )
