"""Labelling what nobody wrote down: what is kept, what is left out, going on after an interruption."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small import make_recognizer

from asr.cli import main
from asr.config.sections import TextConfig
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import ConfigError, OutputError
from asr.models import model_directory
from asr.models.model_directory import load_model
from asr.recognize import recording
from asr.recognize.recognizer import Recognizer, load
from asr.text.tokenizer import CharTokenizer
from asr.train.pseudo_labels import label_recordings
from asr.train.second_opinions import LabelSpeller, Opinion, compare_opinions, differences


@pytest.fixture
def clips(tmp_path, bursts, write_wav):
    """A folder of five recordings."""
    folder = tmp_path / "clips"
    (folder / "deeper").mkdir(parents=True)
    for number in range(5):
        write_wav(folder / ("deeper" if number == 4 else "") / f"clip{number}.wav", bursts(1.5 + 0.2 * number, number))
    return folder


def transcripts(recognizer, clips):
    paths = [clips / f"clip{n}.wav" for n in range(4)] + [clips / "deeper" / "clip4.wav"]
    return {path.relative_to(clips).with_suffix("").as_posix(): recognizer.transcribe(path) for path in paths}


def test_what_is_sure_becomes_a_manifest(recognizer, clips, tmp_path):
    heard = transcripts(recognizer, clips)
    least = {id: min((word.confidence for word in t.words), default=-1) for id, t in heard.items()}
    threshold = float(np.median(list(least.values())))
    found = label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", least_confidence=threshold, speaker="me")
    written = {u.id: u for u in manifest.read_manifest(tmp_path / "out.jsonl")}
    assert written.keys() == {id for id in heard if least[id] >= threshold}
    assert 0 < len(written) < 5
    for id, utterance in written.items():
        assert (utterance.text, utterance.speaker) == (heard[id].text, "me")
        assert utterance.duration_s == pytest.approx(heard[id].duration_s)
        assert recognizer.transcribe(utterance.audio).text == utterance.text
    assert {u.id for u in found.doubtful} == heard.keys() - written.keys()
    assert found.failures == []
    assert not (tmp_path / "out.jsonl.part").exists()


def test_a_manifest_keeps_ids_speakers_and_parts_and_its_texts_are_not_looked_at(recognizer, clips, tmp_path):
    audio = str(clips / "clip3.wav")
    cut = [
        Utterance("a", audio, "WRONG", 1.0, "anna", 0.0, 1.0),
        Utterance("b", audio, "", 0.9, "", 1.0, 1.9),
        Utterance("c", str(clips / "clip2.wav"), "", 99.0),
    ]
    manifest.write_manifest(tmp_path / "in.jsonl", cut)
    label_recordings([str(tmp_path / "in.jsonl")], recognizer, tmp_path / "out.jsonl", least_confidence=0, speaker="me")
    written = {u.id: u for u in manifest.read_manifest(tmp_path / "out.jsonl")}
    from_manifest = dict(recognizer.transcribe_many(recording.Recording.of(u) for u in cut))
    assert {item.name: t.text for item, t in from_manifest.items() if t.text} == {
        u.id: u.text for u in written.values()
    }
    assert (written["a"].speaker, written["a"].start_s, written["a"].end_s) == ("anna", 0.0, 1.0)
    assert written["c"].duration_s == pytest.approx(1.9)
    assert {u.speaker for u in written.values() if u.id != "a"} == {"me"}


def test_an_interrupted_run_goes_on(recognizer, clips, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    label_recordings([str(clips)], recognizer, tmp_path / "whole.jsonl", least_confidence=0)
    whole = Recognizer.transcribe_many

    def interrupted(self, items, **options):
        for count, result in enumerate(whole(self, items, **options)):
            if count == 3:
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(Recognizer, "transcribe_many", interrupted)
        with pytest.raises(KeyboardInterrupt):
            label_recordings([str(clips)], recognizer, output, least_confidence=0)
    part = tmp_path / "out.jsonl.part"
    assert not output.exists()
    # The process was killed in the middle of a line.
    part.write_text(part.read_text()[:-9] + '\n{"place": 3}\n[1]\n' + "[" * 100_000)
    with pytest.raises(ConfigError, match="continue it with --resume"):
        label_recordings([str(clips)], recognizer, output, least_confidence=0)
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(
            Recognizer,
            "transcribe_many",
            lambda self, items: whole(self, [asked.append(item.name) or item for item in items]),
        )
        label_recordings([str(clips)], recognizer, output, least_confidence=0, resume=True)
    assert len(asked) == 3
    assert output.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert not part.exists()


def test_what_another_model_has_heard_is_not_gone_on_with(recognizer, clips, tmp_path):
    part = tmp_path / "out.jsonl.part"
    part.write_text(json.dumps({"models": ["/other"], "decoding": {}}) + "\n")
    with pytest.raises(ConfigError, match=r"got \['/other'\]; remove it to start again"):
        label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", resume=True)


def test_bad_files_are_named_and_the_rest_is_labelled(model_dir, clips, tmp_path, capsys):
    (clips / "clip1.wav").write_bytes(b"RIFF, but no more")
    output = tmp_path / "out.jsonl"
    command = ["label", str(clips), "gone.wav", "--model", str(model_dir), "--output", str(output)]
    assert main.run_command([*command, "--least-confidence", "0", "--beam", "1"]) == 1
    shown = capsys.readouterr()
    assert "clip1" in shown.err
    assert "gone.wav" in shown.err
    written = manifest.read_manifest(output)
    assert f"{output}: {len(written)} utterances" in shown.out
    assert {u.id for u in written} <= {"clip0", "clip2", "clip3", "deeper/clip4"}
    assert len(written) >= 3


def test_a_recording_counts_once_and_an_id_that_is_taken_gets_a_number(recognizer, clips, tmp_path):
    audio = str(clips / "clip3.wav")
    for name, start_s in (("one", 0.0), ("two", 1.0)):
        manifest.write_manifest(
            tmp_path / f"{name}.jsonl", [Utterance("u", audio, "", 1.0, "", start_s, start_s + 1.0)]
        )
    inputs = [
        str(clips / "deeper"),
        str(clips / "deeper" / "clip4.wav"),
        *(str(tmp_path / f"{n}.jsonl") for n in ("one", "two")),
    ]
    found = label_recordings(inputs, recognizer, tmp_path / "out.jsonl", least_confidence=0)
    assert [(u.id, u.start_s) for u in found.kept] == [("clip4", 0.0), ("u", 0.0), ("u-2", 1.0)]
    assert found.failures == []


def test_resuming_looks_at_the_audio_and_not_at_the_id(recognizer, clips, bursts, write_wav, tmp_path):
    """Other recordings of the same names are heard anew."""
    label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", least_confidence=0)
    kept = manifest.read_manifest(tmp_path / "out.jsonl")
    with pytest.raises(ConfigError, match="has a text with a confidence"):
        label_recordings([str(clips)], recognizer, tmp_path / "next.jsonl", least_confidence=1)
    write_wav(tmp_path / "others" / "clip3.wav", bursts(2.5, 77))
    found = label_recordings(
        [str(tmp_path / "others")], recognizer, tmp_path / "next.jsonl", least_confidence=0, resume=True
    )
    assert [u.text for u in found.kept] == [recognizer.transcribe(tmp_path / "others" / "clip3.wav").text]
    assert found.kept[0].text != next(u.text for u in kept if u.id == "clip3")


def test_another_list_of_phrases_begins_anew(model_dir, clips, tmp_path):
    phrases = tmp_path / "phrases.txt"
    phrases.write_text("A\nB\n")
    for words, complaint in (("A\nB\n", "has a text with a confidence"), ("A\nC\n", "same options, weights and files")):
        phrases.write_text(words)
        with pytest.raises(ConfigError, match=complaint):
            label_recordings(
                [str(clips)],
                load(model_dir, phrases=str(phrases)),
                tmp_path / "o.jsonl",
                least_confidence=1,
                resume=True,
            )


def test_a_name_that_is_no_utf8_is_a_failure_and_no_loss(recognizer, clips, tmp_path):
    (clips / "clip2.wav").rename(os.fsdecode(os.path.join(os.fsencode(clips), b"\xff.wav")))
    found = label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", least_confidence=0)
    assert len(found.failures) == 1
    assert "expected a file name in UTF-8" in found.failures[0]
    assert "clip3" in {u.id for u in manifest.read_manifest(tmp_path / "out.jsonl")}


@pytest.mark.parametrize("content", [b"my notes\n", b"\xe9\n", b"[1, 2]\n"])
def test_a_file_that_is_not_ours_stays(recognizer, clips, tmp_path, content):
    part = tmp_path / "out.jsonl.part"
    part.write_bytes(content)
    with pytest.raises(ConfigError, match=r"out\.jsonl\.part"):
        label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", resume=True)
    assert part.read_bytes() == content


def test_an_input_is_not_written_over(recognizer, clips, tmp_path):
    path = tmp_path / "m.jsonl"
    manifest.write_manifest(path, [Utterance("u", str(clips / "clip3.wav"), "BY HAND", 2.1)])
    for output in (path, tmp_path):
        with pytest.raises(ConfigError, match="expected a new manifest to write"):
            label_recordings([str(path)], recognizer, output)
    assert manifest.read_manifest(path)[0].text == "BY HAND"


def test_nothing_sure_and_bad_options(recognizer, clips, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"none of 5 recordings has a text with a confidence of 1 or more; 0 failed.*--resume and another",
    ):
        label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", least_confidence=1.0)
    # What was heard is kept, for another threshold.
    found = label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", least_confidence=0.0, resume=True)
    assert found.kept
    with pytest.raises(ConfigError, match=r"expected 0 to 1, got 1\.5"):
        label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", least_confidence=1.5)
    with pytest.raises(ConfigError, match="has a text with a confidence"):
        label_recordings([str(tmp_path / "no-such.jsonl")], recognizer, tmp_path / "other.jsonl")


def test_a_manifest_that_is_there_is_refused_before_any_work_without_force(recognizer, clips, tmp_path):
    output = tmp_path / "labels.jsonl"
    output.write_text("corrected by hand\n")
    with pytest.raises(OutputError, match=r"labels\.jsonl: expected a new output.*--force"):
        label_recordings([str(clips)], recognizer, output, least_confidence=0)
    assert output.read_text() == "corrected by hand\n"
    assert not Path(f"{output}.part").exists()
    label_recordings([str(clips)], recognizer, output, least_confidence=0, force=True)
    assert manifest.read_manifest(output)


# Second opinions


@pytest.fixture
def other(tmp_path):
    """A recognizer with other random weights and the same letters."""
    return make_recognizer(tmp_path / "other", "gru", tokenizer=CharTokenizer(["<blank>", " ", *"ABC"], TextConfig()))


def texts_of(clips, recognizer):
    return {id: t.text for id, t in transcripts(recognizer, clips).items() if t.text}


def write_texts(path, texts):
    path.write_text("".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in texts.items()))
    return str(path)


def test_only_what_a_second_text_agrees_with_is_kept(recognizer, clips, tmp_path):
    own = texts_of(clips, recognizer)
    first, second, third, fourth = sorted(own)
    theirs = {first: own[first].lower() + "!", second: "CCCCCCCCCC " * 9, third: ""}
    teacher = write_texts(tmp_path / "teacher.jsonl", theirs)
    found = label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", agree_with=[teacher])
    assert {u.id: u.text for u in manifest.read_manifest(tmp_path / "out.jsonl")} == {first: own[first]}
    assert {u.id for u in found.disputed} == {second, third}
    assert {u.id for u in found.unjudged} == {fourth}


@pytest.mark.parametrize("most", [0.0, 0.2, 0.5, 1.0])
def test_two_models_of_ours_label_what_nobody_wrote_down(recognizer, other, clips, tmp_path, most):
    own = texts_of(clips, recognizer)
    theirs = dict.fromkeys(own, "") | texts_of(clips, other)
    agreed = {id for id, share in differences(own, theirs).items() if share <= most}
    options = {"agree_with": [other], "most_disagreement": most}
    if not agreed:
        with pytest.raises(ConfigError, match=f"{len(own)} differ by more than {100 * most:g} % of their characters"):
            label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", **options)
        return
    found = label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", **options)
    assert {u.id: u.text for u in found.kept} == {id: own[id] for id in agreed}
    assert list(tmp_path.glob("*.part")) == []


def test_the_model_itself_is_no_second_opinion(recognizer, clips, tmp_path):
    with pytest.raises(ConfigError, match="expected a second opinion of another model, got the model that makes the"):
        label_recordings([str(clips)], recognizer, tmp_path / "own.jsonl", agree_with=[recognizer])
    assert not (tmp_path / "own.jsonl.part").exists()


def test_the_command_names_what_a_second_opinion_may_be(model_dir, clips, tmp_path, capsys):
    command = ["label", str(clips), "--model", str(model_dir), "--output", str(tmp_path / "o.jsonl")]
    assert main.run_command([*command, "--agree-with", "nosuch"]) == 2
    assert "nosuch: expected a model directory, a bundled model (" in capsys.readouterr().err


def test_differences_are_the_character_errors_over_the_longer_text():
    pairs = {
        "equal": ("AB C", "AB C", 0.0), "one": ("ABCD", "ABCE", 0.25), "longer": ("AB", "ABCD", 0.5),
        "none": ("ABCD", "", 1.0), "empty": ("", "", 0.0), "all": ("AAAA", "BBBB", 1.0), "said": ("", "ABC", 1.0),
    }  # fmt: skip
    own, theirs = ({id: pair[side] for id, pair in pairs.items()} for side in (0, 1))
    assert differences(own, theirs) == pytest.approx({id: pair[2] for id, pair in pairs.items()})
    assert differences({"a": "A"}, {"b": "A"}) == {}


def test_a_second_opinion_is_read_as_the_model_would_write_it():
    tokenizer = CharTokenizer(["<blank>", " ", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], TextConfig())
    own = {"a": "MISTER HILL PAID FORTY TWO DOLLARS", "b": "IT IS WELL KNOWN"}
    opinion = Opinion("whisper", {"a": "Mr. Hill paid $42.", "b": "It is well-known…"})
    speller = LabelSpeller(tokenizer, "en")
    assert compare_opinions(own, [opinion], speller, 0.0).agreed == {"a", "b"}
    assert not speller.learnable(speller.spell("Привет, Bob"))
    assert not speller.learnable("")


def test_a_teacher_s_text_becomes_the_label(recognizer, clips, tmp_path):
    own = texts_of(clips, recognizer)
    ids = sorted(own)
    theirs = {id: f"{own[id].lower()}, c" for id in ids[:-1]} | {ids[-1]: own[ids[-1]] + " \u0416"}
    teacher = write_texts(tmp_path / "teacher.jsonl", theirs)
    found = label_recordings(
        [str(clips)], recognizer, tmp_path / "out.jsonl", agree_with=[teacher], most_disagreement=0.5, take="other"
    )
    assert {u.id: u.text for u in found.kept} == {id: f"{own[id]} C" for id in ids[:-1]}
    assert [u.id for u in found.disputed] == ids[-1:]  # the model cannot learn it


def test_an_interrupted_second_opinion_goes_on(recognizer, other, clips, tmp_path, monkeypatch):
    output, many = tmp_path / "out.jsonl", Recognizer.transcribe_many
    options = {"agree_with": [other], "most_disagreement": 1.0}

    def broken(self, items):
        for number, found in enumerate(many(self, items)):
            if self is other and number == 2:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(Recognizer, "transcribe_many", broken)
    with pytest.raises(KeyboardInterrupt):
        label_recordings([str(clips)], recognizer, output, **options)
    heard = []
    monkeypatch.setattr(
        Recognizer, "transcribe_many", lambda self, items: many(self, heard.extend(items := list(items)) or items)
    )
    with pytest.raises(ConfigError, match="an interrupted run left this file"):
        label_recordings([str(clips)], recognizer, output, **options)
    label_recordings([str(clips)], recognizer, output, resume=True, **options)
    assert len(heard) == 3  # of the second model; the first had finished
    assert not list(tmp_path.glob("*.part"))


def test_a_second_opinion_on_other_recordings_is_refused(recognizer, clips, tmp_path):
    teacher = write_texts(tmp_path / "teacher.jsonl", {"elsewhere": "ABC"})
    with pytest.raises(ConfigError, match=r"teacher\.jsonl: expected texts of these utterances, got none of their 4"):
        label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", agree_with=[teacher])
    for options, message in (
        ({"most_disagreement": 1.5}, r"most_disagreement: expected 0 to 1, got 1\.5"),
        ({"take": "other"}, "take: expected a second opinion"),
        ({"take": "both"}, "take: expected own or other"),
    ):
        with pytest.raises(ConfigError, match=message):
            label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", **options)


def test_a_teacher_that_disagrees_with_everything_is_reported(recognizer, clips, tmp_path):
    teacher = write_texts(tmp_path / "teacher.jsonl", dict.fromkeys(texts_of(clips, recognizer), "AAAAAAAAAAAAA " * 9))
    with pytest.raises(ConfigError) as caught:
        label_recordings([str(clips)], recognizer, tmp_path / "out.jsonl", agree_with=[teacher])
    assert "the second opinion agrees with none of 5 recordings: 4 differ by more than 10 %" in str(caught.value)
    assert "teacher.jsonl differ by" in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_the_command_takes_models_and_transcripts(model_dir, clips, tmp_path, capsys):
    recognizer = load(model_dir)
    teacher = write_texts(tmp_path / "teacher.jsonl", texts_of(clips, recognizer))
    output = tmp_path / "out.jsonl"
    arguments = ["label", str(clips), "--model", str(model_dir), "--output", str(output)]
    other = load_model(model_dir)
    shutil.copytree(model_dir, tmp_path / "other")
    with torch.no_grad():
        next(other.network.parameters()).mul_(1.001)
    model_directory.save_weights(tmp_path / "other", other.network, {})
    opinions = ["--agree-with", str(tmp_path / "other"), "--agree-with", teacher, "--most-disagreement", "1"]
    assert main.run_command([*arguments, *opinions]) == 0
    said = capsys.readouterr().out
    assert "0 as disputed, 0 without a second opinion" in said
    assert len(manifest.read_manifest(output)) == int(said.partition(": ")[2].split()[0])
    assert main.run_command([*arguments, "--force", "--agree-with", str(tmp_path / "gone.jsonl")]) == 2
    assert "gone.jsonl" in capsys.readouterr().err


def test_a_manifest_is_judged_by_a_model_and_what_was_misspoken_is_dropped(recognizer, clips, tmp_path):
    own = texts_of(clips, recognizer)
    wrong, *right = sorted(own)
    spoken = [
        Utterance(
            id,
            str(clips / ("deeper" if id.startswith("deeper") else "") / f"{Path(id).name}.wav"),
            own[id].title(),
            9.0,
            f"voice {id}",
        )
        for id in right
    ]
    spoken.append(Utterance(wrong, str(clips / f"{wrong}.wav"), "A B C " * 30, 9.0))
    manifest.write_manifest(tmp_path / "spoken.jsonl", spoken)
    place = str(tmp_path / "spoken.jsonl")
    label_recordings([place], recognizer, tmp_path / "good.jsonl", agree_with=[place], take="other")
    good = {u.id: (u.text, u.speaker) for u in manifest.read_manifest(tmp_path / "good.jsonl")}
    assert good == {id: (own[id], f"voice {id}") for id in right}
