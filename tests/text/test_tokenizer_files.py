"""Pieces of words, words and phones as tokens; and models that are trained on them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from corpus import make_config, make_corpus
from hypothesis import given
from hypothesis import strategies as st

import asr
from asr.config.sections import TextConfig
from asr.data import manifest
from asr.errors import ConfigError, ModelError, TextError
from asr.models import description, model_directory
from asr.text import tokenizer_files
from asr.text.bpe import BpeTokenizer
from asr.text.phones import PhoneTokenizer, letter_to_sound, read_pronunciations
from asr.text.tokenizer import BLANK_SYMBOL, CharTokenizer
from asr.text.word_tokens import WordTokenizer
from asr.train import acoustic_task

TEXTS = ["the cat sat on the mat", "the hat on the cat", "a bat and a rat", "that is the mat"] * 3
LEXICON = """;;; a comment
CAT  K AE1 T
CAT(1)  K EH1 T
CAT(2)  K AE0 T
THE  DH AH0
MAT  M AE1 T # a remark
"""


@pytest.fixture(scope="module")
def bpe() -> BpeTokenizer:
    return BpeTokenizer.from_texts(TEXTS, TextConfig(tokenizer="bpe", bpe_size=40))


@pytest.fixture
def lexicon(tmp_path: Path) -> Path:
    path = tmp_path / "cmudict"
    path.write_text(LEXICON)
    return path


def phones(path: Path, **options: object) -> PhoneTokenizer:
    return PhoneTokenizer.from_lexicon(path, TextConfig(tokenizer="phone", lexicon=str(path), **options))  # type: ignore[arg-type]


def test_pieces_spell_the_text_and_fewer_than_letters(bpe: BpeTokenizer) -> None:
    ids = bpe.encode("The cat  sat")
    assert bpe.decode(ids) == "THE CAT SAT"
    assert len(ids) < len("the cat sat")
    assert 0 not in ids
    assert bpe.symbols[0] == BLANK_SYMBOL
    assert bpe.vocab_size == len(bpe.symbols) <= 40
    assert bpe.space_id is None


@given(st.lists(st.text("acehimnorstbd", min_size=1, max_size=6), max_size=5))
def test_any_text_of_known_letters_comes_back(words: list[str]) -> None:
    tokenizer = BpeTokenizer.from_texts(TEXTS, TextConfig(tokenizer="bpe", bpe_size=40, case="lower"))
    text = " ".join(words)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    grouped = tokenizer.words(ids)
    assert [tokenizer.decode([ids[p] for p in positions]) for positions in grouped] == words


def test_pieces_do_not_depend_on_chance(bpe: BpeTokenizer) -> None:
    again = BpeTokenizer.from_texts(TEXTS, TextConfig(tokenizer="bpe", bpe_size=40))
    assert again.symbols == bpe.symbols


def test_what_pieces_cannot_spell(bpe: BpeTokenizer) -> None:
    with pytest.raises(TextError, match=r"utterance u1: 'X' is in none of the model's pieces"):
        bpe.encode("the xat", "u1")
    lenient = BpeTokenizer(bpe.model, TextConfig(tokenizer="bpe", unknown="space"))
    assert lenient.decode(lenient.encode("the xat")) == "THE AT"
    with pytest.raises(TextError, match="expected texts"):
        BpeTokenizer.from_texts(["", " "], TextConfig(tokenizer="bpe"))
    with pytest.raises(TextError, match="not a sentencepiece model"):
        BpeTokenizer(b"garbage", TextConfig(tokenizer="bpe"))


def test_words() -> None:
    tokenizer = WordTokenizer.from_texts(["one two", "two three"], TextConfig(tokenizer="word"))
    assert tokenizer.symbols == (BLANK_SYMBOL, "ONE", "THREE", "TWO")
    ids = tokenizer.encode("two  One")
    assert ids == [3, 1]
    assert tokenizer.decode([3, 0, 1]) == "TWO ONE"
    assert tokenizer.words(ids) == [[0], [1]]
    with pytest.raises(TextError, match="utterance u: 'FOUR' is not one of the 3 words"):
        tokenizer.encode("one four", "u")
    lenient = WordTokenizer(tokenizer.symbols, TextConfig(tokenizer="word", unknown="space"))
    assert lenient.encode("one four two") == [1, 3]


@pytest.mark.parametrize(
    ("symbols", "match"),
    [([], "got 'nothing'"), (["A"], "expected <blank> first"), ([BLANK_SYMBOL], "expected symbols"),
     ([BLANK_SYMBOL, "A B"], "without spaces"), ([BLANK_SYMBOL, "A", "A"], "'A' is there twice")],
)  # fmt: skip
def test_symbols_that_are_no_vocabulary(symbols: list[str], match: str) -> None:
    with pytest.raises(TextError, match=match):
        WordTokenizer(symbols, TextConfig(tokenizer="word"))


def test_phones_of_a_lexicon(lexicon: Path) -> None:
    tokenizer = phones(lexicon)
    assert tokenizer.symbols == (BLANK_SYMBOL, "AE", "AH", "DH", "EH", "K", "M", "T")
    assert tokenizer.decode(tokenizer.encode("the cat")) == "DH AH K AE T"
    assert tokenizer.reference("The mat") == "DH AH M AE T"  # what a recogniser of phones is scored against
    with pytest.raises(TextError, match="the lexicon has no 'DOG'"):
        tokenizer.encode("the dog")
    assert phones(lexicon, unknown="space").reference("the dog mat") == "DH AH M AE T"


@pytest.fixture
def bounded(lexicon: Path) -> PhoneTokenizer:
    """Phones with a token between words, and words that sound alike."""
    lexicon.write_text(LEXICON + "KAT  K AE T\nKET  K EH T\nA  AH\n")
    return phones(lexicon, word_boundary=True)


def test_the_boundary_is_the_last_symbol(bounded: PhoneTokenizer) -> None:
    assert bounded.symbols == (BLANK_SYMBOL, "AE", "AH", "DH", "EH", "K", "M", "T", " ")
    assert bounded.space_id == 8
    assert [bounded.symbol(token) for token in (2, 8)] == ["AH", " "]


def test_phones_with_a_boundary_are_words_again(bounded: PhoneTokenizer) -> None:
    ids = bounded.encode("the  cat")
    assert [bounded.symbols[i] for i in ids] == ["DH", "AH", " ", "K", "AE", "T"]
    assert bounded.decode(ids) == bounded.reference("the cat") == "THE CAT"
    assert bounded.words(ids) == [[0, 1], [3, 4, 5]]


def test_the_usual_pronunciation_comes_first_and_stress_makes_none(bounded: PhoneTokenizer) -> None:
    assert bounded.spellings("CAT") == [[5, 1, 7], [5, 4, 7]]
    assert bounded.spellings("the cat") == [[3, 2, 8, 5, 1, 7], [3, 2, 8, 5, 4, 7]]


def test_the_word_that_is_usually_said_so_comes_first(bounded: PhoneTokenizer) -> None:
    assert bounded.heard([5, 1, 7]) == ["CAT", "KAT"]
    assert bounded.heard([5, 4, 7]) == ["KET", "CAT"]


def test_phones_of_no_word_are_shown_as_phones(bounded: PhoneTokenizer) -> None:
    assert bounded.decode([8, 7, 1, 8, 8, 2]) == "T-AE A"  # and boundaries with nothing between


def test_spellings_of_a_word_that_the_lexicon_lacks_are_refused(bounded: PhoneTokenizer) -> None:
    with pytest.raises(TextError, match="the lexicon has no 'DOG'"):
        bounded.spellings("dog")


def test_unknown_words_can_be_boundaries(bounded: PhoneTokenizer, lexicon: Path) -> None:
    lenient = phones(lexicon, word_boundary=True, unknown="space")
    assert lenient.decode(lenient.encode("dog the dog cat dog")) == "THE CAT"


def test_symbols_must_have_the_boundary_that_is_asked_for(lexicon: Path) -> None:
    words = read_pronunciations(lexicon, TextConfig())
    for boundary, symbols in [
        (True, [BLANK_SYMBOL, "K"]),
        (False, [BLANK_SYMBOL, "K", " "]),
        (True, [BLANK_SYMBOL, " ", "K"]),
    ]:
        config = TextConfig(tokenizer="phone", lexicon="x", word_boundary=boundary)
        with pytest.raises(TextError, match="word boundary"):
            PhoneTokenizer(symbols, words, config)


def test_cmudict_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pocketsphinx")
    words = read_pronunciations("cmudict", TextConfig())
    assert words["HELLO"] == [("HH", "AH", "L", "OW"), ("HH", "EH", "L", "OW")]
    assert len({phone for spelt in words.values() for phones in spelt for phone in phones}) == 39
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ConfigError, match=r"pip install pocketsphinx"):
        read_pronunciations("cmudict", TextConfig())


def test_unknown_words_are_spelt_by_a_model(lexicon: Path) -> None:
    pytest.importorskip("g2p_en")
    tokenizer = phones(lexicon, g2p=True)
    # Phones that the lexicon does not have cannot be outputs of the model.
    assert tokenizer.reference("the tam") == "DH AH T AE M"
    assert letter_to_sound()("transformer") == ["T", "R", "AE", "N", "S", "F", "AO", "R", "M", "ER"]


def test_lexicons_that_are_none(tmp_path: Path) -> None:
    config = TextConfig()
    (tmp_path / "bad").write_text("CAT  K AE1 T\nDOG\n")
    with pytest.raises(TextError, match=r"bad:2: expected 'WORD  PHONES', got 'DOG'"):
        read_pronunciations(tmp_path / "bad", config)
    (tmp_path / "empty").write_text(";;; nothing\n")
    with pytest.raises(TextError, match="got none"):
        read_pronunciations(tmp_path / "empty", config)
    with pytest.raises(TextError, match="cannot read"):
        read_pronunciations(tmp_path / "gone", config)


@pytest.mark.parametrize(
    "options",
    [
        {"tokenizer": "phone"},
        {"lexicon": "x"},
        {"g2p": True},
        {"word_boundary": True},
        {"tokenizer": "bpe", "bpe_size": 1},
    ],
)
def test_configurations_that_contradict(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"text\."):
        TextConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "boundary"), [("char", 0), ("bpe", 0), ("word", 0), ("phone", 0), ("phone", 1)])
def test_written_and_read(kind: str, boundary: int, lexicon: Path, tmp_path: Path) -> None:
    path = str(lexicon) if kind == "phone" else ""
    lexicon.write_text(LEXICON + "KAT  K AE T\nBKAT  K AE T\n")  # an order that is not the alphabet's
    config = TextConfig(tokenizer=kind, bpe_size=30, lexicon=path, word_boundary=bool(boundary))
    tokenizer = tokenizer_files.tokenizer_from_texts(["the cat", "the mat"], config)
    for name, content in tokenizer.files().items():
        (tmp_path / name).write_bytes(content)
    lexicon.unlink()  # a model directory holds all it needs
    again = tokenizer_files.load_tokenizer(tmp_path / "tokens.txt", config)
    assert type(again) is type(tokenizer)
    assert again.symbols == tokenizer.symbols
    assert again.encode("the cat") == tokenizer.encode("the cat")
    assert again.spellings("cat mat") == tokenizer.spellings("cat mat")
    assert again.heard(again.encode("cat")) == tokenizer.heard(tokenizer.encode("cat"))


def test_files_that_do_not_belong_together(bpe: BpeTokenizer, tmp_path: Path) -> None:
    config = TextConfig(tokenizer="bpe")
    (tmp_path / "tokens.txt").write_bytes(bpe.symbol_list())
    with pytest.raises(ModelError, match=r"tokens\.model"):
        tokenizer_files.load_tokenizer(tmp_path / "tokens.txt", config)
    (tmp_path / "tokens.model").write_bytes(BpeTokenizer.from_texts(["other words"], config).model)
    with pytest.raises(ModelError, match="its symbols are not those of"):
        tokenizer_files.load_tokenizer(tmp_path / "tokens.txt", config)


@pytest.mark.parametrize(("kind", "words"), [("bpe", True), ("word", True), ("phone", False), ("phone", True)])
def test_a_model_of_each_kind_learns_and_transcribes(kind: str, words: bool, tmp_path: Path) -> None:
    """Train, save, load, transcribe with beams, score; a character model of the same size is no better placed."""
    corpus = make_corpus(tmp_path / "corpus", train=24, valid=4)
    text: dict[str, object] = {"tokenizer": kind, "bpe_size": 12, "unknown": "space"}
    if kind == "phone":
        lexicon = tmp_path / "lexicon"
        spelt = {f"{a}{b}{c}" for a in "ABC" for b in ("", *"ABC") for c in ("", *"ABC")}
        lexicon.write_text("".join(f"{word}  {' '.join(word.lower())}\n" for word in sorted(spelt)))
        text |= {"lexicon": str(lexicon), "word_boundary": words}
    config = make_config(corpus, text=text, train={"epochs": 25}, model={"hidden": 24})
    acoustic_task.train_acoustic(config)
    model = model_directory.load_model(corpus / "run")
    assert not isinstance(model.tokenizer, CharTokenizer)
    assert kind in description.describe_model(description.read_description(corpus / "run"))
    recognizer = asr.load(corpus / "run", device="cpu", beam=4)
    first = manifest.read_manifest(corpus / "train.jsonl")[0]
    result = recognizer.transcribe(first.audio)
    assert [w.text for w in result.words] == result.text.split()
    assert result.text
    if not words:
        assert set(result.text) <= set("abc ")
        assert model.tokenizer.reference("AB") == "a b"


def test_decoding_that_needs_letters_says_so(bpe: BpeTokenizer) -> None:
    from asr.errors import DecodeError
    from asr.recognize.decoder import Decoder
    from asr.recognize.options import Decoding

    with pytest.raises(DecodeError, match=r"hotwords: .* are pieces of words.*text.tokenizer=bpe data.tokens"):
        Decoder(Decoding(beam=4, hotwords={"CAT": 3.0}), bpe)
