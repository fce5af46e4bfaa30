"""ARPA files and back-off probabilities: equal to KenLM's and to the definition, malformed files named by line."""

from __future__ import annotations

import gzip
import itertools
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asr.cli import main
from asr.decode import kenlm_binary
from asr.decode.arpa import read_arpa, write_arpa
from asr.decode.kenlm_binary import KenlmNgram
from asr.decode.ngram import LN10, Ngram
from asr.errors import DecodeError, ModelError, TrainingError
from asr.lm import lm_directory, perplexities
from asr.lm.ngram_training import train_ngram

pytestmark = pytest.mark.filterwarnings("ignore:.*discounts:UserWarning")  # small texts are meant here

ARPA = """a comment

\\data\\
ngram 1=5
ngram 2=4
ngram 3=1

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.30
-0.7\t</s>
-0.5\tA\t-0.2
-0.6\tB\t-0.4

\\2-grams:
-0.2\t<s> A\t-0.1
-0.3\tA B\t-0.15
-0.4\tB </s>
-0.9\tB B\t-0.05

\\3-grams:
-0.05\t<s> A B

\\end\\
"""


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    path = tmp_path / "small.arpa"
    path.write_text(ARPA)
    return path


def definition(ngram: Ngram, context: tuple[str, ...], word: str) -> float:
    """Katz back-off as the format defines it, by dictionaries, base 10."""
    key = (*context, word)
    if key in ngram.entries:
        return ngram.entries[key][0] / math.log(10)
    if not context:
        return -100.0 if ("<unk>",) not in ngram.entries else ngram.entries["<unk>",][0] / math.log(10)
    back_off = ngram.entries.get(context, (0.0, 0.0))[1] / math.log(10)
    return back_off + definition(ngram, context[1:], word)


def test_probabilities_by_hand(arpa: Path) -> None:
    ngram = read_arpa(arpa)
    assert (ngram.order, ngram.words) == (3, ("<unk>", "<s>", "</s>", "A", "B"))
    log10 = {
        (("<s>", "A"), "B"): -0.05,  # listed
        (("A", "A"), "B"): -0.3,  # A A is no context: the bigram as it stands
        (("A", "B"), "B"): -0.15 - 0.9,
        (("A", "B"), "A"): -0.15 - 0.4 - 0.5,
        (("B",), "NEVER SEEN"): -0.4 - 1.0,
        ((), "A"): -0.5,
    }
    for (context, word), wanted in log10.items():
        assert ngram.log_prob(context, word) / math.log(10) == pytest.approx(wanted)
    assert ngram.score(["A", "B"]) / math.log(10) == pytest.approx(-0.2 - 0.05 - 0.15 - 0.4)
    assert ngram.perplexity([["A", "B"]]) == pytest.approx(10 ** (0.8 / 3))


def test_every_context_and_word_by_the_definition(arpa: Path) -> None:
    ngram = read_arpa(arpa)
    words = ("A", "B", "</s>", "<unk>")
    for context in itertools.chain(*(itertools.product(("A", "B", "<s>"), repeat=n) for n in range(3))):
        for word in words:
            assert ngram.log_prob(context, word) / math.log(10) == pytest.approx(definition(ngram, context, word))


def make_text(seed: int, lines: int = 300) -> list[str]:
    rng = random.Random(seed)
    words = [f"W{i}" for i in range(30)]
    text = []
    for _ in range(lines):
        line = [rng.choice(words)]
        while rng.random() < 0.8:
            line.append(words[(words.index(line[-1]) * 7 + rng.choice([1, 1, 1, 5, 11])) % len(words)])
        text.append(" ".join(line))
    return text


def test_equals_kenlm(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="kenlm is not installed")
    (tmp_path / "text").write_text("\n".join(make_text(1)) + "\n")
    path = tmp_path / "lm.arpa"
    train_ngram(tmp_path / "text", path, order=3)
    reference, ours = kenlm.Model(str(path)), read_arpa(path)
    sentences = make_text(2, 50) + ["", "UNHEARD", "W1 UNHEARD W2 W3", "W5 W5 W5 W5"]
    for sentence in sentences:
        words = sentence.split()
        for start, end in itertools.product((True, False), repeat=2):
            wanted = reference.score(sentence, bos=start, eos=end)
            assert ours.score(words, start=start, end=end) / math.log(10) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("start", [True, False])
