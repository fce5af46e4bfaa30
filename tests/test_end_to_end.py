"""The tones corpus (egs/tones) from nothing to a WER, by the commands of its README, each in a process of its own.

Everything before this file tests parts; here a user's way is gone once: make a corpus, train, evaluate, score,
transcribe with a bad file among the good ones, and stream.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import asr
from asr.audio import read
from asr.data import manifest
from asr.recognize import output_folder

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "egs" / "tones"
# CTC tells in which letter a token fell, not where in it: the slowest letter lasts 0.145 s, an output frame 0.04 s.
TIME_TOLERANCE_S = 0.2

Times = dict[str, list[tuple[str, float, float]]]


def run(*command: Any, status: int = 0) -> subprocess.CompletedProcess[str]:
    """``python COMMAND`` in the repository's root, which must end with ``status``."""
    # One thread: on a busy machine the threads of so small a network spend most of their time waiting.
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == status, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


def read_ctm(path: Path) -> Times:
    """(word, start, end) by recording, from a CTM file."""
    times: Times = {}
    for line in path.read_text().splitlines():
        name, _, start, duration, word = line.split()[:5]
        times.setdefault(name, []).append((word, float(start), float(start) + float(duration)))
    return times


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus, with fewer utterances to test on."""
    folder = tmp_path_factory.mktemp("tones")
    run(EXAMPLE / "make.py", folder, "--valid", 30, "--test", 100)
    return folder


@pytest.fixture(scope="module")
def model(tones: Path) -> Path:
    """A model trained as the README says."""
    folder = tones / "model"
    data = (f"data.train={tones / 'train.jsonl'}", f"data.valid={tones / 'valid.jsonl'}")
    run("-m", "asr.cli", "train", EXAMPLE / "conf.yaml", *data, f"train.output={folder}")
    return folder


@pytest.fixture(scope="module")
def evaluation(tones: Path, model: Path) -> tuple[dict[str, Any], str]:
    """What ``asr evaluate --json`` wrote and what it printed."""
    out = tones / "test.json"
    result = run("-m", "asr.cli", "evaluate", tones / "test.jsonl", "--model", model, "--json", out)
    return json.loads(out.read_text()), result.stdout


@pytest.fixture
def recognizer(model: Path) -> Iterator[asr.Recognizer]:
    """The trained model, computing with one thread for the reason given in ``run``."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield asr.load(model, device="cpu")
    torch.set_num_threads(threads)


def test_corpus_has_disjoint_speakers_and_true_times(tones: Path) -> None:
    splits = {name: manifest.read_manifest(tones / f"{name}.jsonl", root=tones) for name in ("train", "valid", "test")}
    assert {name: len(split) for name, split in splits.items()} == {"train": 600, "valid": 30, "test": 100}
    speakers = [{u.speaker for u in split} for split in splits.values()]
    assert len(set.union(*speakers)) == sum(map(len, speakers))
    for name, split in splits.items():
        times = read_ctm(tones / f"{name}.ctm")
        for utterance in split:
            words, starts, ends = zip(*times[utterance.id], strict=True)
            assert " ".join(words) == utterance.text
            bounds = [0.0, *(t for pair in zip(starts, ends, strict=True) for t in pair), utterance.duration_s]
            assert bounds == sorted(bounds)
    info = read.probe_audio(splits["test"][0].audio)
    assert (info.sample_rate_hz, info.channels) == (16000, 1)
    assert info.duration_s == splits["test"][0].duration_s


def test_sound_is_where_the_times_say(tones: Path) -> None:
    times = read_ctm(tones / "test.ctm")
    for utterance in manifest.read_manifest(tones / "test.jsonl")[::10]:
        samples = read.load_audio(utterance.audio)
        speech = np.zeros(len(samples), dtype=bool)
        for _, start, end in times[utterance.id]:
            speech[round(start * 16000) : round(end * 16000)] = True
        assert np.std(samples[speech]) > 4 * np.std(samples[~speech])


def test_corpus_is_the_same_each_time_and_grows_at_its_end(tones: Path, tmp_path: Path) -> None:
    run(EXAMPLE / "make.py", tmp_path, "--train", 7, "--valid", 1, "--test", 1)
    for name, count in (("train", 7), ("valid", 1), ("test", 1)):
        small = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        assert small == (tones / f"{name}.jsonl").read_text().splitlines()[:count]
    for path in (tmp_path / "audio").rglob("*.flac"):
        expected, _ = soundfile.read(tones / path.relative_to(tmp_path), dtype="int16")
        assert np.array_equal(soundfile.read(path, dtype="int16")[0], expected)
    run(EXAMPLE / "make.py", tmp_path / "other", "--train", 1, "--valid", 1, "--test", 1, "--seed", 2)
    assert (tmp_path / "other" / "train.jsonl").read_text().splitlines()[0] != small[0]


