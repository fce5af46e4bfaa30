"""Loads the language models of a search, checks their tokens, and combines several into one."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from asr.config.sections import TextConfig
from asr.decode import kernel
from asr.decode.fusion import Fusion, LanguageModel, score_sequences
from asr.decode.kenlm_binary import KenlmNgram
from asr.decode.mixture_cache import kept_mixture
from asr.decode.mixtures import Mixture
from asr.decode.ngram import Ngram
from asr.errors import DecodeError, ModelError
from asr.lm import lm_directory
from asr.lm.lm_directory import LM, LanguageDirectory, name_of
from asr.lm.onnx_lm import OnnxLM
from asr.models.description import list_symbols
from asr.recognize.loading import LanguageGraph, is_language_graph, load_language_graph
from asr.text.normalisation import normalise
from asr.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from asr.lm.recurrent import Adapter


@dataclass(frozen=True)
class Context:
    """The context before an utterance: the last ``words`` for an n-gram, and the ``state`` of a model over tokens.

    ``words`` are in the n-gram's spelling. ``state`` is that of one sequence; None means no context.
    """

    words: tuple[str, ...] = ()
    state: Any = None


@dataclass(frozen=True)
class SearchModels:
    """The language models of a search: a word n-gram, a model over tokens, their weights, the models that adapt."""

    ngram: Ngram | None = None
    ngram_weight: float = 1.0
    fusion: Fusion | None = None
    adapters: tuple[Adapter, ...] = ()
    text: TextConfig = field(default_factory=TextConfig)
    """How the acoustic model writes words."""

    def following(self, context: Context, tokens: Sequence[int], words: Sequence[str]) -> Context:
        """The context after an utterance with these ``tokens`` and ``words``; without tokens it does not change."""
        if not tokens:
            return context
        kept: tuple[str, ...] = ()
        if self.ngram is not None and self.ngram.order > 1:
            kept = (*context.words, *(self._forms.get(word, word) for word in words))[1 - self.ngram.order :]
        state = context.state
        if self.fusion is not None:
            model = self.fusion.model
            state = model.start(1) if state is None else state
            for token in (kernel.BLANK_ID, *tokens):  # the first stands for the end of the sentence before
                _, state = model.advance(state, np.array([token]))
        return Context(kept, state)

    def behind(self, arrays: kernel.Words | None, context: Context) -> kernel.Words | None:
        """A vocabulary's arrays for an utterance with something before it."""
        if arrays is None or self.ngram is None or not context.words:
            return arrays
        ids = arrays.ids.copy()
        ids[kernel.START] = self.ngram.context_after(context.words)
        return arrays._replace(ids=ids)

    def weighted_scores(
        self, tokens: Sequence[Sequence[int]], words: Sequence[Sequence[str]]
    ) -> npt.NDArray[np.float64]:
        """What the search's models add to whole hypotheses without a context, given as tokens and as words."""
        found = np.zeros(len(tokens))
        if self.ngram is not None:
            texts = [[self._forms.get(word, word) for word in text] for text in words]
            found += self.ngram_weight * np.array([self.ngram.score(text) for text in texts], np.float64)
        if self.fusion is not None:
            found += self.fusion.weight * score_sequences(self.fusion.model, tokens)
        return found

    @functools.cached_property
    def _forms(self) -> dict[str, str]:
        """The n-gram's words by how the acoustic model writes them."""
        found: dict[str, str] = {}
        for word in self.ngram.words if self.ngram is not None else ():
            found.setdefault(normalise(word, self.text), word)
        return found


