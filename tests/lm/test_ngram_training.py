"""``asr train-ngram``: texts of all kinds, limits on words and size, KenLM's lmplz instead of our own estimate."""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asr.cli import main
from asr.decode.arpa import read_arpa
from asr.decode.ngram import Ngram
from asr.decode.ngram_file import load_origin, open_ngram
from asr.errors import TrainingError
from asr.lm import kneser_ney, lm_texts, pruning
from asr.lm.lm_conversion import convert_ngram
from asr.lm.lm_texts import TextReading
from asr.lm.lmplz import find_lmplz
from asr.lm.ngram_training import Limits, estimate_ngram, read_sentences
from asr.models.bundled import locate_model
from asr.models.description import read_description
from asr.text.tokenizer_files import spelling_fingerprint

TEXT = Path(__file__).parents[1] / "lmplz" / "text.txt"
AN4 = locate_model("an4")


def mass(ngram: Ngram, context: tuple[str, ...]) -> float:
    return sum(math.exp(ngram.log_prob(context, word)) for word in ngram.words if word != "<s>")


def save(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_most_frequent_words_are_kept_and_others_are_unknown_words() -> None:
    ngram = estimate_ngram(TEXT, order=3, limits=Limits(words=20)).ngram()
    frequency: dict[str, int] = {}
    for word in " ".join(read_sentences(TEXT)).split():
        frequency[word] = frequency.get(word, 0) + 1
    kept = {word for word in ngram.words if not word.startswith("<")}
    assert len(kept) == 20
    assert min(frequency[word] for word in kept) >= max(frequency[word] for word in frequency if word not in kept)
    assert ngram.log_prob((), "<unk>") > ngram.log_prob((), min(kept, key=lambda word: frequency[word]))


def test_probabilities_with_a_limited_vocabulary_sum_to_one() -> None:
    ngram = estimate_ngram(TEXT, order=3, limits=Limits(words=20)).ngram()
    contexts = {key[:-1] for key in ngram.entries}
    assert any("<unk>" in context for context in contexts)
    assert all(mass(ngram, context) == pytest.approx(1, abs=1e-6) for context in contexts)


def test_a_vocabulary_by_list(tmp_path: Path) -> None:
    listed = save(tmp_path / "words", "A\nB\nNEVER\n")
    ngram = estimate_ngram(save(tmp_path / "text", "A B C\nC A D\n"), limits=Limits(vocabulary=listed)).ngram()
    assert sorted(ngram.words) == ["</s>", "<s>", "<unk>", "A", "B"]


def test_a_vocabulary_without_words_of_the_text_is_refused(tmp_path: Path) -> None:
    text, listed = save(tmp_path / "text", "A B\n"), save(tmp_path / "words", "a\nb\n")
    with pytest.raises(TrainingError, match="expected words of the text, got none of them; check their case"):
        estimate_ngram(text, limits=Limits(vocabulary=listed))


@pytest.mark.parametrize("most", [0, 50, 200])
def test_pruning_to_a_number_of_ngrams_is_pruning_by_a_threshold(most: int) -> None:
    whole = kneser_ney.estimate(read_sentences(TEXT), 3)
    made, threshold = pruning.prune_to(whole, lambda counts: sum(counts[1:]) <= most)
    assert sum(made.counts[1:]) <= most
    again = pruning.prune(whole, threshold)
    assert again.counts == made.counts
    more = pruning.prune(whole, threshold * (1 - 1e-5))
    assert sum(more.counts[1:]) > most


def test_pruning_to_a_size_gives_a_file_of_that_size(tmp_path: Path) -> None:
    output = tmp_path / "lm.safetensors"
    command = ["train-ngram", str(TEXT), str(output), "--size", "0.012", "--quantize"]
    assert main.run_command(command) == 0
    assert 0.008e6 < output.stat().st_size <= 0.012e6
    assert sum(1 for key in open_ngram(output).entries if len(key) == 3)


def test_words_that_do_not_fit_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_command(["train-ngram", str(TEXT), str(tmp_path / "lm.arpa"), "--size", "0.0001"]) != 0
    assert "keep fewer words (--words), or allow more (--size)" in capsys.readouterr().err
    assert not (tmp_path / "lm.arpa").exists()


def test_arrays_hold_what_an_arpa_file_holds(tmp_path: Path) -> None:
    for name in ("a.arpa", "b.safetensors"):
        assert main.run_command(["train-ngram", str(TEXT), str(tmp_path / name)]) == 0
    theirs, ours = read_arpa(tmp_path / "a.arpa"), open_ngram(tmp_path / "b.safetensors")
    assert ours.entries.keys() == theirs.entries.keys()
    assert all(ours.entries[key] == pytest.approx(theirs.entries[key], abs=2e-6) for key in theirs.entries)


def test_arrays_trained_for_a_model_hold_its_lexicon_tree(tmp_path: Path) -> None:
    for name, options in (("plain", []), ("an4", ["--model", str(AN4)])):
        assert main.run_command(["train-ngram", str(TEXT), str(tmp_path / f"{name}.safetensors"), *options]) == 0
    made = open_ngram(tmp_path / "an4.safetensors")
    convert_ngram(tmp_path / "an4.safetensors", tmp_path / "converted.safetensors", model=str(AN4))
    fingerprint = spelling_fingerprint(read_description(AN4).tokenizer)
    expected = open_ngram(tmp_path / "converted.safetensors").trees[fingerprint]
    assert open_ngram(tmp_path / "plain.safetensors").trees == {}
    assert all((made.trees[fingerprint][name] == values).all() for name, values in expected.items())


def test_folders_and_compressed_texts_count_as_one_text(tmp_path: Path) -> None:
    lines = TEXT.read_text().splitlines()
    folder = tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    save(folder / "a.txt", "\n".join(lines[:100]))
    (folder / "more" / "b.txt.gz").write_bytes(gzip.compress("\n".join(lines[100:]).encode()))
    save(folder / "ignored.csv", "NOT READ")
    whole, parts = estimate_ngram(TEXT), estimate_ngram(folder)
    assert parts.words == whole.words
    assert all((a.log_prob == b.log_prob).all() for a, b in zip(parts.tables, whole.tables, strict=True))


def test_prose_becomes_sentences_in_the_models_alphabet(tmp_path: Path) -> None:
    prose = "Mr. Hill paid £5\non 3rd May. “Naïve,” he\nsaid. Call 01-23-45!\n\nIt was Ωmega.\n"
    text = save(tmp_path / "text", prose)
    with pytest.warns(UserWarning, match="left out 1 sentences .*; counted 1 words"):
        made = estimate_ngram(text, order=2, reading=TextReading(AN4, prose=True))
    ngram = made.ngram()
    for pair in (("<s>", "MISTER"), ("FIVE", "POUNDS"), ("<s>", "NAIVE"), ("WAS", "<unk>"), ("THIRD", "MAY")):
        assert pair in ngram.entries
    assert "CALL" not in ngram.words


@pytest.mark.parametrize("word", ["<s>", "</s>", "<unk>", "<UNK>"])
def test_reserved_words_are_named_with_their_line(tmp_path: Path, word: str) -> None:
    with pytest.raises(TrainingError, match=rf"text:2: {word} is reserved"):
        estimate_ngram(save(tmp_path / "text", f"A B\nA {word} B\n"))


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress(TEXT.read_bytes())[:-200])
    with pytest.raises(TrainingError, match=r"text\.txt\.gz: cannot read the text"):
        estimate_ngram(path)


