"""How a model's posteriors become text: options, the language models they name, and the decoder made of both."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from asr import decode, lm, settings
from asr.checkpoint import list_symbols
from asr.decode import Hypothesis, Phrase
from asr.decode.fusion import Fusion, score_sequences
from asr.decode.kenlm_binary import KenlmNgram
from asr.decode.ngram import Ngram
from asr.decode.phrases import answers, read_phrases
from asr.decode.words import read_lexicon
from asr.errors import ConfigError, DecodeError, ModelError
from asr.files import atomic
from asr.models.language import Adapter
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
    lm: str = ""
    """Language model in the search: a directory of ``asr train-lm``, or an ARPA file."""
    lm_weight: float = 0.5
    lm_adapt: float = 0.0
    """Rate at which a recurrent language model learns from what has been recognised, such as 0.1; 0 leaves it as it
    is. Utterances are then decoded one after the other."""
    word_bonus: float = 0.0
    """Added for each word; positive against deletions, negative against insertions."""
    lexicon: str = ""
    """File of the words that may be recognised, one a line; an n-gram without one allows the words that it knows."""
    unknown_penalty: float = -math.inf
    """Added for a word outside the lexicon (at most 0); ``-inf`` closes the vocabulary."""
    hotwords: dict[str, float] = field(default_factory=dict)
    """Boost of words and phrases, in natural logarithms; a lexicon learns them."""
    rescore: str = ""
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
            if isinstance(getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(getattr(self, name)))
        settings.check_types(self)
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
        for name in ("lm_weight", "lm_adapt", "rescore_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: expected 0 or more, got {getattr(self, name)}")


Search: TypeAlias = "decode.GreedySearch | decode.PhraseSearch | BeamSearch"


class Decoder:
    """Decodes batches of log-probabilities as ``options`` say, for the tokens of one acoustic model.

    Raises ``DecodeError``, ``ModelError`` or ``ConfigError`` naming a language model, word or option that cannot be
    used.
    """

    def __init__(self, options: Decoding, tokenizer: Tokenizer) -> None:
        self.options = options
        self.tokenizer = tokenizer
        self.fusion: Fusion | None = None
        self.adapter: Adapter | None = None
        ngram: Ngram | None = None
        if options.lm and options.lm_weight:
            model = load_lm(options.lm, tokenizer)
            if isinstance(model, KenlmNgram):
                raise DecodeError(f"{options.lm}: a KenLM binary can rescore only; the search needs its ARPA file")
            if isinstance(model, Ngram):
                ngram = model
            else:
                if options.lm_adapt:
                    self.adapter = Adapter(model.network, options.lm_adapt)
                self.fusion = Fusion(self.adapter.model if self.adapter else model.model, options.lm_weight)
        if options.lm_adapt and self.adapter is None:
            raise DecodeError("lm_adapt: expected a recurrent language model (lm), which n-grams are not")
        self.phrases: list[Phrase] = []
        """The closed list that answers come from; empty where there is none."""
        if options.phrases:
            self.phrases = read_phrases(options.phrases, tokenizer, options.language)
        self.phrase_of = {phrase.text: phrase for phrase in self.phrases}
        """Phrases by their text, which is the ``phrase`` of hypotheses."""
        self._listed = {way for phrase in self.phrases for way in phrase.spellings}
        self.rescorer = load_lm(options.rescore, tokenizer) if options.rescore and options.rescore_weight else None
        models = WordModels(
            read_lexicon(options.lexicon) if options.lexicon else (),
            ngram,
            options.lm_weight,
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
        if self.adapter is None:
            return self.nbest(log_probs, lengths, count)
        found = []
        for row in range(len(lengths)):
            matrix = log_probs[row : row + 1, : int(lengths[row])]
            found.append(self.nbest(matrix, lengths[row : row + 1], count)[0])
            self.adapter.learn(found[-1][0].tokens)
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
        if self.adapter is not None:
            self.adapter.learn(found[0].tokens)
        return found

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
            scores = score_sequences(self.rescorer.model, [h.tokens for h in flat])
        added = iter((self.options.rescore_weight * scores).tolist())
        rescored = []
        for nbest in lists:
            new = [
                dataclasses.replace(h, score=h.score + more, lm_score=h.lm_score + more)
                for h, more in zip(nbest, added, strict=False)
            ]
            rescored.append(sorted(new, key=lambda h: -h.score))
        return rescored


def load_lm(path: str, tokenizer: Tokenizer) -> lm.LanguageDirectory | Ngram | KenlmNgram:
    """A language model for an acoustic model's tokens. Raises ``DecodeError`` when it has others."""
    if not os.path.exists(path):
        raise ModelError(f"{path}: no such language model; expected a directory of asr train-lm or an ARPA file")
    model = lm.load(path)
    if isinstance(model, lm.LanguageDirectory) and model.tokenizer.symbols != tokenizer.symbols:
        raise DecodeError(
            f"{path}: the language model's tokens are {list_symbols(model.tokenizer)}, the acoustic model's "
            f"{list_symbols(tokenizer)}; train it with text.tokenizer={tokenizer.config.tokenizer} "
            "data.tokens=MODEL/tokens.txt"
        )
    return model


def load_options(folder: Path) -> Decoding:
    """What a model directory says about decoding, greedy where it says nothing; paths are taken from the directory.

    A model directory may be anybody's: its paths stay inside. Links are followed, which caches are made of. Raises
    ``ConfigError`` naming file and key.
    """
    path = folder / FILE
    if not os.path.isfile(path):
        return Decoding()
    options = settings.load(Decoding, path)
    places: dict[str, Any] = {name: _inside(folder, name, getattr(options, name)) for name in PLACES}
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
    """Write ``decoding.yaml``, with the language models and the lexicon copied into ``lm/``. Raises ``ModelError``."""
    try:
        places: dict[str, Any] = {}
        for name in PLACES:
            source = Path(getattr(options, name))
            if getattr(options, name):
                places[name] = str(
                    Path(LM_FOLDER) / f"{name}{''.join(source.suffixes[-2:]) if os.path.isfile(source) else ''}"
                )
                lm.copy(source, folder / places[name])
        with atomic(folder / FILE) as path:
            path.write_text(settings.dumps(dataclasses.replace(options, **places)), encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{folder}: cannot save how to decode: {error}") from error