def test_next_words_are_all_words_by_their_probability(arpa: Path, start: bool) -> None:
    arpa.write_text(ARPA.replace("-0.2\t<s> A\t-0.1\n", "").replace("ngram 2=4", "ngram 2=3"))  # a gap on the way
    ngram = read_arpa(arpa)
    before = ["<s>"] if start else []
    for context in itertools.chain(*(itertools.product(("A", "B", "NEVER SEEN"), repeat=n) for n in range(4))):
        found = ngram.next_words(context, 100, start=start)
        assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
        wanted = {word: math.exp(ngram.log_prob((*before, *context), word)) for word in ngram.words if word != "<s>"}
        assert dict(found) == pytest.approx(wanted)
    assert ngram.next_words("A B", 2, start=start) == ngram.next_words(["A", "B"], 100, start=start)[:2]
    with pytest.raises(DecodeError, match="count: expected 1 or more, got 0"):
        ngram.next_words("A", 0)


def test_a_sentence_is_a_string_or_its_words(arpa: Path) -> None:
    ngram = read_arpa(arpa)
    assert ngram.score("A  B") == ngram.score(["A", "B"]) == pytest.approx(sum(ngram.word_scores("A B")))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a.arpa", "a.arpa.gz"])
def test_written_files_are_read_back(arpa: Path, tmp_path: Path, name: str) -> None:
    ngram = read_arpa(arpa)
    write_arpa(ngram, tmp_path / name)
    again = read_arpa(tmp_path / name)
    assert list(again.entries) == list(ngram.entries)
    for key, values in ngram.entries.items():
        assert again.entries[key] == pytest.approx(values, rel=1e-6)
    assert (tmp_path / name).read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")


def test_compression_is_told_by_content(tmp_path: Path) -> None:
    (tmp_path / "a.arpa").write_bytes(gzip.compress(ARPA.encode()))
    assert read_arpa(tmp_path / "a.arpa").order == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "\\dat\\", r": expected \\data\\, got the end"),
        ("ngram 2=4", "ngram 3=4", r":5: expected 'ngram 2=COUNT', got 'ngram 3=4'"),
        ("ngram 1=5", "ngram 1=6", r":15: expected 6 1-grams before, got 5"),
        ("-0.5\tA", "-0,5\tA", r":12: expected numbers around the words"),
        ("-0.5\tA", "0.5\tA", r":12: expected a log-probability of at most 0"),
        ("-0.5\tA", "nan\tA", r":12: expected a log-probability of at most 0"),
        ("-0.6\tB\t-0.4", "-0.6\tB\t1e308", r":13: .* a finite back-off"),
        ("-0.6\tB\t-0.4", "-0.6\tB C D\t-0.4", r":13: expected a log-probability, 1 words"),
        ("-0.6\tB", "-0.6\tA", r":13: 'A' is listed twice"),
        ("-0.3\tA B", "-0.3\tA C", r":17: 'C' is not among the unigrams"),
        ("\\2-grams:", "\\4-grams:", r":15: expected \\2-grams:, got '\\\\4-grams:'"),
        ("\\3-grams:\n-0.05\t<s> A B\n\n", "", r":21: expected \\3-grams:, got \\end\\"),
        ("\\end\\", "", r":\d+: expected \\end\\, got the end of the file; copy it again"),
        ("\\1-grams:\n", "", r":8: expected \\1-grams:"),
        ("ngram 1=5", "ngram 1=²", r":4: expected 'ngram 1=COUNT', got 'ngram 1=²'"),
        ("ngram 1=5", f"ngram 1={'5' * 5000}", r":4: expected 'ngram 1=COUNT', got 'ngram 1=555"),
        ("ngram 1=5", f"ngram {'1' * 5000}=5", r":4: expected 'ngram 1=COUNT', got 'ngram 111"),
        ("a comment", "a comment" * 200_000, r":1: expected a line of less than"),
    ],
)
def test_malformed_files_are_named_by_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "bad.arpa"
    assert old in ARPA
    path.write_text(ARPA.replace(old, new, 1))
    with pytest.raises(DecodeError, match=rf"bad\.arpa{message}"):
        read_arpa(path)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"none\.arpa: cannot read"):
        read_arpa(tmp_path / "none.arpa")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(ARPA.encode())[:60])
    with pytest.raises(DecodeError, match=r"cut\.gz: cannot read"):
        read_arpa(tmp_path / "cut.gz")
    damaged = bytearray(gzip.compress(ARPA.encode()))
    damaged[20] ^= 255
    (tmp_path / "damaged.gz").write_bytes(damaged)
    with pytest.raises(DecodeError, match=r"damaged\.gz: cannot read"):
        read_arpa(tmp_path / "damaged.gz")
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    with pytest.raises(DecodeError, match="binary: cannot read"):
        read_arpa(tmp_path / "binary")


