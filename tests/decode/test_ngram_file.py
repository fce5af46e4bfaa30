"""N-grams in safetensors files: equal to their ARPA files to the last bit; whatever does not fit is refused."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr.decode.arpa import read_arpa, write_arpa
from asr.decode.kernel import NEVER
from asr.decode.ngram import Ngram
from asr.decode.ngram_arrays import SortedLevel, coded_arrays
from asr.decode.ngram_file import is_ngram_file, load_origin, open_ngram, write_ngram, write_ngram_arrays
from asr.errors import DecodeError

WORDS = ("B", "É", "A", "ZEBRA")
SLOW_OR_SHARED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
"""What hypothesis warns of: a busy machine, and folders that all examples write to."""
Entries = dict[tuple[str, ...], tuple[float, float]]


@st.composite
def listings(draw: st.DrawFn, most: float = 0.5) -> tuple[int, Entries]:
    """Entries of a back-off model in any order; any longer n-gram may be missing, whatever stands around it."""
    order = draw(st.integers(1, 5))
    score = st.floats(-9, 0)
    single = [*WORDS, *draw(st.lists(st.sampled_from(["<s>", "</s>", "<unk>"]), unique=True))]
    entries = {(word,): (draw(score), draw(st.floats(-3, most))) for word in single}
    for _ in range(draw(st.integers(0, 25)) if order > 1 else 0):
        key = tuple(draw(st.lists(st.sampled_from(single), min_size=2, max_size=order)))
        entries[key] = draw(score), draw(st.floats(-3, most))
    return order, entries


def by_hand(order: int, entries: Entries, context: Sequence[str], word: str) -> float:
    """Katz back-off over the listed n-grams."""
    single = {key[0] for key in entries if len(key) == 1}
    known = [w if w in single else "<unk>" for w in (*context, word)]
    if "<unk>" not in single and known[-1] == "<unk>":
        lost, kept = 0.0, known[max(0, len(known) - order) : -1]
        while kept:
            lost += entries.get(tuple(kept), (0.0, 0.0))[1]
            kept = kept[1:]
        return lost + NEVER
    key, total = tuple(known[max(0, len(known) - order) :]), 0.0
    while key not in entries:
        total += entries.get(key[:-1], (0.0, 0.0))[1]
        key = key[1:]
    return total + entries[key][0]


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW_OR_SHARED)
@given(listings())
def test_every_history_and_word_as_the_listed_ngrams_say(tmp_path: Path, listing: tuple[int, Entries]) -> None:
    order, entries = listing
    made = Ngram(order, entries)
    write_ngram(tmp_path / "n", made)
    opened = open_ngram(tmp_path / "n")
    for length in range(order + 1):
        for history in itertools.product(("<s>", "NEW", *WORDS[:3]), repeat=length):
            for word in (*WORDS, "</s>", "<unk>", "NEW"):
                wanted = by_hand(order, entries, history, word)
                assert made.log_prob(history, word) == pytest.approx(wanted, abs=1e-9)
                assert opened.log_prob(history, word) == made.log_prob(history, word)


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW_OR_SHARED)
@given(listings(most=0.0), st.lists(st.sampled_from([*WORDS, "NEW"]), max_size=8))
def test_a_file_scores_as_its_arpa_file_to_the_last_bit(
    tmp_path: Path, listing: tuple[int, Entries], sentence: list[str]
) -> None:
    write_arpa(Ngram(*listing), tmp_path / "a.arpa")
    arpa = read_arpa(tmp_path / "a.arpa")
    write_ngram(tmp_path / "n", arpa)
    opened = open_ngram(tmp_path / "n")
    assert opened == arpa
    assert (opened.score(sentence), opened.word_scores(sentence)) == (arpa.score(sentence), arpa.word_scores(sentence))
    assert opened.next_words(sentence, 100) == arpa.next_words(sentence, 100)
    write_arpa(opened, tmp_path / "again.arpa")
    assert (tmp_path / "again.arpa").read_bytes() == (tmp_path / "a.arpa").read_bytes()


def large(count: int, words: int, seed: int = 0, order: int = 3) -> Ngram:
    """An n-gram of random numbers."""
    rng = np.random.default_rng(seed)
    levels = [SortedLevel(np.zeros(words, int), np.arange(words), -rng.gamma(4, 2, words), -rng.random(words))]
    for _ in range(1, order):
        keys = np.unique(rng.integers(0, len(levels[-1].word) * words, count))
        values = -rng.gamma(2, 2, len(keys)), -rng.random(len(keys))
        levels.append(SortedLevel(keys // words, keys % words, *values))
    from asr.decode.ngram_arrays import build_arrays

    return Ngram.of(build_arrays(levels), [f"W{i}" for i in range(words)])


def test_more_words_than_16_bits_hold(tmp_path: Path) -> None:
    ngram = large(20_000, 70_000)
    write_ngram(tmp_path / "n", ngram)
    opened = open_ngram(tmp_path / "n")
    assert len(opened.arrays.word_high)
    assert opened.entries == ngram.entries
    keys = [key for key in ngram.entries if len(key) == 3][::50]
    assert [opened.log_prob(key[:-1], key[-1]) for key in keys] == [ngram.entries[key][0] for key in keys]


def test_codes_of_8_bits_are_near_and_small(tmp_path: Path) -> None:
    ngram = large(50_000, 5_000, order=4)
    write_ngram(tmp_path / "doubles", ngram)
    write_ngram(tmp_path / "codes", Ngram.of(coded_arrays(ngram.arrays), ngram.words))
    coded = open_ngram(tmp_path / "codes")
    assert (tmp_path / "codes").stat().st_size < 0.5 * (tmp_path / "doubles").stat().st_size
    exact, near = (arrays.log_probs_of(0, arrays.starts[-1]) for arrays in (ngram.arrays, coded.arrays))
    assert np.sqrt(np.mean((exact - near) ** 2)) < 0.02
    assert (near.min(), near.max()) == (exact.min(), exact.max())
    unigram = int(np.flatnonzero(ngram.arrays.backoffs_of(1, 5001) < -0.5)[0])
    assert coded.arrays.backoffs_of(1, 5001)[unigram] == pytest.approx(ngram.arrays.backoffs_of(1, 5001)[unigram], 0.05)
    text = [f"W{i}" for i in range(200)]
    assert coded.score(text) == pytest.approx(ngram.score(text), rel=2e-3)


def test_few_values_stay_exact_as_codes() -> None:
    ngram = Ngram(2, {("A",): (-1.0, -0.25), ("B",): (-99.0, 0.0), ("A", "B"): (-0.5, 0.0)})
    coded = Ngram.of(coded_arrays(ngram.arrays), ngram.words)
    assert coded.entries == ngram.entries


def test_every_array_has_the_same_type_whether_made_or_mapped(tmp_path: Path) -> None:
    """numba compiles the search once more for each type of arguments, and for arrays that cannot be written."""
    from numba import typeof

    from asr.decode.kernel import NO_NGRAM

    ngram = large(200, 50)
    write_ngram(tmp_path / "n", ngram)
    write_ngram(tmp_path / "codes", Ngram.of(coded_arrays(ngram.arrays), ngram.words))
    kinds = [
        typeof(found.search_arrays) for found in (ngram, open_ngram(tmp_path / "n"), open_ngram(tmp_path / "codes"))
    ]
    assert kinds == [typeof(NO_NGRAM)] * 3


def test_levels_are_written_and_the_origin_is_kept(tmp_path: Path) -> None:
    single = SortedLevel(np.zeros(2, int), np.arange(2), np.array([-1.0, -2.0]), np.array([-0.5, 0.0]))
    double = SortedLevel(np.array([0, 0]), np.array([0, 1]), np.array([-0.1, np.nan]), np.zeros(2))
    written = write_ngram_arrays(tmp_path / "deep" / "n", ["A", "B"], [single, double], made_of={"text": "t"})
    assert load_origin(tmp_path / "deep" / "n") == {"text": "t"}
    assert open_ngram(tmp_path / "deep" / "n") == written
    assert written.entries["A", "B"] == (-2.5, 0.0)  # not listed: as by backing off
    with pytest.raises(DecodeError, match="expected n-grams sorted by context and word"):
        write_ngram_arrays(tmp_path / "n", ["A", "B"], [single, SortedLevel(*(a[::-1] for a in vars(double).values()))])
    with pytest.raises(DecodeError, match="without a line feed"):
        write_ngram_arrays(tmp_path / "n", ["A", "B\nC"], [single])


SMALL = Ngram(
    4,
    {
        ("A",): (-1.0, -0.25), ("B",): (-2.0, 0.0), ("A", "B"): (-0.5, -0.125), ("B", "A"): (-0.5, -0.125),
        ("A", "B", "A"): (-0.25, -0.5), ("B", "A", "B"): (-0.1, -0.1), ("A", "B", "A", "B"): (-0.2, 0.0),
    },
)  # fmt: skip


def test_a_file_cut_short_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    write_ngram(tmp_path / "n", SMALL)
    data = (tmp_path / "n").read_bytes()
    for size in range(len(data)):
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(DecodeError, match=r"cut: (not a readable safetensors file|expected [\d,]+ bytes, got)"):
            open_ngram(tmp_path / "cut")
    (tmp_path / "long").write_bytes(data + b"x")
    with pytest.raises(DecodeError, match=r"long: expected [\d,]+ bytes, got"):
        open_ngram(tmp_path / "long")
    with pytest.raises(DecodeError, match="none: cannot read the n-gram"):
        open_ngram(tmp_path / "none")


@pytest.mark.parametrize("wrong", ["null", "-1", '"8"', "true", "1e3", "{}"])
def test_offsets_that_are_no_numbers_are_refused(tmp_path: Path, wrong: str) -> None:
    write_ngram(tmp_path / "good", SMALL)
    data = (tmp_path / "good").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].decode()
    end = json.loads(header)["words"]["data_offsets"][1]
    header = header.replace(f",{end}]", f",{wrong}]")
    (tmp_path / "bad").write_bytes(len(header).to_bytes(8, "little") + header.encode() + data[8 + length :])
    with pytest.raises(DecodeError, match="bad: not a readable safetensors file: offsets are no numbers"):
        open_ngram(tmp_path / "bad")


def rewrite(source: Path, target: Path, change: Callable[[dict[str, Any], dict[str, str]], None]) -> None:
    """A copy of a file whose tensors or metadata are changed."""
    data = source.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors = safetensors.numpy.load(data)
    metadata = header["__metadata__"]
    change(tensors, metadata)
    safetensors.numpy.save_file(tensors, target, metadata)


def put(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, str]], None]:
    def change(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
        if value is None:
            del tensors[name]
        elif callable(value):
            tensors[name] = np.asarray(value(tensors[name].copy()))
        else:
            tensors[name] = value

    return change


def at(place: int, value: Any) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values[place] = value
        return values

    return change


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("branch", at(1, 4_000_000_000)), ("branch", at(-1, 4_000_000_000)), ("branch", at(3, 0)), ("branch", at(0, 0)),
        ("branch", lambda values: values[:-1]), ("branch", None), ("branch", lambda values: values.astype(np.int64)),
        ("branch", lambda values: values[:, None]), ("word_low", at(3, 60_000)), ("word_low", at(1, 1)),
        ("word_low", lambda values: values[1:]), ("word_high", np.ones(20, np.uint8)),
        ("suffix", at(0, 4_000_000_000)), ("suffix", at(0, 8)), ("suffix", None),
        ("counts", at(0, -1)), ("counts", at(0, 2**62)), ("counts", at(1, 1)), ("counts", lambda values: values[:-1]),
        ("counts", np.zeros(200, np.int64)), ("counts", np.full(4, 2**62)),
        ("log_prob", at(2, math.nan)), ("log_prob", at(2, math.inf)), ("log_prob", at(2, -math.inf)),
        ("log_prob", at(2, -1e300)), ("words", np.frombuffer(b"A\nB C", np.uint8)),
        ("words", np.frombuffer(b"A\n", np.uint8)),
        ("log_prob", lambda values: values[1:]), ("log_prob", None), ("backoff", at(1, math.nan)),
        ("log_prob_code", np.zeros(20, np.uint8)), ("log_prob_level", np.zeros(4)), ("extra", np.zeros(4)),
        ("words", np.frombuffer(b"A", np.uint8)), ("words", np.frombuffer(b"A\n\xff", np.uint8)), ("words", None),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    write_ngram(tmp_path / "good", SMALL)
    rewrite(tmp_path / "good", tmp_path / "bad", put(name, value))
    with pytest.raises(DecodeError, match=r"bad: (damaged, or made by another program|not an n-gram): .+"):
        open_ngram(tmp_path / "bad")


@settings(max_examples=300, deadline=None, suppress_health_check=SLOW_OR_SHARED)
@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_any_byte_may_be_wrong_and_nothing_is_read_outside(tmp_path: Path, place: int, byte: int, coded: bool) -> None:
    """What is not noticed gives other numbers, which are finite, and every context exists."""
    from asr.decode import kernel

    ngram = Ngram.of(coded_arrays(SMALL.arrays), SMALL.words) if coded else SMALL
    write_ngram(tmp_path / "n", ngram)
    data = bytearray((tmp_path / "n").read_bytes())
    data[place % len(data)] = byte
    (tmp_path / "n").write_bytes(data)
    try:
        found = open_ngram(tmp_path / "n")
    except DecodeError:
        return
    for context in range(found.arrays.contexts):
        for word in range(-1, len(found.words) + 1):
            log_prob, leads = kernel.ngram(found.search_arrays, context, word)
            assert math.isfinite(log_prob)
            assert 0 <= leads < found.arrays.contexts


def test_other_kinds_and_versions_are_named(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"x": np.zeros(3)}, tmp_path / "weights")
    with pytest.raises(DecodeError, match=r"weights: expected an n-gram .*got other tensors, such as the weights"):
        open_ngram(tmp_path / "weights")
    write_ngram(tmp_path / "n", SMALL)
    rewrite(tmp_path / "n", tmp_path / "new", lambda _, metadata: metadata.update(version="2"))
    with pytest.raises(DecodeError, match=r"new: expected version 1 of the format asr-ngram, got '2'; make the file"):
        open_ngram(tmp_path / "new")
    assert is_ngram_file(tmp_path / "new")
    (tmp_path / "text").write_text("\\data\\\nngram 1=1\n")
    assert not is_ngram_file(tmp_path / "text")
    assert not is_ngram_file(tmp_path / "nothing")
