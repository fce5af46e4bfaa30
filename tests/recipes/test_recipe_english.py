"""The pool of English: what it takes from each source, what it leaves out, and that no test set is in it."""

from __future__ import annotations

import hashlib
import json
import tarfile
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from recipe import load_recipe
from test_recipes import librispeech, run, sound, write

from asr.config import sections
from asr.corpora.speech_gate import SpeechGate
from asr.data import manifest
from asr.data.manifest import Utterance

OTHERS = {
    "an4": ("an4_sphere.tar.gz", [], ["test"]),
    "speechocean762": ("speechocean762", [], ["test"]),
    "librispeech": ("LibriSpeech", ["--held-out", "27"], ["held_out"]),
    "ljspeech": ("LJSpeech-1.1", [], ["test", "train", "valid"]),
    "vctk": ("VCTK-Corpus", [], ["speaker/p239/test", "speaker/p239/train"]),
    "fsdd": ("free-spoken-digit-dataset-1.0.10.tar.gz", [], ["full", "test"]),
}
"""Recipe: its source in ASR_DATA, arguments, and the sets that the pool must not have."""


def english(folder: Path, name: str, rows: Iterable[dict[str, object]]) -> None:
    """A file of ``english/`` with a second of noise for each row."""
    lines = []
    for row in rows:
        row = {"audio": f"{name}/{row['id']}.opus", "speaker": f"{name}-x", "duration_s": 1.0} | row
        sound(folder / "english" / str(row["audio"]), float(str(row["duration_s"])), format="OGG", subtype="OPUS")
        lines.append(json.dumps(row) + "\n")
    write(folder / "english" / f"{name}.jsonl", "".join(lines))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Every source, small."""
    folder = tmp_path / "source"
    english(folder, "queen", [
        {"id": "queen-1", "text": "YEAH JOE", "speaker": "queen-joe"},
        {"id": "queen-2", "text": "NO", "speaker": "queen-key14"},
        {"id": "queen-3", "text": "THIRTY LETTERS IN ONE SECOND IS FASTER THAN ANYBODY", "speaker": "queen-joe"},
        {"id": "queen-4", "text": "NO. 3!", "speaker": "queen-joe"},
        {"id": "queen-5", "text": "TOO LONG", "speaker": "queen-joe", "duration_s": 19},
    ])  # fmt: skip
    english(folder, "barista", [
        {"id": "one", "text": "A LATTE PLEASE", "agree": 0.95},
        {"id": "two", "text": "A LADDER PLEASE", "agree": 0.5},
    ])  # fmt: skip
    english(folder, "ls251", [
        {"id": "ls251-27-1-0000", "text": "TESTED ON", "agree": 1.0},
        {"id": "ls251-103-1-0000", "text": "SPOKEN ONCE", "agree": 1.0},
        {"id": "ls251-1040-1-0000", "text": "HELD OUT", "agree": 1.0},
    ])  # fmt: skip
    english(folder, "kokoro", [{"id": "g1", "text": "MADE UP", "speaker": "far1"}])
    librispeech(folder / "LibriSpeech", "train-clean-100")
    chapter = folder / "LibriSpeech" / "train-clean-100"
    for speaker in ("27", "1040"):
        write(chapter / speaker / "1" / f"{speaker}-1.trans.txt", f"{speaker}-1-0000 NEVER TRAINED\n")
        sound(chapter / speaker / "1" / f"{speaker}-1-0000.flac", 1.0)
    corpus = tmp_path / "an4"
    for name, key in (("train", "an1-fash-b"), ("test", "an2-menk-b")):
        place = "an4_clstk/fash" if name == "train" else "an4test_clstk/menk"
        write(corpus / "etc" / f"an4_{name}.fileids", f"{place}/{key}\n")
        write(corpus / "etc" / f"an4_{name}.transcription", f"<s> GO </s> ({key})\n")
        sound(corpus / "wav" / place / f"{key}.sph", 0.7, format="NIST", subtype="PCM_16")
    with tarfile.open(folder / "an4_sphere.tar.gz", "w:gz") as archive:
        archive.add(corpus, "an4")
    return folder


@pytest.fixture
def pool(source: Path, tmp_path: Path) -> dict[str, list[Utterance]]:
    assert run("english", "--source", source, tmp_path / "out") == 0
    return {path.stem: manifest.read_manifest(path) for path in (tmp_path / "out").glob("*.jsonl")}


def ids(utterances: list[Utterance]) -> set[str]:
    return {u.id for u in utterances}


def test_held_out_and_test_speakers_are_in_no_training_set(pool: dict[str, list[Utterance]]) -> None:
    trained = [u for name, part in pool.items() if not name.startswith("valid") for u in part]
    assert not {u.speaker for u in trained} & {"queen-key14", "librispeech-1040", "librispeech-27"}
    assert ids(pool["valid"]) == {"queen-2", "ls251-1040-1-0000"}
    assert ids(pool["an4"]) == {"an4-an1-fash-b"}
    assert "librispeech-1040-1-0000" not in ids(pool["train"])


def test_the_gate_leaves_out_by_name_with_a_reason(pool: dict[str, list[Utterance]], tmp_path: Path) -> None:
    assert ids(pool["queen"]) == {"queen-1"}
    assert ids(pool["barista"]) == {"barista-one"}
    reasons = dict(line.split(": ", 1) for line in (tmp_path / "out" / "left_out.txt").read_text().splitlines())
    assert reasons["queen-3"].startswith("expected 1 to 25 letters a second, got 43.0")
    assert reasons["queen-4"].startswith("text: expected words in")
    assert reasons["queen-5"].startswith("expected 0.5 to 18 s, got 19.00 s")
    assert reasons["barista-two"] == "two recognisers agree on 0.50 of its text, expected 0.9"


def test_recorded_speech_is_together_in_train_and_synthetic_speech_apart(pool: dict[str, list[Utterance]]) -> None:
    recorded = {"queen", "barista", "ls251", "an4", "librispeech"}
    assert ids(pool["train"]) == set().union(*(ids(pool[name]) for name in recorded))
    assert {u.id: u.speaker for u in pool["synthetic"]} == {"kokoro-g1": "far1"}


def test_a_sentence_is_taken_once_and_with_its_own_text(source: Path, tmp_path: Path) -> None:
    place = source / "LibriSpeech" / "train-clean-100" / "103" / "1"
    write(place / "103-1.trans.txt", "103-1-0000 ITS OWN TEXT\n")
    sound(place / "103-1-0000.flac", 1.0)
    recipe = load_recipe("english")
    books = recipe.of_recipe("librispeech", source / "LibriSpeech", lm=[], held_out=[])
    assert {c.text for c in books if c.speaker == "librispeech-103"} == {"ITS OWN TEXT"}
    sets = recipe.read(source, Namespace(out=tmp_path / "out", librispeech=[], synthetic=[]))
    assert [c.text for c in sets["train"] if c.speaker == "librispeech-103"] == ["ITS OWN TEXT"]
    assert {c.id for c in sets["valid"]} >= {"ls251-1040-1-0000"}


@pytest.mark.parametrize(
    ("text", "duration_s", "reason"),
    [
        ("IT'S SO", 1.0, ""),
        ("G", 1.5, ""),
        ("A WORD", 12.0, "expected 1 to 25 letters a second, got 0.4"),
        ("X" * 26, 1.0, "expected 1 to 25 letters a second, got 26.0"),
        ("YES", 0.2, "expected 0.5 to 18 s, got 0.20 s"),
        ("", 1.0, "text: expected words in"),
        ("NAÏVE", 1.0, "text: expected words in ABCDEFGHIJKLMNOPQRSTUVWXYZ', got 'Ï' in 'NAÏVE'"),
    ],
)
def test_the_gate_says_what_is_wrong(text: str, duration_s: float, reason: str) -> None:
    fault = SpeechGate().fault(text, duration_s)
    assert fault.startswith(reason)
    assert bool(fault) == bool(reason)


def test_the_configurations_differ_in_the_network_alone() -> None:
    conf = Path(load_recipe("english").__file__ or "").parent / "conf"
    big, stream, small = (sections.load_config(conf / f"{name}.yaml") for name in ("blstm", "lstm_stream", "small"))
    assert big.data == stream.data == small.data
    assert big.augment == stream.augment == small.augment
    assert big.output_frame_s == stream.output_frame_s == small.output_frame_s == pytest.approx(0.03)


# ------------------------------------------------------------------------------------------------ on real speech


def audio_hash(utterance: Utterance) -> str:
    content = hashlib.sha256(Path(utterance.audio).read_bytes()).hexdigest()
    return f"{content} {utterance.start_s} {utterance.end_s}"


def test_no_test_set_of_any_recipe_is_in_the_pool(asr_data: Callable[[str], Path], tmp_path: Path) -> None:
    """By id, in the form that each source has it in, and by the bytes of the audio."""
    root = asr_data("an4_sphere.tar.gz").parent
    assert run("english", "--source", root, tmp_path / "english") == 0
    trained = manifest.read_manifest(tmp_path / "english" / "train.jsonl")
    trained += manifest.read_manifest(tmp_path / "english" / "synthetic.jsonl")
    names, hashes = {u.id for u in trained}, {audio_hash(u) for u in trained}
    stems = {Path(u.audio).stem for u in trained}
    assert len(trained) > 15_000
    for name, (place, arguments, sets) in OTHERS.items():
        if not (root / place).exists():
            continue
        assert run(name, "--source", root / place, *arguments, tmp_path / name) in (0, 1)
        tested = [u for part in sets for u in manifest.read_manifest(tmp_path / name / f"{part}.jsonl")]
        assert tested
        known = [u.id for u in tested if {u.id, f"{name}-{u.id}", f"ls251-{u.id}"} & names]
        known += [u.id for u in tested if Path(u.audio).stem in stems or audio_hash(u) in hashes]
        assert known == []
    assert not {u.speaker for u in trained} & (load_recipe("english").VALID | {"librispeech-27"})
    assert len({u.speaker for u in manifest.read_manifest(tmp_path / "english" / "valid.jsonl")}) == 48
