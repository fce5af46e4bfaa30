"""How a model's posteriors become text: options, the language models they name, and the decoder made of both."""

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
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np
import torch

from asr import decode, lm, settings
from asr.decode import Hypothesis, Phrase
from asr.decode.fusion import LanguageModel, score_sequences
from asr.decode.kenlm_binary import KenlmNgram
from asr.decode.ngram import Ngram, write_arpa
from asr.decode.phrases import answers, read_phrases
from asr.decode.words import read_lexicon
from asr.errors import ConfigError, ModelError
from asr.files import PART, atomic
from asr.language_models import LM, Context, LMs, for_search, matching, name_of
from asr.said import NO_LANGUAGE
from asr.spoken import language_code
from asr.text import Tokenizer
from asr.vocabulary import Vocabularies, Vocabulary, WordModels

if TYPE_CHECKING:
    from asr.decode import BeamSearch

FILE = "decoding.yaml"
LM_FOLDER = "lm"
DEFAULT_BEAM = 16
WIDE = ("lm", "lexicon", "hotwords", "rescore", "word_bonus")
"""Options that only the beam search knows."""
SEARCHING = (*WIDE, "lm_adapt")
PLACES = ("lm", "lexicon", "rescore", "phrases")
"""Options that are paths, which a model directory takes in."""


