"""Other programs' files: fields between ASCII spaces and tabs, lines that end at a line feed, whoever reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from small import TOKENIZER

from asr.cli import shared_options
from asr.config.sections import TextConfig
from asr.corpora import detection, layouts
from asr.data import manifest
from asr.decode.arpa import read_arpa
from asr.decode.lexicon import read_word_list
from asr.decode.phrase_search import read_phrases
from asr.files import file_lines, split_fields, split_lines
from asr.lm.ngram_training import read_sentences
from asr.scoring.wer import read_transcripts
from asr.text.normalisation import normalise
from asr.text.phones import read_pronunciations
from asr.text.tokenizer import read_symbols
from asr.train.language_task import read_texts

INSIDE = ["\u00a0", "\u3000", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2009"]
"""White space of Unicode, and what ``str.splitlines`` takes for ends of lines."""


@pytest.fixture(params=INSIDE, ids=[f"U+{ord(c):04X}" for c in INSIDE])
def word(request: pytest.FixtureRequest) -> str:
    return f"NEW{request.param}YORK"


def save(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_lines_and_fields(word: str) -> None:
    assert split_lines(f"{word} A\r\nB\rC\n") == [f"{word} A", "B\rC", ""]
    assert split_fields(f" \t{word}\t A  B ") == [word, "A", "B"]
    assert split_fields(f" KEY\t {word}  B ", 1) == ["KEY", f"{word}  B"]
    assert split_fields("") == split_fields(" \t ") == []


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    assert file_lines(save(tmp_path / "text", "\ufeffA\nB")) == ["A", "B"]


def test_arpa_files_keep_words_whole(tmp_path: Path, word: str) -> None:
    body = f"\\1-grams:\r\n-0.3\t{word}\t-0.1\r\n-0.4\tA\r\n\r\n\\2-grams:\r\n-0.2\tA {word}\r\n\r\n\\end\\\r\n"
    ngram = read_arpa(save(tmp_path / "a.arpa", f"\\data\\\r\nngram 1=2\r\nngram 2=1\r\n\r\n{body}"))
    assert list(ngram.entries) == [(word,), ("A",), ("A", word)]


def test_texts_for_ngrams_keep_words_whole(tmp_path: Path, word: str) -> None:
    assert read_sentences(save(tmp_path / "text", f"{word}  A\r\n\tB\n")) == [f"{word} A", "B"]


def test_lexicons_keep_words_whole(tmp_path: Path, word: str) -> None:
    path = save(tmp_path / "lexicon", f";;; comment\r\n{word}  N UW\r\nA AH # letter\n")
    assert read_word_list(path) == [word, "A"]
    assert list(read_pronunciations(path, TextConfig())) == [normalise(word, TextConfig()), "A"]


def test_token_lists_keep_symbols_whole(tmp_path: Path, word: str) -> None:
    text = f"<blank>\n<space>\n{word}\n"
    for encoded in (text, "\ufeff" + text.replace("\n", "\r\n")):
        assert read_symbols(save(tmp_path / "tokens.txt", encoded)) == ["<blank>", " ", word]


def test_lists_of_phrases_keep_lines_whole(tmp_path: Path) -> None:
    path = save(tmp_path / "phrases", "\ufeffAB\u2028C\r\nAB D\n")
    assert [phrase.text for phrase in read_phrases(path, TOKENIZER)] == ["AB C", "AB D"]


def test_texts_for_language_models_keep_lines_whole(tmp_path: Path) -> None:
    assert list(read_texts(str(save(tmp_path / "text", "A\u2028B\r\nC\x0bD\n"))).values()) == ["A\u2028B", "C\x0bD"]


def test_kaldi_tables_keep_fields_whole(tmp_path: Path, word: str) -> None:
    save(tmp_path / "text", f"\ufeffu1 {word} A\r\nu2\tB\r\n")
    save(tmp_path / "wav.scp", f"r {word}.wav\n")
    save(tmp_path / "segments", "u1 r 0 1\nu2 r 1 2\n")
    first, second = layouts.kaldi(tmp_path, tmp_path)
    assert (first.id, first.text, first.audio.name, second.text) == ("u1", f"{word} A", f"{word}.wav", "B")


def test_transcripts_to_score_keep_ids_whole(tmp_path: Path, word: str) -> None:
    path = save(tmp_path / "hypotheses", f"{word} A\u00a0B\r\nu2\r\n")
    assert read_transcripts(path) == {word: "A B", "u2": ""}  # scoring counts words between any white space


def test_a_byte_order_mark_before_metadata_csv(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs" / "LJ1.wav", np.zeros(8000), 16000)
    save(tmp_path / "metadata.csv", "\ufeffLJ1|One.|one\n")
    assert [item.id for item in detection.detect_layout(tmp_path).items] == ["LJ1"]


def test_a_byte_order_mark_before_json_lines(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 16000)
    line = '{"id": "a", "audio": "a.wav", "text": "A", "duration_s": 0.5}\n'
    (utterance,) = manifest.read_manifest(save(tmp_path / "m.jsonl", f"\ufeff{line}"))
    assert utterance.id == "a"
    assert [item.id for item in detection.detect_layout(tmp_path).items] == ["a"]


def test_a_byte_order_mark_before_the_words_of_align(tmp_path: Path) -> None:
    assert shared_options.given_words(str(save(tmp_path / "words.txt", "\ufeffONE TWO\n"))) == "ONE TWO\n"


def test_a_byte_order_mark_before_an_arpa_file(tmp_path: Path) -> None:
    text = "\ufeff\\data\\\nngram 1=1\n\n\\1-grams:\n-0.3\tA\n\n\\end\\\n"
    assert read_arpa(save(tmp_path / "a.arpa", text)).words == ("A",)