def test_corpus_of_no_utterances_is_refused(tmp_path: Path) -> None:
    result = run(EXAMPLE / "make.py", tmp_path, "--train", 0, status=2)
    assert "expected utterances" in result.stderr
    assert "Traceback" not in result.stderr


def test_wer_on_new_speakers_is_below_two_percent(evaluation: tuple[dict[str, Any], str]) -> None:
    report, printed = evaluation
    assert report["wer"] < 0.02
    assert report["failures"] == {}
    assert printed.startswith(f"WER {100 * report['wer']:.2f} % ({report['errors']}/{report['words']};")


def test_the_rates_of_an_evaluation_are_its_counts(evaluation: tuple[dict[str, Any], str]) -> None:
    report, _ = evaluation
    assert report["errors"] == report["substitutions"] + report["deletions"] + report["insertions"]
    assert report["wer"] == report["errors"] / report["words"]
    wrong = sum(u["hypothesis"] != u["reference"] for u in report["utterances"])
    assert report["ser"] == wrong / len(report["utterances"])


def test_the_rates_of_an_evaluation_are_in_order(evaluation: tuple[dict[str, Any], str]) -> None:
    report, _ = evaluation
    assert report["cer"] <= report["wer"] <= report["ser"]
    low, high = report["ci95"]
    assert 0 <= low <= report["wer"] <= high < 0.1


def test_an_evaluation_has_the_references_of_the_manifest(evaluation: tuple[dict[str, Any], str], tones: Path) -> None:
    report, _ = evaluation
    references = {u.id: u.text for u in manifest.read_manifest(tones / "test.jsonl")}
    assert {u["id"]: u["reference"] for u in report["utterances"]} == references
    assert report["words"] == sum(len(text.split()) for text in references.values())


def test_score_agrees_with_evaluate(evaluation: tuple[dict[str, Any], str], tones: Path) -> None:
    printed = run("-m", "asr.cli", "score", tones / "test.jsonl", tones / "test.json").stdout
    assert printed.splitlines()[0] == evaluation[1].splitlines()[0]