def load(path: Path, kind: str, arpa: str) -> Ngram | KenlmNgram:
    """An ARPA file as the package reads it, or as KenLM does (which reads binaries by the same call)."""
    path.write_text(arpa.removeprefix("a comment\n\n"))
    if kind == "arpa":
        return read_arpa(path)
    pytest.importorskip("kenlm", reason="kenlm is not installed")
    return KenlmNgram(path)


@pytest.mark.parametrize("kind", ["arpa", "binary"])
def test_perplexity_scores_unknown_words_as_unk(arpa: Path, kind: str) -> None:
    model = load(arpa, kind, ARPA)
    found = perplexities.perplexity(model, ["A B", "A NEW"])
    # <s> A, A B, B </s> backed off; <s> A, <unk> after A backed off, </s> alone: <unk> has no back-off here.
    total = -0.2 - 0.05 - 0.15 - 0.4 - 0.2 - (0.1 + 0.2 + 1.0) - 0.7
    assert found.word == found.token == pytest.approx(10 ** (-total / 6), rel=1e-5)
    assert (found.unknown, found.as_unk) == (0, 1)


@pytest.mark.parametrize("kind", ["arpa", "binary"])
def test_perplexity_without_unk_leaves_unknown_words_out(arpa: Path, kind: str) -> None:
    model = load(arpa, kind, ARPA.replace("-1.0\t<unk>\n", "").replace("1=5", "1=4"))
    found = perplexities.perplexity(model, ["A B", "A NEW B"])
    # What follows an unknown word begins anew: B alone, then </s> after it.
    total = -0.2 - 0.05 - 0.15 - 0.4 - 0.2 - 0.6 - 0.4
    assert found.word == pytest.approx(10 ** (-total / 6), rel=1e-5)
    assert found.char == pytest.approx(10 ** (-total / len("A BA B")), rel=1e-5)
    assert (found.unknown, found.as_unk) == (1, 0)


