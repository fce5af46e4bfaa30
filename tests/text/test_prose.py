"""Running prose: where sentences end, and how they are written in a model's alphabet."""

from __future__ import annotations

import pytest

from asr.config.sections import TextConfig
from asr.text.prose import FOREIGN, ProseSpeller, paragraphs, split_sentences

LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ'")


def speller() -> ProseSpeller:
    return ProseSpeller(LETTERS, TextConfig(case="upper"))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It rained. We left.", ["It rained.", "We left."]),
        ("Mr. Hill met J. Smith. They spoke.", ["Mr. Hill met J. Smith.", "They spoke."]),
        ("He left. Mr. Hill came. J. Smith too.", ["He left.", "Mr. Hill came.", "J. Smith too."]),
        ("“No.” “Messrs. Hill and Smith.” (Dr. Hill)", ["“No.”", "“Messrs. Hill and Smith.”", "(Dr. Hill)"]),
        ("He saw Edwin. He left.", ["He saw Edwin.", "He left."]),
        ("“Stop!” he cried. “Why?” she asked.", ["“Stop!” he cried.", "“Why?” she asked."]),
        ("He paid 3.50 for it. 12 men saw it.", ["He paid 3.50 for it.", "12 men saw it."]),
        ("Wait… he said. Yes", ["Wait… he said.", "Yes"]),
        ("   ", []),
    ],
)
def test_where_sentences_end(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_no_word_is_lost_between_sentences() -> None:
    text = "A. B. Mr. C!  Dr. D? “E.” (F.) G"
    assert " ".join(split_sentences(text)).split() == text.split()


def test_paragraphs_end_at_empty_lines() -> None:
    assert list(paragraphs(["a", "b", "", " ", "c"])) == ["a b", "c"]


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("‘Don’t,’ he said—twice.", "DON'T HE SAID TWICE"),
        ("Café-Noir is naïve.", "CAFE NOIR IS NAIVE"),
        ("Mrs. Hill paid £5 in 1812.", "MISSIS HILL PAID FIVE POUNDS IN EIGHTEEN TWELVE"),
        ("It was Ωmega.", f"IT WAS {FOREIGN}"),
        ("'Tis (so) “they” say…", "TIS SO THEY SAY"),
    ],
)
def test_sentences_in_the_alphabet(sentence: str, words: str) -> None:
    assert speller().spell(sentence) == words


def test_what_cannot_be_said_is_left_out_and_counted() -> None:
    one = speller()
    assert one.spell("Call 01-23-45!") is None
    assert one.spell("It was Ωmega, Ωmega.") == f"IT WAS {FOREIGN} {FOREIGN}"
    assert one.remark() == (
        "left out 1 sentences with numbers or symbols of unknown spoken form; "
        "counted 2 words with characters outside the alphabet as unknown words ('Ω' 2 times)"
    )


def test_plain_sentences_are_written_as_others() -> None:
    # The short cut for sentences without numbers gives what the rules give.
    for sentence in ("Well—he isn’t here, is he?", "Stop! (Now.)", "A “quoted” word", "Two--dashes and one - dash."):
        slow = ProseSpeller(LETTERS, TextConfig(case="upper"))
        assert speller().spell(sentence) == slow.spell(sentence + " 1").removesuffix(" ONE")  # type: ignore[union-attr]
