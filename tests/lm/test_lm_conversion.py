"""asr lm-convert: the same n-gram in another file, and the same transcripts from it."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import TOKENIZER
from test_fusion import random_log_probs

from asr.cli import main
from asr.decode import ngram_cache
from asr.decode.arpa import read_arpa, write_arpa
from asr.decode.ngram import Ngram
from asr.decode.ngram_file import load_origin, open_ngram
from asr.errors import DecodeError, ModelError
from asr.lm import lm_conversion, lm_directory, perplexities
from asr.models.bundled import locate_model
from asr.recognize.decoder import Decoder
from asr.recognize.options import Decoding, load_options, save_options
from asr.text.tokenizer_files import spelling_fingerprint

LETTERS = [symbol for symbol in TOKENIZER.symbols[1:] if symbol.strip()]
NGRAM = Ngram(
    3,
    {
        ("<s>",): (-99.0, -0.5), ("</s>",): (-1.2, 0.0), ("<unk>",): (-6.0, 0.0),
        **{(one + two,): (-2.0 - 0.1 * at, -0.3) for at, (one, two) in enumerate(itertools.pairwise(LETTERS))},
        **{(one,): (-3.0 - 0.1 * at, -0.2) for at, one in enumerate(LETTERS)},
        ("<s>", LETTERS[0]): (-0.5, -0.1), (LETTERS[0], LETTERS[1]): (-0.6, -0.4),
        ("<s>", LETTERS[0], LETTERS[1]): (-0.3, 0.0),
    },
)  # fmt: skip


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    write_arpa(NGRAM, tmp_path / "a.arpa.gz")
    return tmp_path / "a.arpa.gz"


def run(*arguments: object) -> int:
    return main.run_command(["lm-convert", *map(str, arguments)])


def test_the_command_writes_arrays_and_arpa_again(
    arpa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arpa, tmp_path / "n.safetensors") == 0
    assert "3-grams" in capsys.readouterr().out
    assert open_ngram(tmp_path / "n.safetensors") == read_arpa(arpa)
    assert load_origin(tmp_path / "n.safetensors") == {"file": "a.arpa.gz", "bits": 64}
    assert run(tmp_path / "n.safetensors", tmp_path / "b.arpa") == 0
    assert read_arpa(tmp_path / "b.arpa") == read_arpa(arpa)
    assert run(arpa, tmp_path / "n.safetensors", "--bits", "8") == 0  # its own file
    assert open_ngram(tmp_path / "n.safetensors").arrays.quantized


def test_a_large_arpa_file_is_converted_to_one_file(
    arpa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngram_cache, "LARGE", 1)
    assert run(arpa, tmp_path / "n.safetensors") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.arpa.gz", "n.safetensors"}


def test_what_cannot_be_converted_is_named(arpa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kenlm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n")
    (tmp_path / "mine.txt").write_text("letter")
    for arguments, message in (
        ((tmp_path / "kenlm.bin", tmp_path / "x"), "a KenLM binary does not list its n-grams; convert the ARPA file"),
        ((tmp_path / "none.arpa", tmp_path / "x"), "cannot read the n-gram"),
        ((arpa, tmp_path / "mine.txt"), "mine.txt: expected a new output"),
        ((arpa, tmp_path / "x.arpa", "--bits", "8"), "an ARPA file has neither"),
        ((arpa, tmp_path / "x", "--model", tmp_path / "nobody"), "neither a model directory nor a bundled model"),
    ):
        assert run(*arguments) != 0
        assert message in capsys.readouterr().err
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "mine.txt").read_text() == "letter"
    with pytest.raises(DecodeError, match="bits: expected 8 or 64, got 4"):
        lm_conversion.convert_ngram(arpa, tmp_path / "x", bits=4)


@pytest.mark.parametrize("tree", [False, True])
def test_every_use_gives_what_the_arpa_file_gives(
    arpa: Path, tmp_path: Path, tree: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_conversion, "read_description", lambda model: SimpleNamespace(tokenizer=TOKENIZER))
    output = tmp_path / "n.safetensors"
    lm_conversion.convert_ngram(arpa, output, model="a model" if tree else None)
    assert list(open_ngram(output).trees) == ([spelling_fingerprint(TOKENIZER)] if tree else [])
    log_probs = torch.from_numpy(np.stack([random_log_probs(30, TOKENIZER.vocab_size, seed=s) for s in range(4)]))
    lengths = torch.full((4,), 30)
    new = LETTERS[2] * 3
    for use in ({"lm": ""}, {"rescore": ""}, {"lm": ("", ""), "lm_weight": (0.3, 0.4)}, {"lm": "", "lm_carry": True},
                {"lm": "", "hotwords": {new: 9.0, LETTERS[1]: 2.0}}, {"lm": "", "unknown_penalty": -1.0}):  # fmt: skip
        found = []
        for path in (arpa, output):
            named = {name: (str(path),) * 2 if value == ("", "") else str(path) if value == "" else value
                     for name, value in use.items()}  # fmt: skip
            decoder = Decoder(Decoding(beam=12, blank_threshold=0.0, **named), TOKENIZER)  # type: ignore[arg-type]
            found.append(decoder.lists(log_probs, lengths, 5))
        assert found[0] == found[1]
    texts = [f"{LETTERS[0]} {LETTERS[1]} nobody", LETTERS[3]]
    assert len({perplexities.perplexity(lm_directory.load_language_model(p), texts) for p in (arpa, output)}) == 1


def test_a_model_directory_takes_such_a_file_in(arpa: Path, tmp_path: Path) -> None:
    lm_conversion.convert_ngram(arpa, tmp_path / "n.safetensors")
    save_options(tmp_path / "model", Decoding(beam=4, lm=str(tmp_path / "n.safetensors")))
    saved = load_options(tmp_path / "model")
    assert saved.lm == str(tmp_path / "model" / "lm" / "lm.safetensors")
    assert lm_directory.load_language_model(saved.lm) == read_arpa(arpa)


def test_a_converted_arpa_file_learns_the_words_as_the_model_spells_them(
    arpa: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngram_cache, "LARGE", 1)
    log_probs, lengths = torch.from_numpy(random_log_probs(30, TOKENIZER.vocab_size, seed=1))[None], torch.tensor([30])
    options = Decoding(beam=12, lm=str(arpa))
    first = Decoder(options, TOKENIZER).lists(log_probs, lengths, 5)
    place = ngram_cache.cache_places(arpa)[0]
    assert list(open_ngram(place).trees) == [spelling_fingerprint(TOKENIZER)]
    before = place.read_bytes()
    assert Decoder(options, TOKENIZER).lists(log_probs, lengths, 5) == first
    assert place.read_bytes() == before


def test_weights_of_a_network_are_no_ngram() -> None:
    with pytest.raises((DecodeError, ModelError), match="expected an n-gram"):
        lm_directory.load_language_model(locate_model("an4") / "model.safetensors")


def test_info_shows_the_ngram_of_a_model_directory(
    arpa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(locate_model("an4"), tmp_path / "model")
    lm_conversion.convert_ngram(arpa, tmp_path / "n.safetensors", bits=8)
    save_options(tmp_path / "model", Decoding(beam=4, lm=str(tmp_path / "n.safetensors")))
    assert main.run_command(["info", str(tmp_path / "model")]) == 0
    words = len(NGRAM.words)
    assert f"lm.safetensors: 3-gram, {words} words, {words + 3} n-grams, 8 bits a value" in capsys.readouterr().out
