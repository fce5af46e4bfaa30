"""Options of decoding, from a model directory and from the caller; the caller's options win."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypedDict

from asr.config import loader
from asr.decode.arpa import write_arpa
from asr.decode.ngram import Ngram
from asr.errors import ConfigError, ModelError
from asr.files import PART, atomic
from asr.lm import lm_directory
from asr.lm.lm_directory import LM, LMs, name_of
from asr.models.bundled import model_file
from asr.text.user_words import NO_LANGUAGE
from asr.text.written_out import language_code

DECODING_FILE = "decoding.yaml"
STREAMING_FILE = "streaming.yaml"
LONGEST_CHUNK_S = 3600
LM_FOLDER = "lm"
DEFAULT_BEAM = 16
WIDE = ("lm", "lexicon", "hotwords", "rescore", "word_bonus", "blank_penalty")
"""Options that only the beam search knows."""
SEARCHING = (*WIDE, "lm_adapt")
PLACES = ("lm", "lexicon", "rescore", "phrases")
"""Options that are paths, which a model directory takes in."""


@dataclass(frozen=True)
class Decoding:
    """Options of decoding; a model directory may hold them, tuned for it, as ``decoding.yaml``.

    ``phrases`` and ``speeds`` need no search and cannot be combined with one. ``unknown_penalty`` works with both. All
    other options but ``beam`` need a beam above 1. Logarithms are natural.
    """

    beam: int = 1
    """Prefixes kept by the beam search; 1 decodes greedily."""
    lm: LMs = ""
    """Language model in the search: a directory of ``asr train-lm``, or an ARPA file; an object instead of a path; or
    several of these, whose weighted logarithms add up."""
    lm_weight: float | tuple[float, ...] = 0.5
    """Of its logarithms; of several models one for each, or one for all."""
    lm_adapt: float = 0.0
    """Rate at which a recurrent language model learns from what has been recognised, such as 0.1; 0 leaves it as it
    is. Utterances are then decoded one after the other."""
    lm_carry: bool = False
    """Whether the language models (``lm``) go on from utterance to utterance of a long recording or stream instead of
    beginning each as a text of its own."""
    word_bonus: float = 0.0
    """Added for each word; positive against deletions, negative against insertions."""
    blank_penalty: float = 0.0
    """Taken from the logarithm of blank in every frame of the search; positive against deletions."""
    lexicon: str = ""
    """File of the words that may be recognised, one a line; an n-gram without one allows the words that it knows."""
    unknown_penalty: float = -math.inf
    """Added for a word outside the lexicon (at most 0); ``-inf`` closes the vocabulary."""
    hotwords: dict[str, float] = field(default_factory=dict)
    """Boost of words and phrases, in natural logarithms; a lexicon learns them."""
    rescore: LM = ""
    """Language model that scores the ``nbest`` of the search once more; a recurrent one may have tokens of its own."""
    rescore_weight: float = 0.5
    rescore_keep: float = 1.0
    """Share of the logarithms of the search's language models (``lm``) that counts beside it; 0 replaces them. Bonuses
    and hot words always count."""
    nbest: int = 16
    token_threshold: float = -math.inf
    """Tokens below it open no prefix; ``-7`` is faster and seldom changes a word."""
    beam_threshold: float = math.inf
    """Prefixes that score less than the best by more are dropped."""
    blank_threshold: float = -0.001
    """A frame whose blank is above it is taken as blank for certain, which most frames are; 0 takes none for it."""
    language: str = "en"
    """Language of texts that are given with a recording, to align it, as phrases or as hot words: what the model cannot
    spell in them (``42``, ``Dr.``) is written out as it is spoken there. ``none``: nothing is."""
    phrases: str = ""
    """File of phrases or templates (``asr.text.templates``), one a line. Each utterance is one of them: the result is
    the likeliest. Templates, and lists of more than 2,000, are searched for candidates first.
    ``unknown_penalty`` above ``-inf`` allows an utterance to be none of them, whose text is then empty."""
    speeds: tuple[float, ...] = (1.0,)
    """Speeds at which the recording is recognised; a phrase gets the mean of its probabilities at all speeds."""

    def __post_init__(self) -> None:
        for name in PLACES:
            object.__setattr__(self, name, _as_text(getattr(self, name)))
        loader.check_types(self)
        self._check_lms()
        if self.language not in NO_LANGUAGE:
            language_code(self.language)
        if self.beam < 1:
            raise ConfigError(f"beam: expected 1 or more, got {self.beam}")
        if self.nbest < 1:
            raise ConfigError(f"nbest: expected 1 or more, got {self.nbest}")
        asked = [name for name in SEARCHING if getattr(self, name)] + ["beam"] * (self.beam > 1)
        if self.phrases and asked:
            raise ConfigError(
                f"phrases: expected no search options beside them, got {', '.join(asked)}; leave those out"
            )
        asked = [name for name in WIDE if getattr(self, name)]
        if self.beam == 1 and asked:
            raise ConfigError(f"{', '.join(asked)}: expected a beam above 1, got beam 1, which decodes greedily")
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise ConfigError(f"speeds: expected one or more from 0.5 to 2, got {list(self.speeds)}")
        if self.speeds != (1.0,) and not self.phrases:
            raise ConfigError(
                f"speeds: expected phrases as well, got speeds {list(self.speeds)} alone; give phrases or leave "
                "speeds out"
            )
        if self.phrases and not self.unknown_penalty <= 0:
            raise ConfigError(f"unknown_penalty: expected at most 0, got {self.unknown_penalty}")
        if self.lm_carry and not self.lm:
            raise ConfigError("lm_carry: expected a language model (lm), got none; give lm or leave lm_carry out")
        if self.rescore_keep != 1 and (self.lm_carry or self.lm_adapt):
            raise ConfigError(
                "rescore_keep: expected 1 beside lm_carry and lm_adapt, whose scores depend on the utterances before, "
                f"got {self.rescore_keep}; leave one of them out"
            )
        for name in ("lm_adapt", "blank_penalty", "rescore_weight", "rescore_keep"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: expected 0 or more, got {getattr(self, name)}")

    def _check_lms(self) -> None:
        for name in ("lm", "lm_weight"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) == 1:
                object.__setattr__(self, name, value[0])
        weights = self.lm_weight if isinstance(self.lm_weight, tuple) else (self.lm_weight,)
        count = len(self.lm) if isinstance(self.lm, tuple) else 1
        if isinstance(self.lm, tuple) and not all(self.lm):
            raise ConfigError(
                f"lm: expected a language model in each of {count} places, got none in one of them; "
                "leave that one out, or name none alone"
            )
        if len(weights) not in (1, count):
            raise ConfigError(f"lm_weight: expected {count}, one for each lm, got {len(weights)}")
        for weight in weights:
            if not 0 <= weight < math.inf:
                raise ConfigError(f"lm_weight: expected 0 or more, got {weight}")

    @property
    def models(self) -> list[tuple[LM, float]]:
        """The language models of the search with their weights; those that weigh nothing are left out."""
        models = self.lm if isinstance(self.lm, tuple) else (self.lm,)
        weights = self.lm_weight if isinstance(self.lm_weight, tuple) else (self.lm_weight,) * len(models)
        return [(model, weight) for model, weight in zip(models, weights, strict=True) if model and weight]


@dataclass(frozen=True)
class Chunks:
    """The chunks that a bidirectional model streams in; a model directory may hold them as ``streaming.yaml``.

    The defaults are those of ``english`` (docs/streaming.md has the figures).
    """

    chunk_s: float = 0.64
    """Length of a chunk in seconds."""
    right_s: float = 0.64
    """Seconds behind a chunk that its backward direction sees; the text is late by at most both together."""

    def __post_init__(self) -> None:
        values = [loader.as_number(value, name) for name, value in dataclasses.asdict(self).items()]
        if not (0 < values[0] <= LONGEST_CHUNK_S and 0 <= values[1] <= LONGEST_CHUNK_S):
            raise ConfigError(
                f"expected chunk_s above 0 and right_s of 0 or more, {LONGEST_CHUNK_S} at most, got {values[0]} and "
                f"{values[1]}"
            )

    def describe(self) -> str:
        """A line for people, as those of ``option_sources.Choice.describe``."""
        late_s = self.chunk_s + self.right_s
        return f"{'stream':<17}chunks of {self.chunk_s:g} s + {self.right_s:g} s context, at most {late_s:g} s late"


def load_chunks(folder: Path) -> Chunks:
    """What a model directory says about its chunks, else the defaults. Raises ``ConfigError`` naming file and key."""
    path = model_file(folder, STREAMING_FILE)
    return loader.read_yaml(Chunks, path) if os.path.isfile(path) else Chunks()


class DecodingOptions(TypedDict, total=False):
    """The fields of ``Decoding`` as options of ``asr.load``; None leaves one as the model directory has it."""

    beam: int | None
    lm: LM | os.PathLike[str] | Sequence[LM | os.PathLike[str]] | None
    lm_weight: float | Sequence[float] | None
    lm_adapt: float | None
    lm_carry: bool | None
    word_bonus: float | None
    blank_penalty: float | None
    lexicon: str | os.PathLike[str] | None
    unknown_penalty: float | None
    hotwords: Mapping[str, float] | None
    rescore: LM | os.PathLike[str] | None
    rescore_weight: float | None
    rescore_keep: float | None
    nbest: int | None
    token_threshold: float | None
    beam_threshold: float | None
    blank_threshold: float | None
    language: str | None
    phrases: str | os.PathLike[str] | None
    speeds: Sequence[float] | None


def _as_text(place: Any) -> Any:
    """Paths as text, in lists too; anything else as it is."""
    if isinstance(place, list | tuple):
        return tuple(map(_as_text, place))
    return os.fspath(place) if isinstance(place, os.PathLike) else place


def load_options(folder: Path) -> Decoding:
    """What a model directory says about decoding, greedy where it says nothing; paths are taken from the directory.

    A model directory may be anybody's: its paths stay inside. Links are followed, which caches are made of. Raises
    ``ConfigError`` naming file and key.
    """
    path = model_file(folder, DECODING_FILE)
    if not os.path.isfile(path):
        return Decoding()
    options = loader.read_yaml(Decoding, path)
    places: dict[str, Any] = {
        name: _each(getattr(options, name), functools.partial(_inside, path.parent, name)) for name in PLACES
    }
    return dataclasses.replace(options, **places)


def _inside(folder: Path, name: str, value: str) -> str:
    """The path that a model directory's option names. Raises ``ConfigError`` where it leads out or to no file."""
    if not value:
        return ""
    expected = (
        f"{folder / DECODING_FILE}: {name}: expected a file or folder inside the model directory, got {value[:200]!r}"
    )
    if any(path.anchor or ".." in path.parts for path in (PurePosixPath(value), PureWindowsPath(value))):
        raise ConfigError(f"{expected}; an option of the command line or of asr.load may name any file")
    place = folder / value
    if os.path.exists(place) and not (os.path.isfile(place) or os.path.isdir(place)):
        raise ConfigError(f"{expected}, which is a device or a pipe")
    return str(place)


