"""Scoring a model on a manifest: the same figures as scoring its transcripts, and failures that do not hide."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.cli import main
from asr.config.sections import TextConfig
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import ConfigError, ManifestError
from asr.evaluation.model_scores import Evaluation, evaluate_model, evaluate_stream
from asr.recognize.recognizer import Recognizer
from asr.recognize.stream import Stream
from asr.scoring import wer
from asr.scoring.rules import LITERAL_RULES
from asr.text.normalisation import normalise

Bursts = Callable[..., np.ndarray]
Write = Callable[..., Path]

TEXTS = ["oh one  two", "ULL L", "", "A B C D", "É IS UNKNOWN"]


@pytest.fixture
def corpus(tmp_path: Path, bursts: Bursts, write_wav: Write) -> Path:
    """A manifest of five utterances, the last of them cut out of the fourth's recording."""
    folder = tmp_path / "corpus"
    utterances = []
    for i, text in enumerate(TEXTS[:4]):
        path = write_wav(folder / "wav" / f"{i}.wav", bursts(2 + i, seed=i))
        utterances.append(Utterance(f"u{i}", str(path), text, 2.0 + i))
    utterances.append(Utterance("u4", str(path), TEXTS[4], 2.5, start_s=1.0, end_s=3.5))
    manifest.write_manifest(folder / "test.jsonl", utterances)
    return folder / "test.jsonl"


def append(path: Path, *utterances: Utterance) -> None:
    known = manifest.read_manifest(path)
    manifest.write_manifest(path, [*known, *utterances])


def run(*args: str | Path) -> int:
    return main.run_command(list(map(str, args)))


def transcripts(recognizer: Recognizer, path: Path, ids: Sequence[str]) -> dict[str, str]:
    """What the recogniser makes of each utterance on its own."""
    texts = {}
    for u in manifest.read_manifest(path):
        if u.id in ids:
            samples = soundfile.read(u.audio, dtype="float32")[0]
            end = None if u.end_s is None else round(u.end_s * 16000)
            texts[u.id] = recognizer.transcribe(samples[round(u.start_s * 16000) : end]).text
    return texts


def test_figures_are_those_of_the_transcripts(recognizer: Recognizer, corpus: Path) -> None:
    result = evaluate_model(corpus, recognizer)
    ids = [f"u{i}" for i in range(5)]
    references = {id: normalise(text, TextConfig()) for id, text in zip(ids, TEXTS, strict=True)}
    expected = wer.score(references, transcripts(recognizer, corpus, ids))
    assert result.report == expected
    assert expected.words == 3 + 2 + 0 + 4 + 3  # a word with an unknown letter counts, and so is wrong
    assert expected.errors > 0
    assert [u.id for u in result.report.utterances] == ids
    assert any(u.hypothesis for u in expected.utterances)
    assert result.failures == {}
    assert result.audio_s == pytest.approx(2 + 3 + 4 + 5 + 2.5)
    assert result.seconds > 0


def test_references_are_normalised_as_in_training(recognizer: Recognizer, corpus: Path) -> None:
    """Case and blanks are the manifest's affair, not errors of the model."""
    (first,) = (u for u in evaluate_model(corpus, recognizer).report.utterances if u.id == "u0")
    assert first.reference == "OH ONE TWO"


def test_failures_are_named_and_not_scored(
    recognizer: Recognizer, corpus: Path, write_wav: Write, tmp_path: Path
) -> None:
    whole = evaluate_model(corpus, recognizer).report
    short = write_wav(tmp_path / "short.wav", np.zeros(100))
    append(corpus, Utterance("gone", str(tmp_path / "gone.wav"), "OH", 1.0), Utterance("short", str(short), "OH", 1.0))
    result = evaluate_model(corpus, recognizer)
    assert result.report == whole
    assert list(result.failures) == ["gone", "short"]
    assert "gone.wav: no such file" in result.failures["gone"]
    assert "short.wav: expected at least 0.025 s" in result.failures["short"]


def test_nothing_transcribed_is_an_error(recognizer: Recognizer, tmp_path: Path) -> None:
    manifest.write_manifest(tmp_path / "m.jsonl", [Utterance("a", str(tmp_path / "gone.wav"), "OH", 1.0)])
    with pytest.raises(ManifestError, match=r"m\.jsonl: none of 1 .*gone\.wav"):
        evaluate_model(tmp_path / "m.jsonl", recognizer)