@dataclass(frozen=True)
class Decoding:
    """Options of decoding; a model directory may hold them, tuned for it, as ``decoding.yaml``.

    ``phrases`` and ``speeds`` need no search and allow none; ``unknown_penalty`` goes with either. Everything else but
    ``beam`` needs a beam above 1. Logarithms are natural.
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
    lexicon: str = ""
    """File of the words that may be recognised, one a line; an n-gram without one allows the words that it knows."""
    unknown_penalty: float = -math.inf
    """Added for a word outside the lexicon (at most 0); ``-inf`` closes the vocabulary."""
    hotwords: dict[str, float] = field(default_factory=dict)
    """Boost of words and phrases, in natural logarithms; a lexicon learns them."""
    rescore: LM = ""
    """Language model that the ``nbest`` of the search are scored by once more."""
    rescore_weight: float = 0.5
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
    """File of phrases, one a line, of which each utterance is one: the likeliest is the answer, and nothing is searched
    for. ``unknown_penalty`` above ``-inf`` allows an utterance to be none of them, whose text is then empty."""
    speeds: tuple[float, ...] = (1.0,)
    """Speeds at which the recording is heard; a phrase has the mean of its probabilities at all of them."""

    def __post_init__(self) -> None:
        for name in PLACES:
            object.__setattr__(self, name, _as_text(getattr(self, name)))
        settings.check_types(self)
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
                f"{', '.join(asked)}: expected nothing beside phrases, the likeliest of which is found without a search"
            )
        asked = [name for name in WIDE if getattr(self, name)]
        if self.beam == 1 and asked:
            raise ConfigError(f"{', '.join(asked)}: expected a beam above 1, got beam 1, which decodes greedily")
        if not self.speeds or not all(0.5 <= speed <= 2 for speed in self.speeds):
            raise ConfigError(f"speeds: expected one or more from 0.5 to 2, got {list(self.speeds)}")
        if self.speeds != (1.0,) and not self.phrases:
            raise ConfigError(
                f"speeds: expected phrases, the scores of which they share, got {list(self.speeds)} alone"
            )
        if self.phrases and not self.unknown_penalty <= 0:
            raise ConfigError(f"unknown_penalty: expected at most 0, got {self.unknown_penalty}")
        if self.lm_carry and not self.lm:
            raise ConfigError("lm_carry: expected a language model (lm), whose context goes on")
        for name in ("lm_adapt", "rescore_weight"):
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


class DecodingOptions(TypedDict, total=False):
    """The fields of ``Decoding`` as options of ``asr.load``; None leaves one as the model directory has it."""

    beam: int | None
    lm: LM | os.PathLike[str] | Sequence[LM | os.PathLike[str]] | None
    lm_weight: float | Sequence[float] | None
    lm_adapt: float | None
    lm_carry: bool | None
    word_bonus: float | None
    lexicon: str | os.PathLike[str] | None
    unknown_penalty: float | None
    hotwords: Mapping[str, float] | None
    rescore: LM | os.PathLike[str] | None
    rescore_weight: float | None
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


Search: TypeAlias = "decode.GreedySearch | decode.PhraseSearch | BeamSearch"


class Decoder:
    """Decodes batches of log-probabilities as ``options`` say, for the tokens of one acoustic model.

    Raises ``DecodeError``, ``ModelError`` or ``ConfigError`` naming a language model, word or option that cannot be
    used.
    """

    def __init__(self, options: Decoding, tokenizer: Tokenizer) -> None:
        self.options = options
        self.tokenizer = tokenizer
        found = self._models = for_search(options.models, tokenizer, options.lm_adapt)
        self.fusion, self.adapters = found.fusion, found.adapters
        self.phrases: list[Phrase] = []
        """The closed list that answers come from; empty where there is none."""
        if options.phrases:
            self.phrases = read_phrases(options.phrases, tokenizer, options.language)
        self.phrase_of = {phrase.text: phrase for phrase in self.phrases}
        """Phrases by their text, which is the ``phrase`` of hypotheses."""
        self._listed = {way for phrase in self.phrases for way in phrase.spellings}
        self.rescorer: Ngram | KenlmNgram | LanguageModel | None = None
        if options.rescore and options.rescore_weight:
            self.rescorer = matching(options.rescore, tokenizer)
        models = WordModels(
            read_lexicon(options.lexicon) if options.lexicon else (),
            found.ngram,
            found.ngram_weight,
            options.word_bonus,
            options.unknown_penalty,
        )
        reader = self.rescorer if isinstance(self.rescorer, Ngram) else None
        self._vocabularies = Vocabularies(tokenizer, models, options.language, (reader, options.rescore_weight))
        self.vocabulary = self.vocabulary_with(options.hotwords)
        """The words of the search, with the options' hot words."""

    def vocabulary_with(self, hotwords: Mapping[str, float]) -> Vocabulary:
        """The words of the search with other hot words. Raises ``DecodeError`` naming one that cannot be used."""
        return self._vocabularies.make(hotwords)

    def decode(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> list[Hypothesis]:
        """The best hypothesis of each row of ``(B, T, V)`` log-probabilities with ``(B,)`` valid frames."""
        return [found[0] for found in self.lists(log_probs, lengths)]

    def lists(self, log_probs: torch.Tensor, lengths: torch.Tensor, count: int = 1) -> list[list[Hypothesis]]:
        """As ``decode``, up to ``count`` hypotheses of each row, best first; greedy decoding has one."""
        if self.phrases:
            return self.answers(log_probs, lengths, self.phrase_scores(log_probs, lengths), count)
        if self.options.beam == 1:
            return [[hypothesis] for hypothesis in decode.greedy(log_probs, lengths)]
        if not self.adapters:
            return self.nbest(log_probs, lengths, count)
        found = []
        for row in range(len(lengths)):
            matrix = log_probs[row : row + 1, : int(lengths[row])]
            found.append(self.nbest(matrix, lengths[row : row + 1], count)[0])
            self._learn(found[-1][0])
        return found

    def phrase_scores(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> np.ndarray:
        """Natural log-probabilities ``(B, P + 1)`` of the phrases and, last, of anything else.

        Anything else is what greedy decoding gives, unless that is one of them, at the price of ``unknown_penalty``.
        """
        scores = decode.score_phrases(log_probs, self.phrases, lengths)
        other = np.full((len(scores), 1), -np.inf)
        if self.options.unknown_penalty > -math.inf:
            for row, free in enumerate(decode.greedy(log_probs, lengths)):
                if free.tokens in self._listed:
                    continue
                text = Phrase("", (free.tokens,))
                matrix = log_probs[row, : int(lengths[row])]
                other[row] = decode.score_phrases(matrix, [text])[0] + self.options.unknown_penalty
        return np.concatenate([scores, other], axis=1)

    def answers(
        self, log_probs: torch.Tensor, lengths: torch.Tensor, scores: np.ndarray, count: int = 1
    ) -> list[list[Hypothesis]]:
        """The phrases that are best by ``scores`` ``(B, P + 1)``, at most ``count`` of each row, with their times."""
        return [
            answers(log_probs[row, : int(length)], self.phrases, scores[row], count)
            for row, length in enumerate(lengths)
        ]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of a hypothesis' tokens."""
        return " ".join(self.vocabulary.texts(tokens))

    def continued(self, log_probs: torch.Tensor, context: Context, count: int = 1) -> tuple[list[Hypothesis], Context]:
        """As ``lists`` for one utterance ``(T, V)`` of a recording, with what was said before it; and what was said
        behind it, for the next one."""
        search = self.search()
        self.begin(search, self.vocabulary, context)
        search.accept(log_probs)
        found = self.finish(search, count)
        return found, self.following(context, found[0], self.vocabulary)

    def following(self, context: Context, hypothesis: Hypothesis, vocabulary: Vocabulary) -> Context:
        """What was said behind an utterance; always nothing without ``lm_carry``."""
        if not self.options.lm_carry:
            return context
        words = vocabulary.texts(hypothesis.tokens)
        return self._models.following(context, hypothesis.tokens, words)

    def begin(self, search: Search, vocabulary: Vocabulary, context: Context) -> None:
        """Let a search forget its frames and go on with a vocabulary behind a context."""
        if isinstance(search, decode.BeamSearch):
            search.begin(self._models.behind(vocabulary.arrays, context), context.state)
        else:
            search.start()

    def search(self) -> Search:
        """A search over one utterance whose frames come in pieces; ``finish`` ends it."""
        options = self.options
        if self.phrases:
            return decode.PhraseSearch(self._answer)
        if options.beam == 1:
            return decode.GreedySearch()
        return decode.BeamSearch(
            beam=options.beam,
            token_threshold=options.token_threshold,
            beam_threshold=options.beam_threshold,
            blank_threshold=options.blank_threshold,
            words=self.vocabulary.arrays,
            lm=self.fusion,
        )

    def _answer(self, matrix: np.ndarray) -> list[Hypothesis]:
        """The likeliest phrase of a whole utterance's log-probabilities ``(T, V)``."""
        return self.lists(torch.from_numpy(matrix)[None], torch.tensor([len(matrix)]))[0]

    def accept(self, searches: Sequence[Search], matrices: Sequence[torch.Tensor]) -> None:
        """Feed each search its next frames ``(T, V)``, the language model being asked for all searches at once."""
        if self.options.beam > 1:
            decode.accept_all([search for search in searches if isinstance(search, decode.BeamSearch)], matrices)
            return
        for search, matrix in zip(searches, matrices, strict=True):
            search.accept(matrix)

    def finish(self, search: Search, count: int = 1) -> list[Hypothesis]:
        """The final hypotheses of a search, at least one, rescored where that is asked for; the search begins anew."""
        found = search.finish(1 if self.options.beam == 1 else self._depth(count))
        if self.rescorer:
            found = self._rescore([found])[0]
        self._learn(found[0])
        return found

    def _learn(self, hypothesis: Hypothesis) -> None:
        for adapter in self.adapters:
            adapter.learn(hypothesis.tokens)

    def _depth(self, count: int) -> int:
        """Hypotheses to ask the search for."""
        return min(max(count, self.options.nbest if self.rescorer else 1), self.options.beam)

    def nbest(self, log_probs: torch.Tensor, lengths: torch.Tensor, count: int = 1) -> list[list[Hypothesis]]:
        """Hypotheses of the beam search, rescored where that is asked for, best first."""
        options = self.options
        lists = decode.beam_search(
            log_probs,
            lengths,
            beam=options.beam,
            token_threshold=options.token_threshold,
            beam_threshold=options.beam_threshold,
            blank_threshold=options.blank_threshold,
            words=self.vocabulary.arrays,
            lm=self.fusion,
            nbest=self._depth(count),
            threads=torch.get_num_threads(),
        )
        return self._rescore(lists) if self.rescorer else lists

    def _rescore(self, lists: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
        """Add the rescoring model's weighted score to each hypothesis and sort; all are scored in one batch."""
        flat = [hypothesis for nbest in lists for hypothesis in nbest]
        if isinstance(self.rescorer, Ngram | KenlmNgram):
            scores = np.array([self.rescorer.score(self.vocabulary.texts(h.tokens)) for h in flat])
        else:
            assert self.rescorer is not None
            scores = score_sequences(self.rescorer, [h.tokens for h in flat])
        added = iter((self.options.rescore_weight * scores).tolist())
        rescored = []
        for nbest in lists:
            new = [
                dataclasses.replace(h, score=h.score + more, lm_score=h.lm_score + more)
                for h, more in zip(nbest, added, strict=False)
            ]
            rescored.append(sorted(new, key=lambda h: -h.score))
        return rescored


def load_options(folder: Path) -> Decoding:
    """What a model directory says about decoding, greedy where it says nothing; paths are taken from the directory.

    A model directory may be anybody's: its paths stay inside. Links are followed, which caches are made of. Raises
    ``ConfigError`` naming file and key.
    """
    path = folder / FILE
    if not os.path.isfile(path):
        return Decoding()
    options = settings.load(Decoding, path)
    places: dict[str, Any] = {
        name: _each(getattr(options, name), functools.partial(_inside, folder, name)) for name in PLACES
    }
    return dataclasses.replace(options, **places)


def _inside(folder: Path, name: str, value: str) -> str:
    """The path that a model directory's option names. Raises ``ConfigError`` where it leads out or to no file."""
    if not value:
        return ""
    expected = f"{folder / FILE}: {name}: expected a file or folder inside the model directory, got {value[:200]!r}"
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
                    lm.copy(source, Path(aside) / str(number))
                    copies[number] = Path(aside) / str(number), name
            for source, name in copies:
                (folder / LM_FOLDER).mkdir(exist_ok=True)
                if isinstance(source, Ngram):
                    write_arpa(source, folder / name)
                else:
                    lm.copy(source, folder / name)
        with atomic(folder / FILE) as path:
            path.write_text(settings.dumps(dataclasses.replace(options, **places)), encoding="utf-8")
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
    if isinstance(place, lm.LanguageDirectory):
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
