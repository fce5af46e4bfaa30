"""Whisper as a teacher of the English recipe: texts of recordings, labels, a judge of synthetic speech."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from recipe import RECIPES
from test_recipes import sound, write

from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import AsrError, ConfigError

SCRIPT = RECIPES / "english" / "teachers.py"


@pytest.fixture
def teachers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("english_teachers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class StandIn:
    """Stands for ``faster_whisper.WhisperModel``: its text is the length of what it hears."""

    folder: str
    device: str
    compute_type: str
    cpu_threads: int
    hf_tokenizer = SimpleNamespace(get_vocab=lambda: {"Ġten": 1, "10": 2, "Ġ£": 3, "<|0.00|>": 4, "%": 5})

    def transcribe(self, samples: np.ndarray, **options: Any) -> tuple[list[SimpleNamespace], None]:
        assert samples.dtype == np.float32
        assert options["language"] == "en"
        assert options["suppress_tokens"] == [-1, 2, 3, 5]  # numbers come in words; times of segments are no numbers
        return [SimpleNamespace(text=f" {len(samples)}"), SimpleNamespace(text=" samples.")], None


@pytest.fixture
def whisper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a Whisper model, and a stand-in for the library."""
    library = ModuleType("faster_whisper")
    library.WhisperModel = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faster_whisper", library)
    for name in ("model.bin", "config.json", "tokenizer.json"):
        write(tmp_path / "whisper" / name, "")
    return tmp_path / "whisper"


def texts_of(path: Path) -> dict[str, str]:
    return {u.id: u.text for u in manifest.read_manifest(path)}


def opinions(folder: Path, **texts: dict[str, str]) -> list[str]:
    """A manifest for each teacher; returns their paths."""
    for name, said in texts.items():
        manifest.write_manifest(folder / f"{name}.jsonl", [Utterance(id, "a.wav", t, 2.0) for id, t in said.items()])
    return [str(folder / f"{name}.jsonl") for name in texts]


def test_a_folder_of_audio_becomes_a_manifest_with_texts_and_lengths(teachers, whisper, tmp_path):
    sound(tmp_path / "speech" / "a.wav", 0.5)
    sound(tmp_path / "speech" / "deep" / "b.wav", 0.25, 8000)
    out = tmp_path / "texts.jsonl"
    assert teachers.main(["transcribe", str(tmp_path / "speech"), str(out), "--whisper", str(whisper)]) == 0
    found = {u.id: (u.text, u.duration_s, Path(u.audio).name) for u in manifest.read_manifest(out)}
    assert found == {"a": ("8000 samples.", 0.5, "a.wav"), "deep/b": ("4000 samples.", 0.25, "b.wav")}


def test_parts_of_recordings_are_cut_out(teachers, whisper, tmp_path):
    sound(tmp_path / "long.wav", 2.0)
    part = Utterance("part", str(tmp_path / "long.wav"), "", 0.5, start_s=1.0, end_s=1.5)
    manifest.write_manifest(tmp_path / "in.jsonl", [part])
    out = tmp_path / "texts.jsonl"
    assert teachers.main(["transcribe", str(tmp_path / "in.jsonl"), str(out), "--whisper", str(whisper)]) == 0
    (found,) = manifest.read_manifest(out)
    assert (found.text, found.start_s, found.end_s) == ("8000 samples.", 1.0, 1.5)


def test_a_killed_run_goes_on_behind_its_last_whole_line(teachers, whisper, tmp_path):
    for name in "ab":
        sound(tmp_path / "speech" / f"{name}.wav", 0.5)
    out = tmp_path / "texts.jsonl"
    manifest.write_manifest(out, [Utterance("a", str(tmp_path / "speech" / "a.wav"), "kept", 0.5)])
    with out.open("a") as file:
        file.write('{"id": "b", "aud')
    assert teachers.main(["transcribe", str(tmp_path / "speech"), str(out), "--whisper", str(whisper)]) == 0
    assert texts_of(out) == {"a": "kept", "b": "8000 samples."}