def test_perplexity_by_command_says_what_became_of_unknown_words(
    arpa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("A NEW\n")
    assert main.run_command(["perplexity", str(arpa), str(tmp_path / "text")]) == 0
    assert "1 words are unknown to the model and scored as <unk>" in capsys.readouterr().out
    arpa.write_text(ARPA.replace("-1.0\t<unk>\n", "").replace("1=5", "1=4"))
    assert main.run_command(["perplexity", str(arpa), str(tmp_path / "text")]) == 0
    assert "1 words are unknown to the model and not counted" in capsys.readouterr().out


def test_a_kenlm_binary_that_ends_the_process_is_refused() -> None:
    pytest.importorskip("kenlm", reason="kenlm is not installed")
    with pytest.raises(ModelError, match=r"kenlm_segv\.bin: kenlm crashes when it reads this file"):
        lm_directory.load_language_model(Path(__file__).parents[1] / "kenlm_segv.bin")


def test_kenlm_that_crashes_at_a_word_is_an_error_of_its_file(arpa: Path) -> None:
    model = load(arpa, "binary", ARPA)
    assert isinstance(model, KenlmNgram)
    model._child.send_signal(signal.SIGSEGV)  # as a damaged binary does at some word
    with pytest.raises(ModelError, match=r"small\.arpa: kenlm crashes .*SIGSEGV\): it is damaged"):
        model.score("A B")


def test_a_kenlm_process_that_is_killed_from_outside_is_started_again(arpa: Path) -> None:
    model = load(arpa, "binary", ARPA)
    assert isinstance(model, KenlmNgram)
    score = model.score("A B")
    model._child.kill()
    with pytest.raises(ModelError, match=r"small\.arpa: the process that reads it has ended \(SIGKILL\).*try again"):
        model.score("A B")
    assert model.score("A B") == score


def test_the_answer_to_an_interrupted_call_is_not_taken_for_the_next(
    arpa: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(arpa, "binary", ARPA)
    assert isinstance(model, KenlmNgram)
    scores = model.score("A B"), model.score("B")

    class Interrupted:
        def readline(self) -> str:
            raise KeyboardInterrupt

        def close(self) -> None:
            """As a pipe has it."""

    monkeypatch.setattr(model._child, "stdout", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        model.score("A B")
    assert (model.score("A B"), model.score("B")) == scores


def test_a_fork_that_ends_leaves_its_parent_the_kenlm_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], text=True)
    kenlm_binary._end(child, os.getpid() + 1)  # what a fork runs when it drops the model
    assert child.poll() is None
    kenlm_binary._end(child, os.getpid())
    assert child.poll() is not None


def test_a_fork_has_a_kenlm_process_of_its_own(arpa: Path) -> None:
    model = load(arpa, "binary", ARPA)
    assert isinstance(model, KenlmNgram)
    before, score = model._child, model.score("A B")
    model._owner = -1
    assert model.score("A B") == score
    assert model._child is not before


def test_an_ngram_whose_beginning_was_pruned_still_counts(tmp_path: Path) -> None:
    path = tmp_path / "gap.arpa"
    path.write_text(ARPA.replace("-0.2\t<s> A\t-0.1\n", "").replace("ngram 2=4", "ngram 2=3"))
    ngram = read_arpa(path)
    assert ngram.log_prob(("<s>", "A"), "B") == pytest.approx(-0.05 * math.log(10))
    assert ngram.log_prob(("<s>",), "A") == pytest.approx((-0.30 - 0.5) * math.log(10))


def test_estimates_sum_to_one_and_pruning_leaves_fewer(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\n".join(make_text(3)) + "\n\n")
    ngram = train_ngram(tmp_path / "text", tmp_path / "lm.arpa.gz", order=3)
    assert list(read_arpa(tmp_path / "lm.arpa.gz").entries) == list(ngram.entries)
    predicted = [word for word in ngram.words if word != "<s>"]
    for context in ((), ("<s>",), ("W3",), ("W3", "W22"), ("W9", "W9")):
        assert sum(math.exp(ngram.log_prob(context, word)) for word in predicted) == pytest.approx(1, abs=1e-3)
    pruned = train_ngram(tmp_path / "text", tmp_path / "small.arpa", order=3, prune=1e-3)
    assert pruned.words == ngram.words
    assert len(pruned.entries) < 0.8 * len(ngram.entries)
    held_out = [line.split() for line in make_text(4, 50)]
    assert ngram.perplexity(held_out) < 0.8 * train_ngram(tmp_path / "text", tmp_path / "one.arpa", order=1).perplexity(
        held_out
    )


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_kenlm_reads_what_is_trained(tmp_path: Path, suffix: str) -> None:
    kenlm = pytest.importorskip("kenlm", reason="kenlm is not installed")
    (tmp_path / "text").write_text("\n".join(make_text(3)))
    ngram = train_ngram(tmp_path / "text", tmp_path / f"lm.arpa{suffix}", order=3)
    theirs = kenlm.Model(str(tmp_path / f"lm.arpa{suffix}"))
    assert theirs.score("W3 W22") * LN10 == pytest.approx(ngram.score("W3 W22"), abs=1e-4)


def test_words_beyond_ascii(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("ÄRGER ÜBER ÉTÉ\nЁЛКА ÜBER\n", encoding="utf-8")
    assert {"ÄRGER", "ÜBER", "ÉTÉ", "ЁЛКА"} <= set(
        train_ngram(tmp_path / "text", tmp_path / "a.arpa", order=2, prune=1e-9).words
    )


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("\n \n", {}, "text: expected a sentence on each line, got none"),
        ("A B\nC </s>\n", {}, r"text:2: </s> is reserved for ends of sentences"),
        ("A B\nC <unk>\n", {}, r"text:2: <unk> is reserved for unknown words"),
        ("A", {"order": 0}, "order: expected 1 to 5, got 0"),
        ("A", {"order": 6}, "order: expected 1 to 5, got 6"),
        ("A", {"prune": -1.0}, "prune: expected 0 to 1, got -1"),
    ],
)
def test_refuses_what_cannot_be_estimated(tmp_path: Path, text: str, options: dict[str, Any], message: str) -> None:
    (tmp_path / "text").write_text(text)
    with pytest.raises(TrainingError, match=message):
        train_ngram(tmp_path / "text", tmp_path / "a.arpa", **options)
    assert not (tmp_path / "a.arpa").exists()


def test_an_arpa_file_is_written_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "words.arpa"
    write_arpa(Ngram(1, {("A",): (-1.0, 0.0)}), path)
    assert read_arpa(path).words == ("A",)
    with pytest.raises(DecodeError, match="cannot write"):
        write_arpa(Ngram(1, {("A",): (-1.0, 0.0)}), path / "below")


def test_several_texts_are_one(tmp_path: Path) -> None:
    sentences = ["A B A", "B A", "A A B", "B B A C", "C A B"] * 2
    (tmp_path / "all").write_text("\n".join(sentences))
    (tmp_path / "first").write_text("\n".join(sentences[:4]))
    (tmp_path / "rest").write_text("\n".join(sentences[4:]))
    whole = train_ngram(tmp_path / "all", tmp_path / "all.arpa", order=2)
    assert train_ngram(tmp_path / "first", tmp_path / "two.arpa", order=2, more=[tmp_path / "rest"]) == whole
