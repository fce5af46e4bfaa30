"""Modified Kneser-Ney: the values of KenLM's lmplz, probabilities that sum to one, pruning by the definition.

``lmplz/*.arpa.gz`` were made by KenLM (commit 4cb443e), for NAME in sentence, commands, text and N from 1 to 5:

    lmplz -o N --discount_fallback --text NAME.txt | gzip -n9 > NAME.N.arpa.gz
"""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.cli import main
from asr.decode.arpa import read_arpa
from asr.decode.ngram import LN10, Ngram
from asr.lm import kneser_ney, pruning
from asr.lm.ngram_training import read_sentences, train_ngram

LMPLZ = Path(__file__).parents[1] / "lmplz"
NAMES = ("sentence", "commands", "text")
FALLBACKS = {
    ("sentence", 5): (1, 2, 3, 4, 5),
    ("commands", 3): (1,),
    ("text", 5): (),
}
"""The orders for which lmplz says that it substitutes fallback discounts."""


def sentences(name: str) -> list[str]:
    return read_sentences(LMPLZ / f"{name}.txt")


def train(name: str, folder: Path, order: int, prune: float = 0.0) -> Ngram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train_ngram(LMPLZ / f"{name}.txt", folder / "lm.arpa", order=order, prune=prune)
    return read_arpa(folder / "lm.arpa")


def mass(ngram: Ngram, context: tuple[str, ...]) -> float:
    return sum(math.exp(ngram.log_prob(context, word)) for word in ngram.words if word != "<s>")


@pytest.mark.parametrize(("name", "order"), list(itertools.product(NAMES, range(1, 6))))
def test_equals_lmplz(tmp_path: Path, name: str, order: int) -> None:
    theirs, ours = read_arpa(LMPLZ / f"{name}.{order}.arpa.gz"), train(name, tmp_path, order)
    assert ours.entries.keys() == theirs.entries.keys()
    for key, (log_prob, backoff) in theirs.entries.items():
        assert ours.entries[key] == pytest.approx((log_prob, backoff), abs=5e-6)


@pytest.mark.parametrize(("name", "order"), FALLBACKS)
def test_the_orders_with_fallback_discounts_are_those_of_lmplz(name: str, order: int) -> None:
    assert kneser_ney.estimate(sentences(name), order).fallbacks == FALLBACKS[name, order]


@pytest.mark.parametrize(("name", "order"), list(itertools.product(NAMES, range(1, 6))))
def test_probabilities_sum_to_one_after_every_history(tmp_path: Path, name: str, order: int) -> None:
    ngram = train(name, tmp_path, order)
    contexts = {key[:-1] for key in ngram.entries} | {("<unk>",), ("<unk>", "<unk>")}
    assert all(mass(ngram, context) == pytest.approx(1, abs=1e-4) for context in contexts)


@pytest.mark.parametrize(("name", "order"), list(itertools.product(NAMES, range(2, 6))))
def test_a_seen_ngram_is_never_below_its_back_off(tmp_path: Path, name: str, order: int) -> None:
    ngram = train(name, tmp_path, order)
    for key, (log_prob, _) in ngram.entries.items():
        if len(key) > 1:
            assert log_prob >= ngram.entries[key[:-1]][1] + ngram.log_prob(key[1:-1], key[-1]) - 1e-5


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from("ABCDE"), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=12),
    st.integers(1, 5),
)
def test_any_text_gives_probabilities(text: list[str], order: int) -> None:
    ngram = kneser_ney.estimate(text, order).ngram()
    for context in {key[:-1] for key in ngram.entries}:
        assert mass(ngram, context) == pytest.approx(1, abs=1e-6)


def test_discounts_by_hand() -> None:
    # Y = 10 / (10 + 2 * 5); D1 = 1 - 2 Y 5/10, D2 = 2 - 3 Y 2/5, D3 = 3 - 4 Y 1/2
    assert kneser_ney.discounts([0, 10, 5, 2, 1]) == pytest.approx((0, 0.5, 1.4, 2.0))


@pytest.mark.parametrize("seen", [(0, 0, 5, 2, 1), (0, 10, 0, 2, 1), (0, 10, 5, 0, 1), (0, 10, 5, 1, 9)])
def test_counts_of_counts_that_allow_no_discounts(seen: tuple[int, ...]) -> None:
    assert kneser_ney.discounts(seen) is None