def test_model_directory_says_what_it_is(model: Path) -> None:
    names = {path.name for path in model.iterdir()}
    assert {"config.yaml", "tokens.txt", "stats.json", "model.safetensors", "card.json", "log.jsonl"} <= names
    card = json.loads((model / "card.json").read_text())
    assert card["training_data"]["utterances"] == 600
    assert card["training_data"]["speakers"] == 120
    assert card["validation"]["wer"] < 0.02
    log = [json.loads(line) for line in (model / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < 0.05 * losses[0]
    assert "unidirectional lstm" in run("-m", "asr.cli", "info", model).stdout


def test_training_again_does_not_overwrite(model: Path, tones: Path) -> None:
    before = (model / "model.safetensors").read_bytes()
    data = (f"data.train={tones / 'train.jsonl'}", f"data.valid={tones / 'valid.jsonl'}")
    command = ("-m", "asr.cli", "train", EXAMPLE / "conf.yaml", *data, f"train.output={model}")
    assert "--resume" in run(*command, status=2).stderr
    result = run(*command, "--resume")  # nothing is left to do
    assert result.stdout.startswith(f"{model}: best validation WER ")
    assert (model / "model.safetensors").read_bytes() == before


def test_transcribe_writes_the_good_files_and_reports_the_bad_ones(
    evaluation: tuple[dict[str, Any], str], tones: Path, model: Path, tmp_path: Path
) -> None:
    utterances = manifest.read_manifest(tones / "test.jsonl")[:6]
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    for utterance in utterances[:5]:
        (folder / "sub" / f"{utterance.id}.flac").write_bytes(Path(utterance.audio).read_bytes())
    good = Path(utterances[0].audio).read_bytes()
    (folder / "cut.flac").write_bytes(good[: len(good) // 2])
    (folder / "text.wav").write_text("this is no audio\n")
    inputs = (utterances[5].audio, folder, tmp_path / "missing.wav")
    result = run(
        *("-m", "asr.cli", "transcribe", *inputs, "--model", model, "--format", "json", "--output-dir", out), status=1
    )
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    for name in ("cut.flac", "text.wav", "missing.wav"):
        assert sum(name in line for line in errors) == 1
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["done"], summary["failed"]) == (6, 3)
    (out / "summary.json").unlink()
    names = {output_folder.RECORD, f"{utterances[5].id}.json", *(f"sub/{u.id}.json" for u in utterances[:5])}
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == names
    hypotheses = {u["id"]: u["hypothesis"] for u in evaluation[0]["utterances"]}
    for path in out.rglob("*.json"):
        assert json.loads(path.read_text())["text"] == hypotheses[path.stem]


def test_words_have_true_times_and_confidences(recognizer: asr.Recognizer, tones: Path) -> None:
    times = read_ctm(tones / "test.ctm")
    starts, ends, confidences = [], [], []
    for utterance in manifest.read_manifest(tones / "test.jsonl")[:40]:
        transcript = recognizer.transcribe(utterance.audio)
        assert transcript.text == " ".join(word.text for word in transcript.words)
        assert transcript.duration_s == pytest.approx(utterance.duration_s)
        bounds = [0.0, *(t for w in transcript.words for t in (w.start_s, w.end_s)), transcript.duration_s]
        assert bounds == sorted(bounds)
        assert all(0 <= word.confidence <= 1 for word in transcript.words)
        if transcript.text == utterance.text:  # times of wrong words have no truth to compare with
            for word, (_, start, end) in zip(transcript.words, times[utterance.id], strict=True):
                starts.append(abs(word.start_s - start))
                ends.append(abs(word.end_s - end))
                confidences.append(word.confidence)
    assert len(starts) > 100
    assert max(starts) < TIME_TOLERANCE_S
    assert max(ends) < TIME_TOLERANCE_S
    assert statistics.median(confidences) > 0.9


def test_silence_and_noise_alone_give_no_words(recognizer: asr.Recognizer) -> None:
    noise = np.random.default_rng(0).normal(0, 1e-3, 32000).astype(np.float32)
    assert recognizer.transcribe(np.zeros(32000, dtype=np.float32)).words == ()
    assert recognizer.transcribe(noise).words == ()


def test_beam_search_scores_at_least_the_best_path(recognizer: asr.Recognizer, model: Path, tones: Path) -> None:
    waveforms = [read.load_audio(u.audio) for u in manifest.read_manifest(tones / "test.jsonl")[:8]]
    log_probs, lengths = recognizer.log_probs(waveforms)
    searched = asr.load(model, device="cpu", beam=8).decoder.decode(log_probs, lengths)
    for best, greedy in zip(searched, recognizer.decoder.decode(log_probs, lengths), strict=True):
        assert best.score >= greedy.score - 1e-4  # all alignments of a text, of which the best path is one


@pytest.mark.parametrize("block_samples", [160, 1237, 16000])
def test_stream_equals_the_whole(recognizer: asr.Recognizer, tones: Path, block_samples: int) -> None:
    samples = read.load_audio(manifest.read_manifest(tones / "test.jsonl")[0].audio)
    whole, _ = recognizer.log_probs([samples])
    features = state = None
    blocks = []
    with torch.inference_mode():
        for start in range(0, len(samples), block_samples):
            block = torch.from_numpy(samples[start : start + block_samples])[None]
            frames, features = recognizer.backend.log_mel.stream(block, features)
            log_probs, state = recognizer.backend.network.stream(frames, state)
            blocks.append(log_probs.numpy())
    assert len(blocks) == math.ceil(len(samples) / block_samples)
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), whole, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("compiled_search")
def test_example_prints_words_and_goes_on_after_a_bad_file(
    evaluation: tuple[dict[str, Any], str], tones: Path, model: Path
) -> None:
    utterances = manifest.read_manifest(tones / "test.jsonl")[:2]
    hypotheses = {u["id"]: u["hypothesis"] for u in evaluation[0]["utterances"]}
    paths = (utterances[0].audio, tones / "test.jsonl", utterances[1].audio)
    result = run(ROOT / "egs" / "transcribe.py", *paths, "--model", model, status=1)
    assert "test.jsonl" in next(line for line in result.stderr.splitlines() if line.startswith("error: "))
    lines = result.stdout.splitlines()
    for utterance in utterances:
        text = hypotheses[utterance.id]
        at = lines.index(f"{utterance.audio}: {text}")
        assert [line.split()[-1] for line in lines[at + 1 : at + 1 + len(text.split())]] == text.split()
    assert run(ROOT / "egs" / "transcribe.py", utterances[0].audio, "--model", model).stderr == ""