def save_options(folder: Path, options: Decoding) -> None:
    """Write ``decoding.yaml``, with the language models and the lexicon copied into ``lm/``, where older ones of the
    same options go. Raises ``ModelError``."""
    places: dict[str, Any] = {}
    copies: list[tuple[Path | Ngram, str]] = []
    for name in PLACES:
        if getattr(options, name):
            keep = functools.partial(_kept, folder, name, itertools.count(1), copies)
            places[name] = _each(getattr(options, name), keep)
    older = _saved(folder, places)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PART, dir=folder) as aside:
            # First what lies in the folder itself, so that nothing is written over before it is copied.
            for number, (source, name) in enumerate(copies):
                if isinstance(source, Path) and _lies_in(source, folder / LM_FOLDER, but=folder / name):
                    lm_directory.copy(source, Path(aside) / str(number))
                    copies[number] = Path(aside) / str(number), name
            for source, name in copies:
                (folder / LM_FOLDER).mkdir(exist_ok=True)
                if isinstance(source, Ngram):
                    write_arpa(source, folder / name)
                else:
                    lm_directory.copy(source, folder / name)
        with atomic(folder / DECODING_FILE) as path:
            path.write_text(loader.dumps(dataclasses.replace(options, **places)), encoding="utf-8")
        for old in set(older) - {folder / name for _, name in copies}:
            if old.parent == folder / LM_FOLDER and os.path.lexists(old):
                shutil.rmtree(old) if os.path.isdir(old) and not os.path.islink(old) else old.unlink()
    except OSError as error:
        raise ModelError(f"{folder}: cannot save how to decode: {error}") from error