@pytest.mark.parametrize("how", [evaluate_model, functools.partial(evaluate_stream, chunk_s=0.64)])
def test_a_reference_that_cannot_be_scored_is_refused_before_anything_is_transcribed(
    how: Callable[..., Evaluation], recognizer: Recognizer, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(corpus, Utterance("bad", str(corpus.parent / "wav" / "0.wav"), "A { B / C", 1.0))
    assert any("{" in u.reference for u in how(corpus, recognizer, rules=LITERAL_RULES).report.utterances)
    monkeypatch.setattr("asr.audio.read.load_audio", None)
    with pytest.raises(ManifestError, match=r"utterance bad: alternatives that do not end.*--literal"):
        how(corpus, recognizer)


def test_audio_outside_the_root_is_refused(recognizer: Recognizer, corpus: Path, tmp_path: Path) -> None:
    evaluate_model(corpus, recognizer, root=corpus.parent)
    with pytest.raises(ManifestError, match="outside the root"):
        evaluate_model(corpus, recognizer, root=tmp_path / "elsewhere")


# ------------------------------------------------------------------------------------------------ asr evaluate


@pytest.mark.usefixtures("compiled_search")
def test_command_prints_the_report_and_the_speed(
    recognizer: Recognizer, model_dir: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", corpus, "--model", model_dir, "--device", "cpu") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    summary, speed = printed.out.splitlines()
    assert summary == evaluate_model(corpus, recognizer).report.summary()
    assert "16.5 s of audio in" in speed
    assert "x real time" in speed


@pytest.fixture
def written(model_dir: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The JSON that ``asr evaluate`` writes."""
    out = tmp_path / "report.json"
    assert run("evaluate", corpus, "--model", model_dir, "--device", "cpu", "--json", out) == 0
    capsys.readouterr()
    return out


def test_command_writes_the_figures_of_the_report(recognizer: Recognizer, corpus: Path, written: Path) -> None:
    report = evaluate_model(corpus, recognizer).report
    tree = json.loads(written.read_text(encoding="utf-8"))
    for name in ("wer", "cer", "ser", "errors", "words", "substitutions", "deletions", "insertions"):
        assert tree[name] == getattr(report, name)
    assert tree["ci95"] == list(report.ci95)
    assert 0 <= tree["ci95"][0] <= tree["wer"] <= tree["ci95"][1]


def test_command_writes_failures_and_speed(written: Path) -> None:
    tree = json.loads(written.read_text(encoding="utf-8"))
    assert (tree["failures"], tree["audio_s"]) == ({}, 16.5)
    assert tree["real_time_factor"] == pytest.approx(tree["seconds"] / 16.5, abs=1e-4)


def test_command_writes_the_utterances(recognizer: Recognizer, corpus: Path, written: Path) -> None:
    tree = json.loads(written.read_text(encoding="utf-8"))
    assert [(u["id"], u["reference"], u["hypothesis"]) for u in tree["utterances"]] == [
        (u.id, u.reference, u.hypothesis) for u in evaluate_model(corpus, recognizer).report.utterances
    ]


def test_the_report_is_a_hypothesis_file_that_scores_the_same(
    recognizer: Recognizer, corpus: Path, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = evaluate_model(corpus, recognizer).report
    references = tmp_path / "ref.txt"
    references.write_text("".join(f"{u.id} {u.reference}\n" for u in report.utterances), encoding="utf-8")
    assert run("score", references, written) == 0
    assert capsys.readouterr().out.strip() == report.summary()


def test_command_reports_failures_and_scores_the_rest(
    model_dir: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append(corpus, Utterance("gone", str(tmp_path / "gone.wav"), "OH", 1.0))
    out = tmp_path / "report.json"
    assert run("evaluate", corpus, "--model", model_dir, "--json", out) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [f"error: gone: {tmp_path / 'gone.wav'}: no such file"]
    assert printed.out.startswith("WER ")
    tree = json.loads(out.read_text(encoding="utf-8"))
    assert list(tree["failures"]) == ["gone"]
    assert len(tree["utterances"]) == 5


def test_command_shows_the_errors(model_dir: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", corpus, "--model", model_dir, "--errors") == 0
    out = capsys.readouterr().out
    assert "u0\nREF: OH" in out
    assert out.splitlines()[-2].startswith("WER ")


@pytest.mark.parametrize("content", ["", "{", '{"id": "a"}\n', "a.wav\n"])
def test_command_refuses_a_bad_manifest(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "m.jsonl").write_text(content)
    assert run("evaluate", tmp_path / "m.jsonl", "--model", model_dir) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {tmp_path / 'm.jsonl'}")
    assert printed.out == ""


def test_command_refuses_a_report_that_cannot_be_written(
    model_dir: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", corpus, "--model", model_dir, "--json", tmp_path / "no" / "folder.json") == 2
    assert "folder.json: cannot write" in capsys.readouterr().err
    assert run("evaluate", corpus, "--model", model_dir, "--json", tmp_path) == 2
    printed = capsys.readouterr()
    assert f"{tmp_path}: cannot write: expected a file" in printed.err
    assert printed.out == ""  # refused before the work


def test_command_takes_a_beam(model_dir: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", corpus, "--model", model_dir, "--beam", "4") == 0
    assert capsys.readouterr().out.startswith("WER ")


@pytest.mark.parametrize("block_s", [0.1, 5.0])
def test_streamed_utterances_are_those_of_a_stream(recognizer: Recognizer, corpus: Path, block_s: float) -> None:
    whole = evaluate_stream(corpus, recognizer, block_s=block_s, chunk_s=60.0).report
    assert whole.to_dict() == evaluate_model(corpus, recognizer).report.to_dict()
    chunks = evaluate_stream(corpus, recognizer, block_s=block_s, chunk_s=0.2, right_s=0.1).report
    for u in manifest.read_manifest(corpus):
        samples = soundfile.read(u.audio, dtype="float32")[0]
        stream = Stream(recognizer, chunk_s=0.2, right_s=0.1)
        stream.accept(samples[round(u.start_s * 16000) : None if u.end_s is None else round(u.end_s * 16000)])
        assert {x.id: x.hypothesis for x in chunks.utterances}[u.id] == stream.finish().text
    assert chunks.to_dict() != whole.to_dict()


def test_an_utterance_on_one_channel_is_heard_on_it(recognizer: Recognizer, corpus: Path, tmp_path: Path) -> None:
    """Offline and streamed: the other channel is noise."""
    one = next(u for u in manifest.read_manifest(corpus) if u.end_s is None)
    mono = soundfile.read(one.audio, dtype="float32")[0]
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, len(mono)).astype(np.float32)
    soundfile.write(tmp_path / "both.wav", np.stack([noise, mono], axis=1), 16000, subtype="FLOAT")
    manifest.write_manifest(tmp_path / "one.jsonl", [one])
    manifest.write_manifest(
        tmp_path / "both.jsonl", [dataclasses.replace(one, audio=str(tmp_path / "both.wav"), channel=1)]
    )
    texts = {
        evaluate_model(tmp_path / f"{name}.jsonl", recognizer).report.utterances[0].hypothesis
        for name in ("one", "both")
    }
    streamed = {
        evaluate_stream(tmp_path / f"{name}.jsonl", recognizer, chunk_s=60.0).report.utterances[0].hypothesis
        for name in ("one", "both")
    }
    assert texts == streamed
    assert len(texts) == 1


def test_streaming_on_the_command_line_reaches_the_network(model_dir: Path, corpus: Path, tmp_path: Path) -> None:
    rates = []
    for options in (
        [],
        ["--stream", "0.1", "--chunk-s", "60"],
        ["--stream", "0.1", "--chunk-s", "0.2", "--right-s", "0"],
    ):
        out = tmp_path / "report.json"
        assert run("evaluate", corpus, "--model", model_dir, "--json", out, *options) == 0
        rates.append(json.loads(out.read_text())["utterances"])
    assert rates[0] == rates[1] != rates[2]


def test_a_failure_while_streaming_is_named_and_the_rest_scored(
    recognizer: Recognizer, corpus: Path, tmp_path: Path
) -> None:
    append(corpus, Utterance("lost", str(tmp_path / "lost.wav"), "A", 1.0))
    result = evaluate_stream(corpus, recognizer, chunk_s=1.0)
    assert list(result.failures) == ["lost"]
    assert len(result.report.utterances) == len(TEXTS)


def test_streaming_options_that_make_no_sense(
    recognizer: Recognizer, corpus: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="block_s: expected a number above 0"):
        evaluate_stream(corpus, recognizer, block_s=0.0, chunk_s=1.0)
    with pytest.raises(ConfigError, match="chunk_s above 0"):
        evaluate_stream(corpus, recognizer, chunk_s=0.0)
    assert run("evaluate", corpus, "--model", model_dir, "--chunk-s", "1") == 2
    assert "--chunk-s: expected --stream" in capsys.readouterr().err


def test_a_result_without_audio_has_no_speed() -> None:
    result = Evaluation(wer.score({"a": "X"}, {"a": ""}), {}, 0.0, 0.5)
    assert "0.0 s of audio in 0.50 s\n" in result.summary() + "\n"
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["real_time_factor"] is None


def test_command_folds_case_and_prints_details_and_speakers(
    model_dir: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [
        Utterance(u.id, u.audio, u.text, u.duration_s, "anna", u.start_s, u.end_s)
        for u in manifest.read_manifest(corpus)
    ]
    manifest.write_manifest(corpus, told)
    out = tmp_path / "report.json"
    assert run("evaluate", corpus, "--model", model_dir, "--ignore-case", "--details", "--speakers", "--json", out) == 0
    printed = capsys.readouterr().out
    assert "anna  5 utterances  WER" in printed
    assert "MER " in printed.splitlines()[-1]
    tree = json.loads(out.read_text())
    assert tree["utterances"][0]["reference"] == "oh one two"
    assert tree["speakers"][0]["errors"] == tree["errors"]