def test_files_that_differ_in_their_ending_alone_have_ids_of_their_own(teachers, whisper, tmp_path):
    for name in ("a.wav", "a.flac", "b.wav"):
        sound(tmp_path / "speech" / name, 0.5)
    out = tmp_path / "texts.jsonl"
    command = ["transcribe", str(tmp_path / "speech"), str(out), "--whisper", str(whisper)]
    assert teachers.main(command) == 0
    assert sorted(texts_of(out)) == ["a.flac", "a.wav", "b"]
    assert teachers.main(command) == 0, "the manifest can be read again"


def test_one_bad_recording_does_not_lose_the_others(teachers, whisper, tmp_path, capsys):
    sound(tmp_path / "speech" / "good.wav", 0.5)
    write(tmp_path / "speech" / "bad.wav", "no sound at all")
    out = tmp_path / "texts.jsonl"
    assert teachers.main(["transcribe", str(tmp_path / "speech"), str(out), "--whisper", str(whisper)]) == 1
    assert texts_of(out) == {"good": "8000 samples."}
    assert "error: bad: " in capsys.readouterr().err


def test_a_recording_on_which_whisper_fails_does_not_lose_the_others(teachers, whisper, tmp_path, capsys, monkeypatch):
    for name, seconds in (("good", 0.5), ("odd", 0.25)):
        sound(tmp_path / "speech" / f"{name}.wav", seconds)
    command = ["transcribe", str(tmp_path / "speech"), str(tmp_path / "texts.jsonl"), "--whisper", str(whisper)]
    transcribe = StandIn.transcribe

    def fails(self: StandIn, samples: np.ndarray, **options: Any) -> Any:
        if len(samples) == 4000:
            raise RuntimeError("index out of range")
        return transcribe(self, samples, **options)

    with monkeypatch.context() as patch:
        patch.setattr(StandIn, "transcribe", fails)
        assert teachers.main(command) == 1
    assert "error: odd: Whisper failed: RuntimeError: index out of range" in capsys.readouterr().err
    assert texts_of(tmp_path / "texts.jsonl") == {"good": "8000 samples."}
    assert teachers.main(command) == 0, "the next run tries it again"
    assert texts_of(tmp_path / "texts.jsonl") == {"good": "8000 samples.", "odd": "4000 samples."}


def test_a_run_without_any_text_is_an_error_and_leaves_no_file(teachers, whisper, tmp_path):
    write(tmp_path / "speech" / "bad.wav", "no sound at all")
    out = tmp_path / "texts.jsonl"
    with pytest.raises(ConfigError, match="none of 1 recordings has a text; the first: bad: "):
        teachers.main(["transcribe", str(tmp_path / "speech"), str(out), "--whisper", str(whisper)])
    assert not out.exists()


def test_texts_of_another_whisper_model_are_not_mixed_in(teachers, whisper, tmp_path):
    sound(tmp_path / "speech" / "a.wav", 0.5)
    command = ["transcribe", str(tmp_path / "speech"), str(tmp_path / "texts.jsonl"), "--whisper", str(whisper)]
    assert teachers.main(command) == 0
    write(whisper / "model.bin", "other weights")
    with pytest.raises(ConfigError, match="texts of another Whisper model; give a new file"):
        teachers.main(command)