def for_search(
    models: Sequence[tuple[LM, float]], tokenizer: Tokenizer, adapt: float = 0.0, as_graphs: bool = False
) -> SearchModels:
    """Language models with their weights; models over tokens learn at the rate ``adapt``. ``as_graphs``: see
    ``load_source``.

    Raises ``ModelError`` and ``DecodeError`` naming a model that cannot be used.
    """
    ngrams: list[tuple[Ngram, float]] = []
    over_tokens: list[tuple[LanguageModel, float]] = []
    adapters: list[Adapter] = []
    for source, weight in models:
        model = matching(source, tokenizer, as_graphs and not adapt)
        if isinstance(model, KenlmNgram):
            raise DecodeError(f"{name_of(source)}: a KenLM binary can rescore only; the search needs its ARPA file")
        if isinstance(model, Ngram):
            ngrams.append((model, weight))
            continue
        if adapt:
            adapters.append(_adapter(model, name_of(source), adapt))
            model = adapters[-1].model
        over_tokens.append((model, weight))
    if adapt and not adapters:
        raise DecodeError("lm_adapt: expected a recurrent language model (lm), got only n-grams; leave lm_adapt out")
    fusion = None
    if over_tokens:
        fusion = Fusion(*over_tokens[0]) if len(over_tokens) == 1 else Fusion(Mixture(over_tokens))
    if len(ngrams) > 1:
        ngrams = [(kept_mixture([ngram for ngram, _ in ngrams], [weight for _, weight in ngrams]), 1.0)]
    ngram, weight = ngrams[0] if ngrams else (None, 1.0)
    return SearchModels(ngram, weight, fusion, tuple(adapters), tokenizer.config)


def _adapter(model: LanguageModel, name: str, rate: float) -> Adapter:
    if isinstance(model, OnnxLM):
        raise DecodeError(f"lm_adapt: {name}: a language model that onnxruntime runs cannot learn; leave lm_adapt out, "
                          "or install torch and give the directory of asr train-lm")  # fmt: skip
    from asr.lm.recurrent import Adapter, RecurrentLM  # here, because nothing else here needs torch

    if not isinstance(model, RecurrentLM):
        raise DecodeError(f"lm_adapt: expected a recurrent language model, got {name}")
    return Adapter(model.network, rate)


def matching(source: LM, tokenizer: Tokenizer, as_graphs: bool = False) -> Ngram | KenlmNgram | LanguageModel:
    """A language model for an acoustic model's tokens; ``as_graphs``: see ``load_source``.

    Raises ``ModelError`` where there is none, ``DecodeError`` when it has others.
    """
    loaded, name = load_source(source, as_graphs), name_of(source)
    if isinstance(loaded, LanguageDirectory | LanguageGraph):
        if loaded.tokenizer.symbols != tokenizer.symbols:
            raise DecodeError(
                f"{name}: the language model's tokens are {list_symbols(loaded.tokenizer)}, the acoustic model's "
                f"{list_symbols(tokenizer)}; train it with text.tokenizer={tokenizer.config.tokenizer} "
                "data.tokens=MODEL/tokens.txt, or let it rescore (rescore)"
            )
        return loaded.model
    require_same_tokens(loaded, name, tokenizer)
    return loaded


def load_source(
    source: LM, as_graphs: bool = False
) -> Ngram | KenlmNgram | LanguageDirectory | LanguageGraph | LanguageModel:
    """A language model from its path, or as it is; with ``as_graphs`` onnxruntime runs it, also where torch could.

    Raises ``ModelError`` where there is none.
    """
    if not isinstance(source, str):
        return source
    if not os.path.exists(source):
        raise ModelError(f"{source}: no such language model; expected a directory of asr train-lm or a word n-gram")
    as_graph = os.path.isdir(source) and is_language_graph(source, as_graphs)
    return load_language_graph(source) if as_graph else lm_directory.load_language_model(source)


def require_same_tokens(model: Ngram | KenlmNgram | LanguageModel, name: str, tokenizer: Tokenizer) -> None:
    """Raise ``DecodeError`` for a model over another number of tokens than the tokenizer has."""
    if not isinstance(model, Ngram | KenlmNgram) and model.vocab_size != tokenizer.vocab_size:
        raise DecodeError(
            f"{name}: the language model knows {model.vocab_size} tokens, the acoustic model {tokenizer.vocab_size}"
        )
