"""Prose becomes spoken words with the case and the mark that it has."""

import pytest

from asr.text.written_tags import TAG_CASES, TAG_MARKS, tag_words


def tags(text: str) -> list[str]:
    return [
        " ".join(f"{w.word}:{TAG_CASES[w.case]}{TAG_MARKS[w.mark]}" for w in sentence) for sentence in tag_words(text)
    ]


def test_case_and_mark_of_each_word():
    assert tags("Well, NATO met McDonald.") == ["well:capital, nato:upper met:lower mcdonald:mixed."]


def test_numbers_are_spoken():
    assert tags("He paid 25.") == ["he:capital paid:lower twenty:lower five:lower."]


def test_the_digits_of_a_number_stand_with_its_first_word():
    (sentence,) = tag_words("He paid 25.")
    assert [word.written for word in sentence] == ["He", "paid", "25", ""]


def test_a_title_ends_no_sentence():
    assert tags("Mr. Hill came.") == ["mister:capital hill:capital came:lower."]


def test_a_question_inside_a_sentence_is_a_comma():
    assert tags('"What?" he said.') == ["what:capital, he:lower said:lower."]


@pytest.mark.parametrize("dash", ["—", " -- ", " – "])
def test_a_dash_is_a_comma(dash):
    assert tags(f"No{dash}never!") == ["no:capital, never:lower!"]


def test_parts_of_a_hyphenated_word_are_words():
    assert tags("A well-known man.") == ["a:capital well:lower known:lower man:lower."]


def test_accents_and_quotes_are_dropped():
    assert tags("“Café’s” open.") == ["cafe's:capital open:lower."]


@pytest.mark.parametrize("text", ["The U.S. won.", "It is 3:5 & more.", "CHAPTER THE FIRST.", "no end here"])
def test_a_sentence_that_is_not_certain_is_left_out(text):
    assert tags(text) == []
