"""Mixtures of large n-grams: made once, never taken for others, small or damaged files."""

import os
from pathlib import Path

import pytest

from asr.config.sections import TextConfig
from asr.decode import mixture_cache
from asr.decode.lexicon import pack_lexicon
from asr.decode.mixture_cache import kept_mixture
from asr.decode.mixtures import mixed_ngrams
from asr.decode.ngram import Ngram
from asr.decode.ngram_cache import keep_tree
from asr.text.tokenizer import CharTokenizer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where mixtures are kept; every one counts as large."""
    monkeypatch.setattr(mixture_cache, "MANY_NGRAMS", 1)
    monkeypatch.setattr(mixture_cache, "user_cache", lambda: tmp_path)
    return tmp_path / "mixtures"


def ngram(*words: str, value: float = -1.0) -> Ngram:
    entries = {("<s>",): (-99.0, -0.3), ("</s>",): (-1.0, 0.0), ("<unk>",): (-3.0, 0.0)}
    entries |= {(word,): (value, -0.5) for word in words} | {("<s>", words[0]): (-0.1, 0.0)}
    return Ngram(2, entries)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_mixture_is_made_once_and_is_the_same(folder, monkeypatch, capsys):
    parts, weights = [ngram("A", "B"), ngram("B", "C", value=-1.7)], [0.3, 0.6]
    first = kept_mixture(parts, weights)
    assert first == mixed_ngrams(parts, weights)
    assert capsys.readouterr().err == "mixing the n-grams, once\n"
    monkeypatch.setattr(mixture_cache, "mixed_ngrams", lambda *_: pytest.fail("made again"))
    again = kept_mixture([ngram("A", "B"), ngram("B", "C", value=-1.7)], weights)
    assert again == first
    assert capsys.readouterr().err == ""
    assert len(names(folder)) == 1


def test_other_weights_words_values_and_orders_are_other_mixtures(folder):
    a, b = ngram("A", "B"), ngram("B", "C", value=-1.7)
    for parts, weights in (
        ([a, b], [0.3, 0.6]), ([a, b], [0.3, 0.61]), ([b, a], [0.3, 0.6]),
        ([a, ngram("B", "D", value=-1.7)], [0.3, 0.6]),
        ([a, ngram("B", "C", value=-1.71)], [0.3, 0.6]),
    ):  # fmt: skip
        assert kept_mixture(parts, weights) == mixed_ngrams(parts, weights)
    assert len(names(folder)) == 5


def test_a_damaged_mixture_is_made_anew(folder):
    parts, weights = [ngram("A", "B"), ngram("C")], [0.5, 0.5]
    kept_mixture(parts, weights)
    (place,) = folder.iterdir()
    place.write_bytes(place.read_bytes()[:-9])
    assert kept_mixture(parts, weights) == mixed_ngrams(parts, weights)
    assert kept_mixture(parts, weights) == mixed_ngrams(parts, weights)


def test_a_lexicon_s_tree_is_kept_with_the_mixture(folder):
    parts, weights = [ngram("A", "B"), ngram("C")], [0.5, 0.5]
    mixture = kept_mixture(parts, weights)
    assert not mixture.trees
    tokens = CharTokenizer(["<blank>", " ", *"ABC"], TextConfig())
    tree = pack_lexicon(tokens.spellings, tokens.vocab_size, tokens.space_id, lexicon=(), ngram=mixture)
    keep_tree(mixture, "letters", tree)
    found = kept_mixture(parts, weights)
    assert found == mixture
    assert {name: values.tolist() for name, values in found.trees["letters"].items()} == {
        name: values.tolist() for name, values in tree.items() if values.size
    }


def test_small_mixtures_leave_nothing_behind(folder, monkeypatch):
    monkeypatch.setattr(mixture_cache, "MANY_NGRAMS", 1000)
    kept_mixture([ngram("A"), ngram("B")], [0.5, 0.5])
    assert names(folder) == []


def test_only_the_last_used_are_kept(folder, monkeypatch):
    monkeypatch.setattr(mixture_cache, "MOST_KEPT", 3)
    parts = [ngram("A"), ngram("B")]
    for number in range(5):
        kept_mixture(parts, [0.5, number])
        for path in folder.iterdir():  # each is a minute older than the next
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 60))
        if number == 2:
            first = kept_mixture(parts, [0.5, 0])
    assert len(names(folder)) == 3
    assert kept_mixture(parts, [0.5, 0]) == first
    assert len(names(folder)) == 3  # it was still there


def test_where_nothing_can_be_written_a_note_says_so(folder, capsys):
    folder.write_text("a file in the way")
    parts, weights = [ngram("A"), ngram("B")], [0.5, 0.5]
    assert kept_mixture(parts, weights) == mixed_ngrams(parts, weights)
    assert "note: the mixture cannot be kept, and every start makes it anew" in capsys.readouterr().err