def lmplz() -> str:
    found = shutil.which("lmplz")
    if found is None:
        pytest.skip("KenLM's lmplz is not on PATH")
    return found


@pytest.mark.parametrize("words", [0, 20])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_lmplz_gives_our_own_estimate(order: int, words: int) -> None:
    program = lmplz()
    ours = estimate_ngram(TEXT, order=order, limits=Limits(words=words))
    theirs = estimate_ngram(TEXT, order=order, limits=Limits(words=words), lmplz=program)
    assert theirs.words == ours.words
    assert theirs.fallbacks == ours.fallbacks
    mine, others = ours.ngram().entries, theirs.ngram().entries
    assert mine.keys() == others.keys()
    assert all(others[key] == pytest.approx(mine[key], abs=1e-5) for key in mine)
    for a, b in zip(ours.tables, theirs.tables, strict=True):
        assert (a.context == b.context).all()
        assert (a.suffix == b.suffix).all()
        assert (a.word == b.word).all()


def test_a_program_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    program = save(tmp_path / "lmplz", "#!/bin/sh\necho no memory >&2\nexit 3\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(TrainingError, match="lmplz: failed with status 3: no memory"):
        estimate_ngram(TEXT, lmplz=str(program), folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lmplz"]


def test_a_missing_program_is_an_error_and_none_is_none() -> None:
    with pytest.raises(TrainingError, match="expected KenLM's program lmplz"):
        find_lmplz("no/such/lmplz")
    assert find_lmplz("none") is None


def test_a_killed_training_leaves_no_file(tmp_path: Path) -> None:
    fifo = tmp_path / "text.txt"
    subprocess.run(["mkfifo", str(fifo)], check=True)
    command = [sys.executable, "-m", "asr.cli", "train-ngram", str(fifo), str(tmp_path / "lm.arpa")]
    with subprocess.Popen(command) as process, fifo.open("w") as pipe:
        pipe.write("A B C\n" * 10_000)
        pipe.flush()
        process.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_manifests_give_their_texts(tmp_path: Path) -> None:
    rows = [{"id": str(n), "audio": "a.wav", "text": text, "duration_s": 1} for n, text in enumerate(["a b", "b c"])]
    path = save(tmp_path / "text.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert {"A", "B", "C"} < set(estimate_ngram(path, order=2).words)


def test_the_weights_of_a_network_are_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "model.safetensors"
    shutil.copyfile(AN4 / "model.safetensors", weights)
    before = weights.read_bytes()
    for command in (["train-ngram", str(TEXT)], ["lm-convert", str(save_ngram(tmp_path / "a.safetensors"))]):
        assert main.run_command([*command, str(weights)]) == 2
        assert "does not know as its own" in capsys.readouterr().err
        assert weights.read_bytes() == before


def test_a_trained_ngram_may_be_converted_in_its_place(tmp_path: Path) -> None:
    path = save_ngram(tmp_path / "a.safetensors")
    assert load_origin(path)["command"] == "asr train-ngram"
    assert main.run_command(["lm-convert", str(path), str(path), "--bits", "8"]) == 0
    assert open_ngram(path).arrays.quantized


def test_codes_for_an_arpa_file_are_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run_command(["train-ngram", "no/such/text", str(tmp_path / "a.arpa"), "--quantize"]) == 2
    assert "a name that ends in .safetensors" in capsys.readouterr().err


def test_a_text_in_another_alphabet_is_refused(tmp_path: Path) -> None:
    text = save(tmp_path / "text.txt", "привет мир\nкак дела\n")
    with pytest.raises(TrainingError, match="words in the model's alphabet, got none"):
        estimate_ngram(text, reading=TextReading(AN4))


def test_a_text_of_one_endless_line_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_texts, "LONGEST", 20)
    text = save(tmp_path / "text.txt", "A BB CCC DDDD " * 10 + "\nE F\n<s>\n")
    found = lm_texts.stream_sentences([text], TextReading(), None)
    sentences = []
    with pytest.raises(TrainingError, match=r"text.txt:3: <s> is reserved"):
        sentences.extend(found)
    assert " ".join(sentences).split() == "A BB CCC DDDD".split() * 10 + ["E", "F"]
    assert max(map(len, sentences)) <= 20


def test_an_interrupted_estimate_stops_lmplz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = save(tmp_path / "lmplz", f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def interrupted(process: subprocess.Popen[bytes]) -> int:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.01)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        estimate_ngram(TEXT, lmplz=str(program), folder=tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def save_ngram(path: Path) -> Path:
    assert main.run_command(["train-ngram", str(TEXT), str(path)]) == 0
    return path
