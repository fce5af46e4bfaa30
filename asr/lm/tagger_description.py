"""The folder of a network that gives each spoken word its case and the mark behind it; needs no torch.

Words go in one by one; the output for a word comes ``lookahead`` words later, so that a text can be tagged while it is
spoken. A word outside the vocabulary is known by its last three letters only. Runs of words that end get ``END`` words
behind them.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr.config.language import NetworkConfig
from asr.errors import ModelError
from asr.files import read_object, write_json
from asr.text.written_tags import TAG_CASES, TAG_MARKS

UNKNOWN, END = 0, 1
"""Ids of words outside the vocabulary, and of the end of a text."""
SUFFIX_BUCKETS = 2048
"""Buckets of the last three letters."""
SUFFIX_EMBEDDING = 32
"""Numbers that each of them is embedded in."""
DESCRIPTION = "readable.json"


def suffix_bucket(word: str) -> int:
    """The bucket of a word's last three letters, from 0 to ``SUFFIX_BUCKETS - 1``; the same on every machine."""
    return zlib.crc32(word[-3:].encode()) % SUFFIX_BUCKETS


@dataclass(frozen=True)
class TaggerDescription:
    """What a folder says beside the weights.

    ``words``: the vocabulary in the order of its ids, behind ``UNKNOWN`` and ``END``. ``mixed``: how words with
    capitals inside are written. ``network``: sizes; only LSTM layers.
    """

    words: tuple[str, ...]
    lookahead: int = 4
    language: str = "en"
    mixed: Mapping[str, str] = field(default_factory=dict)
    network: NetworkConfig = field(default_factory=NetworkConfig)

    def ids(self) -> dict[str, int]:
        """The id of each word."""
        return {word: at for at, word in enumerate(self.words, start=END + 1)}

    def save(self, folder: Path) -> None:
        """Write ``readable.json``. Raises ``ModelError``."""
        config = self.network
        tree = {
            "format": 1,
            "language": self.language,
            "lookahead": self.lookahead,
            "cases": list(TAG_CASES),
            "marks": list(TAG_MARKS),
            "layers": config.layers,
            "hidden": config.hidden,
            "embedding": config.embedding,
            "mixed": dict(self.mixed),
            "words": " ".join(self.words),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / DESCRIPTION, tree)
        except OSError as error:
            raise ModelError(f"{folder}: cannot write the folder of a tagger: {error}") from error


def read_tagger_description(folder: Path) -> TaggerDescription:
    """Read ``readable.json``. Raises ``ModelError`` naming what is missing or what no tagger can say."""
    path = folder / DESCRIPTION
    if not os.path.isfile(path):
        raise ModelError(
            f"{folder}: not the folder of a tagger: {DESCRIPTION} is missing; asr train-readable makes one"
        )
    tree = read_object(path, "the description of a tagger")
    made_of = {"format": 1, "cases": list(TAG_CASES), "marks": list(TAG_MARKS)}
    for key, value in made_of.items():
        if tree.get(key) != value:
            raise ModelError(f"{path}: {key}: expected {value}, got {tree.get(key)!r:.80}; get the folder again")
    words, mixed = tree.get("words"), tree.get("mixed")
    if not isinstance(words, str) or len(set(words.split())) != len(words.split()) or not words.split():
        raise ModelError(f"{path}: words: expected different words with spaces between, got {words!r:.80}")
    spellings = isinstance(mixed, dict) and all(isinstance(v, str) and v.lower() == k for k, v in mixed.items())
    if not isinstance(mixed, dict) or not spellings:
        raise ModelError(f"{path}: mixed: expected spellings such as McDonald by word, got {mixed!r:.80}")
    sizes = {key: _whole(path, tree, key, 4096) for key in ("layers", "hidden", "embedding")}
    language = tree.get("language")
    if not isinstance(language, str):
        raise ModelError(f"{path}: language: expected a code such as en, got {language!r:.80}")
    return TaggerDescription(
        tuple(words.split()), _whole(path, tree, "lookahead", 64), language, mixed, NetworkConfig("lstm", **sizes)
    )


def _whole(path: Path, tree: Mapping[str, Any], key: str, most: int) -> int:
    value = tree.get(key)
    if type(value) is not int or not 1 <= value <= most:
        raise ModelError(f"{path}: {key}: expected a whole number from 1 to {most}, got {value!r:.40}")
    return value


def tagger_shapes(description: TaggerDescription) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the weights of ``asr.lm.tagger.Tagger``."""
    config = description.network
    hidden, inputs = config.hidden, config.embedding + SUFFIX_EMBEDDING
    outputs = len(TAG_CASES) + len(TAG_MARKS)
    shapes: dict[str, tuple[int, ...]] = {
        "words.weight": (len(description.words) + END + 1, config.embedding),
        "suffixes.weight": (SUFFIX_BUCKETS, SUFFIX_EMBEDDING),
        "output.weight": (outputs, hidden),
        "output.bias": (outputs,),
    }
    for at in range(config.layers):
        shapes |= {
            f"cells.{at}.weight_ih_l0": (4 * hidden, inputs if at == 0 else hidden),
            f"cells.{at}.weight_hh_l0": (4 * hidden, hidden),
            f"cells.{at}.bias_ih_l0": (4 * hidden,),
            f"cells.{at}.bias_hh_l0": (4 * hidden,),
        }
    return shapes


def encode_words(words: Sequence[str], ids: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """Ids and suffix buckets of words in small letters."""
    return [ids.get(word, UNKNOWN) for word in words], [suffix_bucket(word) for word in words]