def _each(places: Any, change: Callable[[Any], str]) -> Any:
    return tuple(map(change, places)) if isinstance(places, tuple) else change(places)


def _kept(folder: Path, option: str, numbers: Iterator[int], copies: list[tuple[Path | Ngram, str]], place: LM) -> str:
    """Where in a model directory what an option names will be, relative to it, as ``copies`` learns too."""
    number = next(numbers)
    name = f"{LM_FOLDER}/{option}{f'-{number}' if number > 1 else ''}"
    if isinstance(place, Ngram):
        copies.append((place, f"{name}.arpa"))
        return f"{name}.arpa"
    if isinstance(place, lm_directory.LanguageDirectory):
        place = str(place.path)
    if not isinstance(place, str):
        raise ModelError(f"{folder}: {option}: expected a language model from a file, got {name_of(place)}")
    source = Path(place)
    name += "".join(source.suffixes[-2:]) if os.path.isfile(source) else ""
    copies.append((source, name))
    return name


def _lies_in(source: Path, folder: Path, but: Path) -> bool:
    """Whether ``source`` is in ``folder`` and not at the place ``but``, where it stays."""
    source = source.resolve()
    return folder.resolve() in source.parents and source != but.resolve()


def _saved(folder: Path, options: Iterable[str]) -> list[Path]:
    """What the ``decoding.yaml`` of a model directory names for some options."""
    try:
        saved = load_options(folder)
    except ConfigError:  # it is about to be replaced
        return []
    places = (getattr(saved, name) for name in options)
    return [Path(place) for found in places for place in (found if isinstance(found, tuple) else (found,)) if place]