def test_two_processes_do_not_write_one_file_of_texts(teachers, whisper, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    sound(tmp_path / "speech" / "a.wav", 0.5)
    with (tmp_path / "texts.jsonl").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(AsrError, match="another process writes its texts there"):
            teachers.main(
                ["transcribe", str(tmp_path / "speech"), str(tmp_path / "texts.jsonl"), "--whisper", str(whisper)]
            )


def test_texts_of_other_recordings_are_not_mixed_in(teachers, whisper, tmp_path):
    sound(tmp_path / "speech" / "a.wav", 0.5)
    (out,) = opinions(tmp_path, texts={"elsewhere": "said"})
    with pytest.raises(ConfigError, match="texts of other recordings, such as elsewhere"):
        teachers.main(["transcribe", str(tmp_path / "speech"), out, "--whisper", str(whisper)])


def test_a_missing_library_says_what_to_install(teachers, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(ConfigError, match=r"pip install 'recurrent-asr\[teacher\]'"):
        teachers.load_whisper(tmp_path, 1)


def test_a_folder_without_a_model_is_refused(teachers, whisper):
    (whisper / "model.bin").unlink()
    with pytest.raises(ConfigError, match=r"model\.bin is missing"):
        teachers.load_whisper(whisper, 1)


def test_labels_are_what_both_teachers_write_in_the_letters_of_the_models(teachers, tmp_path, capsys):
    first = {"same": "Mr. Hill paid 5 pounds.", "near": "It was a long and winding road", "apart": "A latte, please."}
    second = first | {
        "same": "mister hill paid five pounds",
        "near": "It was a long and winding rode",
        "apart": "Ladder",
    }
    out = tmp_path / "labels.jsonl"
    assert teachers.main(["label", str(out), *opinions(tmp_path, first=first, second=second)]) == 0
    assert texts_of(out) == {"same": "MISTER HILL PAID FIVE POUNDS", "near": "IT WAS A LONG AND WINDING ROAD"}
    assert Path(f"{out}.left_out.txt").read_text() == "apart\tA latte, please.\tLadder\n"
    assert "2 of 3 utterances" in capsys.readouterr().out


def test_recordings_without_words_are_no_labels(teachers, tmp_path):
    said = {"silent": "", "spoken": "Hello there"}
    out = tmp_path / "labels.jsonl"
    teachers.main(["label", str(out), *opinions(tmp_path, first=said, second=said)])
    assert texts_of(out) == {"spoken": "HELLO THERE"}


def test_a_single_teacher_cannot_agree(teachers, tmp_path, capsys):
    with pytest.raises(SystemExit):
        teachers.main(["label", str(tmp_path / "out.jsonl"), *opinions(tmp_path, first={"a": "yes"})])
    assert "two teachers or more, got one" in capsys.readouterr().err


def test_the_judge_drops_what_was_misspoken_and_leaves_the_other_texts_alone(teachers, tmp_path):
    spoken = {"good": "call me at nine", "bad": "call me at nine"}
    heard = {"good": "Call me at 9.", "bad": "Galoshes"}
    own, judge = opinions(tmp_path, own=spoken, judge=heard)
    out = tmp_path / "good.jsonl"
    assert teachers.main(["judge", own, str(out), judge]) == 0
    assert texts_of(out) == {"good": "call me at nine"}


def test_a_teacher_that_disagrees_with_everything_is_an_error_with_an_example(teachers, tmp_path):
    own, judge = opinions(tmp_path, own={"a": "call me"}, judge={"a": "Galoshes"})
    with pytest.raises(ConfigError, match=r"nothing is left of 1 utterances.*25 %.*call me\tGaloshes"):
        teachers.main(["judge", own, str(tmp_path / "out.jsonl"), judge])
    assert not (tmp_path / "out.jsonl").exists()


def test_texts_of_other_utterances_are_refused(teachers, tmp_path):
    own, judge = opinions(tmp_path, own={"a": "call me"}, judge={"b": "call me"})
    with pytest.raises(ConfigError, match="expected texts of these utterances"):
        teachers.main(["judge", own, str(tmp_path / "out.jsonl"), judge])


def test_a_manifest_is_not_written_over(teachers, tmp_path):
    own, judge = opinions(tmp_path, own={"a": "call me"}, judge={"a": "Call me."})
    with pytest.raises(AsrError, match="--force"):
        teachers.main(["judge", own, own, judge])
    assert teachers.main(["judge", own, own, judge, "--force"]) == 0
