"""Counts on disk: runs that are merged give what one run gives, and memory that is given back keeps its content."""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.lm import kneser_ney, ngram_counts
from asr.lm.ngram_counts import DiskArrays, count_ngrams, number_words, release, sums

DISK = DiskArrays()


def counted(sentences: list[str], order: int) -> list[dict[tuple[str, ...], int]]:
    text = number_words(sentences, DISK)
    found: list[dict[tuple[str, ...], int]] = []
    keys: list[tuple[str, ...]] = [()]
    for table in count_ngrams(text, order, DISK):
        keys = [(*keys[c], text.words[w]) for c, w in zip(table.context, table.word, strict=True)]
        found.append({key: int(count) for key, count in zip(keys, table.counts, strict=True) if count})
    return found


def by_hand(sentences: list[str], order: int) -> list[dict[tuple[str, ...], int]]:
    found: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        words = ("<s>", *sentence.split(), "</s>")
        for n in range(1, order + 1):
            found[n - 1].update(words[at : at + n] for at in range(len(words) - n + 1))
    del found[0]["<s>",]
    return [dict(one) for one in found]


SENTENCES = st.lists(st.lists(st.sampled_from("ABCDEF"), min_size=1, max_size=8).map(" ".join), min_size=1, max_size=20)


@pytest.mark.parametrize("size", [3, 16, 64])
@settings(deadline=None, max_examples=40)
@given(SENTENCES, st.integers(1, 5))
def test_merged_runs_count_as_by_hand(size: int, sentences: list[str], order: int) -> None:
    whole = ngram_counts.ELEMENTS
    ngram_counts.ELEMENTS = size
    try:
        assert counted(sentences, order) == by_hand(sentences, order)
    finally:
        ngram_counts.ELEMENTS = whole


@pytest.mark.parametrize("order", [1, 3, 5])
def test_estimates_do_not_depend_on_the_size_of_runs(monkeypatch: pytest.MonkeyPatch, order: int) -> None:
    draw = random.Random(1)
    text = [" ".join(draw.choices("ABCDEFGHIJ", k=draw.randint(1, 12))) for _ in range(300)]
    whole = kneser_ney.estimate(text, order)
    monkeypatch.setattr(ngram_counts, "ELEMENTS", 100)
    parts = kneser_ney.estimate(text, order)
    assert parts.words == whole.words
    for ours, theirs in zip(parts.tables, whole.tables, strict=True):
        assert np.array_equal(ours.context, theirs.context)
        assert np.array_equal(ours.suffix, theirs.suffix)
        np.testing.assert_allclose(ours.log_prob, theirs.log_prob, atol=1e-12)
        np.testing.assert_allclose(ours.backoff, theirs.backoff, atol=1e-12)


def test_released_memory_keeps_its_content() -> None:
    array = DISK.make(100_000, np.int32)
    array[:] = np.arange(100_000)
    release(array)
    assert np.array_equal(array, np.arange(100_000))


def test_sums_by_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_counts, "ELEMENTS", 2)
    assert sums(np.array([0, 0, 2, 2, 2]), np.array([1, 2, 3, 4, 5]), 4).tolist() == [3, 0, 12, 0]


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    kneser_ney.estimate(["A B C", "A B D"], 3, DiskArrays(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_and_kills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        DISK.make(10, np.int32)


def test_a_limited_text_has_one_word_for_all_others() -> None:
    text = number_words(["A B C", "B D"], DISK)
    limited = text.limited([text.words.index("B")])
    assert limited.words == ["<unk>", "<s>", "</s>", "B", "<unk>"]
    assert limited.tokens.tolist() == [1, 4, 3, 4, 2, 1, 3, 4, 2]
