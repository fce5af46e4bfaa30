"""Written texts as recordings say them: words that can be spelt stay, others are written out, the rest is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.config.sections import TextConfig
from asr.errors import TextError
from asr.text.normalisation import normalise
from asr.text.phones import PhoneTokenizer
from asr.text.tokenizer import CharTokenizer
from asr.text.user_words import reading
from asr.text.word_tokens import WordTokenizer
from asr.text.written_out import spoken

UPPER = CharTokenizer(["<blank>", " ", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], TextConfig(case="upper"))


def said(text, tokenizer=UPPER, language="en"):
    return [(word.written, " ".join(word.words)) for word in reading(text, tokenizer, language).words]


def test_words_keep_their_writing_and_are_read_as_spoken():
    assert said("Don't pay 42, Mr. Hill!") == [
        ("Don't", "DON'T"), ("pay", "PAY"), ("42,", "FORTY TWO"), ("Mr.", "MISTER"), ("Hill!", "HILL"),
    ]  # fmt: skip


def test_what_the_model_can_spell_is_not_touched():
    digits = CharTokenizer(["<blank>", " ", *"ABC", *"0123456789."], TextConfig(case="upper"))
    assert said("a 42 c.", digits) == [("a", "A"), ("42", "42"), ("c.", "C.")]


def test_signs_without_a_sound_are_passed_over():
    found = reading("yes — no ... “maybe”", UPPER, "en")
    assert [word.written for word in found.words] == ["yes", "no", "“maybe”"]
    assert found.left_out == ()


def test_what_cannot_be_spelt_is_named():
    found = reading("yes Ærø no ♫", UPPER, "en")
    assert [word.written for word in found.words] == ["yes", "no"]
    assert len(found.left_out) == 2
    assert found.left_out[0].startswith("'Ærø' left out: 'Æ', 'Ø' cannot be spelt")
    assert found.left_out[1].startswith("'♫' left out:")


def test_a_text_of_which_nothing_stays_is_refused():
    for text in ("", "...", "ДА НЕТ"):
        with pytest.raises(TextError, match=r"x\.wav: expected words that the model can spell"):
            reading(text, UPPER, "en", "x.wav")


def test_without_a_language_nothing_is_written_out():
    with pytest.raises(TextError, match="'4', '2' cannot be spelt"):
        reading("42", UPPER, "none")


def test_other_languages_have_their_own_numbers():
    assert said("Nr. 42", german_letters(), "de") == [("Nr.", "NUMMER"), ("42", "ZWEIUNDVIERZIG")]


def test_signs_are_read_with_their_neighbours():
    assert said("pay $5 & 10 % now") == [
        ("pay", "PAY"), ("$5", "FIVE DOLLARS"), ("&", "AND"), ("10", "TEN"), ("%", "PERCENT"), ("now", "NOW"),
    ]  # fmt: skip


def test_what_is_unclear_alone_may_be_clear_beside_its_neighbours():
    assert said("St. Mary's (again) on 3rd May") == [
        ("St.", "SAINT"), ("Mary's", "MARY'S"), ("(again)", "AGAIN"), ("on", "ON"), ("3rd", "THIRD"), ("May", "MAY"),
    ]  # fmt: skip
    found = reading("St. Mary's £3.50 5 St. John's", UPPER, "en")
    assert [word.written for word in found.words] == ["St.", "Mary's", "5", "St.", "John's"]
    assert len(found.left_out) == 1
    assert found.left_out[0].startswith("'£3.50' left out: cannot tell how '£3.50' is said")


def german_letters():
    return CharTokenizer(["<blank>", " ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜß"], TextConfig(case="upper"))


@pytest.mark.parametrize(
    ("text", "language", "kept"),
    [
        ("am 3. Mai", "de", "AM MAI"),
        ("hier ist 1 Mann", "de", "HIER IST MANN"),
        ("call 555 1234", "en", "CALL"),
        ("only 5 kg", "en", "ONLY KG"),
        ("$5 and $3.50 & 10", "en", "FIVE DOLLARS AND AND TEN"),
    ],
)
def test_what_is_refused_beside_its_neighbours_is_left_out(text, language, kept):
    found = reading(text, german_letters(), language)
    assert found.text == kept
    assert all("cannot tell how" in line for line in found.left_out)
    assert found.left_out


def test_words_that_are_said_in_another_order_are_put_together():
    assert said("pay $5 million now") == [("pay", "PAY"), ("$5 million", "FIVE MILLION DOLLARS"), ("now", "NOW")]
    assert said("it cost $ 2 billion") == [("it", "IT"), ("cost", "COST"), ("$ 2 billion", "TWO BILLION DOLLARS")]
    assert said("mit 12 000 Leuten", german_letters(), "de") == [
        ("mit", "MIT"), ("12 000", "ZWÖLFTAUSEND"), ("Leuten", "LEUTEN"),
    ]  # fmt: skip


WRITTEN = {
    "en": ["$5", "million", "$", "£2.5", "3rd", "May", "42", "1,000", "%", "&", "Mr.", "St.", "Hill!", "(so)", "—",
           "it's", "No.", "7", "kg", "Henry", "10-year-old", "and"],
    "de": ["3.", "Mai", "12", "000", "€", "Nr.", "42", "%", "Leute,", "1", "1,5", "Dr.", "–", "und", "usw."],
}  # fmt: skip


@pytest.mark.parametrize("language", WRITTEN)
@given(data=st.data())
def test_what_can_be_said_as_a_whole_is_said_so(language, data):
    tokenizer = CharTokenizer([*german_letters().symbols, "'"], german_letters().config)
    text = " ".join(data.draw(st.lists(st.sampled_from(WRITTEN[language]), min_size=1, max_size=8)))
    try:
        expected = normalise(spoken(text, language), tokenizer.config)
    except TextError:
        return
    if expected:
        found = reading(text, tokenizer, language)
        assert (found.text, found.left_out) == (expected, ())


def test_gaps_are_where_words_are_left_out():
    found = reading("Ø yes ... Ø no — Ø Ø", UPPER, "none")
    assert (found.text, found.gaps) == ("YES NO", (0, 1, 2, 2))


def test_words_and_phones_are_named_whole():
    words = WordTokenizer(["<blank>", "YES", "FORTY", "TWO"], TextConfig(tokenizer="word", case="upper"))
    found = reading("yes, 42 no", words, "en")
    assert [word.words for word in found.words] == [("YES",), ("FORTY", "TWO")]
    assert found.left_out == ("'no' left out: 'NO' cannot be spelt with the model's tokens",)
    assert found.tokens(words) == ([1, 2, 3], [[0], [1, 2]])
    lexicon = {"YES": [("Y", "S")], "NO": [("N",)]}
    config = TextConfig(tokenizer="phone", lexicon="x", word_boundary=True, case="upper")
    phones = PhoneTokenizer(["<blank>", "N", "S", "Y", " "], lexicon, config)
    assert reading("yes, no maybe", phones, "en").tokens(phones) == ([3, 2, 4, 1], [[0, 1], [3]])


def test_tokens_are_those_of_the_whole_text():
    found = reading("It's 42, Mr. Hill", UPPER, "en")
    assert found.tokens(UPPER)[0] == UPPER.encode("IT'S FORTY TWO MISTER HILL")
