"""The JSON of evaluations: what is written is read again; older files work; faults are named."""

import json
from pathlib import Path

import pytest

from asr.errors import ManifestError
from asr.evaluation.evaluation_file import UtteranceDetails, join_evaluations, parse_evaluation, read_evaluation
from asr.evaluation.model_scores import evaluate_model
from asr.scoring import wer
from asr.scoring.rules import Rules
from asr.transcript import Word

ENTRY = {"id": "a", "reference": "GO ON", "hypothesis": "GO"}


def tree(*entries, **head):
    return {"format": 2, **head, "utterances": list(entries) or [ENTRY]}


def test_details_are_read_as_they_were_written():
    words = (Word("GO", 0.1, 0.25, 0.875), Word("ON", 0.3, 0.5, 0.5))
    details = UtteranceDetails("/x/a.wav", 1.5, 3.25, 1, 1.75, 12.5, -23.0, 0.75, 0.5, -12.25, -3.5, words)
    assert UtteranceDetails.from_dict(json.loads(json.dumps(details.to_dict())), "a") == details


def test_what_is_not_known_stays_unknown():
    assert UtteranceDetails.from_dict(UtteranceDetails().to_dict(), "a") == UtteranceDetails()


@pytest.fixture
def evaluated(recognizer, bursts, write_wav, tmp_path):
    """The path of a manifest, what ``evaluate_model`` finds on it, and that read from its JSON."""
    from asr.data import manifest
    from asr.data.manifest import Utterance

    for i in range(3):
        write_wav(tmp_path / f"{i}.wav", bursts(2 + i, seed=i))
    path = tmp_path / "set.jsonl"
    manifest.write_manifest(
        path, [Utterance(f"u{i}", str(tmp_path / f"{i}.wav"), "A B", 2.0 + i, "ann") for i in range(3)]
    )
    result = evaluate_model(path, recognizer, noise=True)
    return path, result, parse_evaluation(json.loads(json.dumps(result.to_dict(), allow_nan=False)), "x.json")


def test_an_evaluation_is_read_with_its_figures(evaluated, recognizer):
    path, result, found = evaluated
    assert found.report == result.report
    assert found.corpora == dict.fromkeys(("u0", "u1", "u2"), "set")
    assert (found.model, found.manifest) == (str(recognizer.model.path), str(path))


def test_an_evaluation_is_read_with_the_words_of_each_utterance(evaluated, recognizer):
    for details in evaluated[2].details.values():
        transcript = recognizer.transcribe(details.audio)
        assert [word.text for word in details.words] == transcript.text.split()
        starts = [w.start_s for w in transcript.words]
        assert [word.start_s for word in details.words] == pytest.approx(starts, abs=1e-3)


def test_an_evaluation_is_read_with_the_scores_of_each_utterance(evaluated, recognizer):
    for name, details in evaluated[2].details.items():
        transcript = recognizer.transcribe(details.audio)
        assert details.confidence == pytest.approx(transcript.confidence, abs=1e-4)
        assert details.acoustic_score == pytest.approx(transcript.acoustic_score, abs=0.01)
        assert details.snr_db is not None, name
        assert details.duration_s == 2.0 + int(name[1:])


def test_the_json_of_asr_score_works_without_details():
    report = wer.score({"a": "GO ON", "b": "STOP"}, {"a": "GO", "b": "STOP"}, Rules(ignore_case=True))
    found = parse_evaluation(json.loads(json.dumps(report.to_dict())), "scores/today.json")
    assert found.report.errors == 1
    assert found.report.rules == Rules(ignore_case=True)
    assert found.details == {"a": UtteranceDetails(), "b": UtteranceDetails()}
    assert set(found.corpora.values()) == {"today"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected the JSON of asr evaluate"),
        ({"utterances": 3}, "expected the JSON of asr evaluate"),
        (tree(format=3), "expected an evaluation of format 1 or 2, got 3"),
        ({"utterances": []}, "expected utterances, got none"),
        (tree(3), r"utterances\[0\]: expected a JSON object"),
        (tree(ENTRY, ENTRY), r"utterances\[1\]: expected each id once, got 'a' again"),
        (tree(ENTRY | {"id": 5}), r"utterances\[0\]: id: expected a text, got 5"),
        (tree(ENTRY | {"duration_s": "long"}), r"duration_s: expected a number, got 'long'"),
        (tree(ENTRY | {"hypothesis_words": ["GO"]}), r"hypothesis_words: expected a list of words"),
        (tree(ENTRY | {"hypothesis_words": [{"text": "GO"}]}), r"hypothesis_words\[0\]: start_s: expected a number"),
        (tree(ENTRY | {"reference": "{ a / b"}), r"bad\.json: utterance a: "),
        (tree(words_outside_lexicon="GO"), "words_outside_lexicon: expected a list of words"),
        (tree(rules={}), "rules: expected"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=message) as caught:
        read_evaluation(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[" * 5000, '{"utterances": [{"duration_s": 1e999}]}'])
def test_what_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(ManifestError, match=r"bad\.json: cannot read the evaluation"):
        read_evaluation(path)


def test_several_corpora_become_one_evaluation():
    """Equal names of corpora take their folders, equal ids their corpora."""
    one = parse_evaluation(tree(manifest="/data/an4/test.jsonl", model="/m", audio_s=2.0), "1.json")
    two = parse_evaluation(tree(ENTRY | {"hypothesis": ""}, manifest="/data/libri/test.jsonl", model="/m"), "2.json")
    found = join_evaluations([one, two])
    assert [u.id for u in found.report.utterances] == ["an4/test/a", "libri/test/a"]
    assert found.corpora == {"an4/test/a": "an4/test", "libri/test/a": "libri/test"}
    assert found.report.errors == one.report.errors + two.report.errors
    assert found.model == "/m"
    assert found.audio_s is None


def test_evaluations_by_different_rules_are_not_joined():
    one = parse_evaluation(tree(), "1.json")
    two = parse_evaluation(tree(rules=Rules(ignore_case=True).to_dict()), "2.json")
    with pytest.raises(ManifestError, match=r"same rules, got 1\.json by the usual rules and 2\.json by --ignore-case"):
        join_evaluations([one, two])


def test_one_evaluation_twice_is_refused():
    one = parse_evaluation(tree(), "1.json")
    with pytest.raises(ManifestError, match="different corpora"):
        join_evaluations([one, one])