def test_fallback_discounts_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = str(LMPLZ / "sentence.txt")
    assert main.run_command(["train-ngram", text, str(tmp_path / "a.arpa"), "--order", "2"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("note: orders 1 and 2: ")
    assert "discounts 0.5, 1 and 1.5" in printed.err
    assert printed.out == f"{tmp_path / 'a.arpa'}: 8 1-grams, 6 2-grams\n"
    with pytest.warns(UserWarning, match="orders 1 and 2"):
        train_ngram(text, tmp_path / "b.arpa", order=2)


def test_sufficient_text_needs_no_remark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_command(["train-ngram", str(LMPLZ / "text.txt"), str(tmp_path / "a.arpa")]) == 0
    assert not capsys.readouterr().err


def test_a_text_of_one_sentence_is_likely(tmp_path: Path) -> None:
    assert train("sentence", tmp_path, 3).perplexity([["ENTER", "FOUR", "FIVE", "NINE", "TWO"]]) < 2


def without(ngram: Ngram, key: tuple[str, ...]) -> Ngram:
    """The n-gram without one entry, its context's back-off set so that the probabilities sum to 1."""
    left = Ngram(ngram.order, {k: v for k, v in ngram.entries.items() if k != key})
    context = key[:-1]
    listed = [k[-1] for k in left.entries if k[:-1] == context]
    seen = sum(math.exp(left.log_prob(context, word)) for word in listed)
    below = sum(math.exp(left.log_prob(context[1:], word)) for word in listed)
    backoff = math.log(1 - seen) - math.log(1 - below)
    return Ngram(ngram.order, {**left.entries, context: (left.entries[context][0], backoff)})


def test_pruning_drops_what_raises_the_perplexity_by_less() -> None:
    estimate = kneser_ney.estimate(sentences("text")[:25], 2)
    whole, threshold = estimate.ngram(), 1e-3
    kept = pruning.prune(estimate, threshold).ngram().entries
    words = [word for word in whole.words if word != "<s>"]
    assert len(kept) < 0.9 * len(whole.entries)
    for key in whole.entries:
        if len(key) == 2:
            context, smaller = key[:1], without(whole, key)
            weight = math.exp(whole.entries[context if context != ("<s>",) else ("</s>",)][0])
            changes = [
                math.exp(whole.log_prob(context, w)) * (whole.log_prob(context, w) - smaller.log_prob(context, w))
                for w in words
            ]
            assert (key in kept) == (math.expm1(weight * sum(changes)) >= threshold), key


@pytest.mark.parametrize("threshold", [1e-5, 1e-4, 1e-3, 1e-2])
def test_what_pruning_leaves_sums_to_one_and_is_closed(tmp_path: Path, threshold: float) -> None:
    whole, pruned = train("text", tmp_path, 4), train("text", tmp_path, 4, threshold)
    assert pruned.entries.keys() <= whole.entries.keys()
    assert pruned.words == whole.words
    contexts = {key[:-1] for key in pruned.entries}
    suffixes = {key[1:] for key in pruned.entries}
    assert (contexts | suffixes) - {()} <= pruned.entries.keys()
    assert all(mass(pruned, context) == pytest.approx(1, abs=1e-4) for context in contexts)
    assert all(v[0] == pytest.approx(whole.entries[k][0], abs=1e-6) for k, v in pruned.entries.items())


@pytest.mark.parametrize(("order", "threshold"), list(itertools.product([3, 5], [1e-5, 1e-4, 1e-3])))
def test_kenlm_reads_what_pruning_leaves(tmp_path: Path, order: int, threshold: float) -> None:
    kenlm = pytest.importorskip("kenlm", reason="kenlm is not installed")
    pruned = train("text", tmp_path, order, threshold)
    theirs = kenlm.Model(str(tmp_path / "lm.arpa"))
    for text in sentences("text")[:20]:
        assert theirs.score(text) * LN10 == pytest.approx(pruned.score(text.split()), abs=1e-3)


def test_what_is_pruned_twice_is_pruned_by_the_second(tmp_path: Path) -> None:
    whole = kneser_ney.estimate(sentences("text"), 4)
    once = pruning.prune(whole, 1e-5)
    for n, table in enumerate(once.tables[1:], start=1):
        shorter = once.tables[n - 1]
        assert (shorter.word[table.suffix] == table.word).all()
    assert len(pruning.prune(once, 1e-3).tables[2].word) < len(once.tables[2].word)


def test_pruning_by_nothing_changes_nothing(tmp_path: Path) -> None:
    whole, pruned = train("text", tmp_path, 3), train("text", tmp_path, 3, 1e-12)
    assert {k: pytest.approx(v, abs=2e-5) for k, v in whole.entries.items()} == pruned.entries


def test_words_that_only_unicode_takes_for_several(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("NEW\u00a0YORK A\r\nA NEW\u00a0YORK\n".encode())
    with pytest.warns(UserWarning, match="discounts"):
        ngram = train_ngram(tmp_path / "text", tmp_path / "a.arpa", order=2)
    assert ngram.words == ("<unk>", "<s>", "</s>", "NEW\u00a0YORK", "A")
    assert read_arpa(tmp_path / "a.arpa").words == ngram.words
    assert ngram.log_prob((), "<s>") == 0
    assert ngram.entries["<unk>",][0] < -1 * LN10 * 0.5
