"""Learning from corrections: a small model of tones that was trained on one pitch, and a user who speaks at another."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tones import make_texts, make_tones_model, speak, write_set

from asr.cli.main import run_command
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import ManifestError, ModelError, OutputError
from asr.models import model_directory
from asr.models.features import LogMel
from asr.recognize.decoder import Decoder
from asr.recognize.options import Decoding, load_options, save_options
from asr.train import cross_validation, learning
from asr.train.adaptation import ctc_losses, make_lessons
from asr.train.cross_validation import Grid, best_of_p_value, make_folds
from asr.train.learning import LearnOptions, learn
from asr.train.learning_gate import check_forgetting
from asr.train.learning_report import LearningReport
from asr.train.rehearsal import load_rehearsal

OPTIONS = LearnOptions(grid=Grid((4e-3,), (3, 8)))


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory that spells tones at their own pitch."""
    folder = tmp_path_factory.mktemp("models") / "tones"
    make_tones_model(folder)
    return folder


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten corrections of a user at a higher pitch."""
    return write_set(tmp_path_factory.mktemp("right"), make_texts(10, 2), PITCH)


PITCH = 1.1


@pytest.fixture(scope="module")
def learnt(tones: Path, right: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, learning.LearningReport]:
    """The model that learns from them, and the report."""
    output = tmp_path_factory.mktemp("learnt") / "model"
    return output, learn(tones, [right], output, OPTIONS)


def losses(model: Path, utterances: list[Utterance]) -> float:
    """Mean CTC loss of utterances under a model directory."""
    loaded = model_directory.load_model(model)
    found = learning._featured(loaded, utterances, "", {})
    total = 0.0
    with torch.inference_mode():
        for one in found:
            rows, lengths = loaded.network(one.features[None], torch.tensor([len(one.features)]))
            total += float(ctc_losses(rows, lengths, [one.tokens]))
    return total / len(found)


def test_a_model_that_learns_spells_other_sentences_of_the_user_better(tones, learnt, tmp_path):
    output, report = learnt
    assert report.learnt
    assert report.used == 10
    assert report.p_value < 0.05
    other = manifest.read_manifest(write_set(tmp_path, make_texts(8, 3), PITCH))
    assert losses(output, other) < losses(tones, other)


def test_the_start_is_left_as_it_was(tones, learnt):
    assert model_directory.load_model(tones).card == {"name": "tones"}
    assert sorted(os.listdir(tones)) == ["card.json", "config.yaml", "model.safetensors", "stats.json", "tokens.txt"]


def test_no_working_folder_is_left(learnt):
    assert os.listdir(learnt[0].parent) == ["model"]


def test_corrections_travel_with_the_new_model_as_sentences_to_rehearse(learnt):
    stored = load_rehearsal(learnt[0], 40, 10)
    assert len(stored) == 10
    assert all(len(one.tokens) == 11 for one in stored)


def test_half_of_the_stored_sentences_are_rehearsed_and_the_others_checked_by_the_next_learning(learnt, tmp_path):
    corrections = write_set(tmp_path / "in", make_texts(8, 4), PITCH)
    report = learn(learnt[0], [corrections], tmp_path / "out", LearnOptions(dry_run=True, grid=Grid((4e-3,), (1,), 2)))
    assert report.rehearsal == 5
    assert report.rehearsal_words == (0 if report.refusal else 15)


def test_shuffled_texts_are_refused_and_nothing_is_written(tones, tmp_path):
    texts = make_texts(10, 2)
    report = learn(tones, [write_set(tmp_path / "in", texts[3:] + texts[:3], PITCH, texts)], tmp_path / "out", OPTIONS)
    assert not report.learnt
    assert "not what was said" in report.refusal
    assert os.listdir(tmp_path) == ["in"]


def test_wrong_texts_among_right_ones_are_named_and_left_out(tones, tmp_path):
    texts = make_texts(10, 2)
    wrong = [texts[5], *texts[1:5], texts[0], *texts[6:]]
    report = learn(
        tones,
        [write_set(tmp_path, wrong, PITCH, texts)],
        tmp_path / "out",
        LearnOptions(dry_run=True, grid=OPTIONS.grid),
    )
    assert sorted(one.id for one in report.misfits) == ["u0", "u5"]
    assert report.used == 8


def test_nothing_is_learnt_where_cross_validation_shows_no_gain(tones, tmp_path):
    """Too large a rate makes held-out sentences less likely."""
    corrections = write_set(tmp_path / "in", make_texts(6, 5), 1.0)
    report = learn(tones, [corrections], tmp_path / "out", LearnOptions(grid=Grid((0.5,), (3,))))
    assert not report.learnt
    assert "no gain" in report.refusal
    assert os.listdir(tmp_path) == ["in"]


def test_a_change_that_forgets_stored_sentences_is_refused(tones):
    """Of a model that answers nothing any more, on eight sentences that the start spells."""
    source = model_directory.load_model(tones)
    texts = make_texts(8, 6)
    features = [learnt_features(source, text, i) for i, text in enumerate(texts)]
    ids = [str(i) for i in range(8)]
    lessons = make_lessons(source.network, features, ids, [source.tokenizer.encode(text) for text in texts])
    silent = [torch.full_like(x.start, -20).index_fill(1, torch.tensor([0]), 0.0) for x in lessons]
    report = LearningReport("m", 8)
    search = Decoder(Decoding(), source.tokenizer)
    check_forgetting(report, lessons, silent, search, search)
    assert "forget" in report.refusal
    assert report.rehearsal_before < report.rehearsal_after == 24


def test_stored_sentences_that_stay_as_they_were_are_no_reason_to_refuse(tones):
    source = model_directory.load_model(tones)
    tokens = source.tokenizer.encode("ABC DEF")
    lessons = make_lessons(source.network, [learnt_features(source, "ABC DEF", 1)], ["a"], [tokens])
    report = LearningReport("m", 8)
    search = Decoder(Decoding(), source.tokenizer)
    check_forgetting(report, lessons, [x.start for x in lessons], search, search)
    assert not report.refusal


def learnt_features(source: model_directory.Model, text: str, seed: int) -> torch.Tensor:
    """Normalised features ``(T, D)`` of a text at the pitch of the training."""
    samples = torch.from_numpy(speak(text, 1.0, seed))[None]
    with torch.no_grad():
        return LogMel(source.config.features, source.stats)(samples, torch.tensor([samples.shape[1]]))[0][0]


def test_a_dry_run_decides_and_writes_nothing(tones, right, tmp_path):
    report = learn(tones, [right], tmp_path / "out", LearnOptions(dry_run=True, grid=OPTIONS.grid))
    assert report.learnt
    assert "nothing written" in report.summary()
    assert os.listdir(tmp_path) == []


def test_a_run_that_was_killed_goes_on_behind_the_last_fold(tones, right, learnt, tmp_path, monkeypatch):
    ran: list[int] = []
    run = cross_validation._run

    def killed(*args):
        ran.append(1)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return run(*args)

    monkeypatch.setattr(cross_validation, "_run", killed)
    with pytest.raises(KeyboardInterrupt):
        learn(tones, [right], tmp_path / "out", OPTIONS)
    assert not os.path.exists(tmp_path / "out")
    report = learn(tones, [right], tmp_path / "out", OPTIONS)
    assert len(ran) == 3 + 3  # folds 1 and 2, the killed third, and three of five again
    assert report.gain == pytest.approx(learnt[1].gain)
    assert os.listdir(tmp_path) == ["out"]


def test_one_correction_only_is_refused_with_the_reason(tones, tmp_path):
    report = learn(tones, [write_set(tmp_path / "in", make_texts(1, 2), PITCH)], tmp_path / "out", OPTIONS)
    assert "at least 5 corrections" in report.refusal
    assert not report.learnt


def test_texts_in_another_alphabet_are_left_out_by_name(tones, tmp_path):
    texts = make_texts(6, 2)
    report = learn(tones, [write_set(tmp_path / "in", ["привет", *texts[1:]], 1.0, texts)], tmp_path / "out", OPTIONS)
    assert list(report.left_out) == ["u0"]
    assert "cannot be spelt" in report.left_out["u0"]


def test_corrections_without_audio_are_left_out_by_name(tones, tmp_path):
    corrections = write_set(tmp_path / "in", make_texts(3, 2), PITCH)
    os.unlink(tmp_path / "in" / "u1.wav")
    report = learn(tones, [corrections], tmp_path / "out", OPTIONS)
    assert "no recording" in report.left_out["u1"]


def test_a_recording_that_comes_twice_counts_once_with_its_last_text(tones, tmp_path):
    """Sent twice, three corrections would look like six, which is enough for a test of significance."""
    texts = make_texts(3, 2)
    first = write_set(tmp_path / "first", [texts[1], *texts[1:]], PITCH, texts)
    again = write_set(tmp_path / "again", texts, PITCH)
    report = learn(tones, [first, again], tmp_path / "out", OPTIONS)
    assert report.used == 3
    assert not report.misfits, "the text that was corrected once more is not learnt"
    assert sorted(report.left_out) == ["u0", "u1", "u2"]
    assert texts[0] in report.left_out["u0"]
    assert "comes again as u1-2, with the same text" in report.left_out["u1"]
    assert "at least 5 corrections" in report.refusal


def test_folds_of_other_weights_at_the_same_place_are_not_taken_up(tones, right, tmp_path):
    keys = []
    for at in (tones, tmp_path / "model"):
        if at != tones:
            shutil.copytree(tones, at)
            network = model_directory.load_model(at).network
            next(network.parameters()).data.add_(0.1)
            model_directory.save_weights(at, network, {})
        source = dataclasses.replace(model_directory.load_model(at), path=at)
        keys.append(learning._key(source, [], [], OPTIONS.grid, 1) | {"model": ""})
    assert keys[0] != keys[1]


def test_an_output_that_exists_is_refused_before_any_work(tones, right, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="one that is there"):
        learn(tones, [right], tmp_path / "out", OPTIONS)


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_an_output_that_cannot_be_written_is_refused(tones, right, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot write"):
        learn(tones, [right], tmp_path / "out", OPTIONS)


def test_an_output_below_a_file_is_refused(tones, right, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        learn(tones, [right], tmp_path / "file" / "out", OPTIONS)


def test_an_onnx_export_is_refused(tones, right, tmp_path):
    shutil.copytree(tones, tmp_path / "export")
    (tmp_path / "export" / "export.json").write_text("{}")
    with pytest.raises(ModelError, match="ONNX export"):
        learn(tmp_path / "export", [right], tmp_path / "out", OPTIONS)


def test_the_verb_says_by_its_status_that_it_refused(tones, tmp_path, capsys):
    corrections = write_set(tmp_path / "in", make_texts(1, 2), PITCH)
    status = run_command(
        ["learn", str(tones), str(corrections), "--output", str(tmp_path / "out"), "--json", str(tmp_path / "r.json")]
    )
    assert status == 2
    assert "refused, nothing written" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["learnt"] is False


def test_new_words_join_the_lexicon_of_a_closed_vocabulary(tones, right, tmp_path):
    model = tmp_path / "closed"
    shutil.copytree(tones, model)
    words = sorted({word for text in make_texts(10, 2) for word in text.split()})
    (tmp_path / "words.txt").write_text("\n".join(words[1:]) + "\n")
    save_options(model, Decoding(beam=8, lexicon=str(tmp_path / "words.txt")))
    report = learn(model, [right], tmp_path / "out", OPTIONS)
    assert report.new_words == [words[0]]
    assert words[0] in Path(load_options(tmp_path / "out").lexicon).read_text().split()


def test_texts_of_one_wording_share_a_fold():
    folds = make_folds(["A", "B", "A", "C", "D", "A"], 3)
    assert sorted(i for fold in folds for i in fold) == list(range(6))
    assert any({0, 2, 5} <= set(fold) for fold in folds)


def test_the_p_value_of_ten_equal_gains_is_that_of_one_in_all_signs():
    assert best_of_p_value(np.ones((1, 10))) == 2.0**-10


def test_choosing_the_best_of_many_settings_is_no_evidence():
    """Under no effect, p below 5 % comes in at most about 5 % of the cases, though the best of six is taken."""
    rng = np.random.default_rng(0)
    found = [best_of_p_value(rng.standard_normal((6, 8))) < 0.05 for _ in range(400)]
    assert np.mean(found) < 0.08


def test_a_zip_of_the_page_and_its_folder_are_read_alike(tmp_path):
    from asr.train.corrections import read_corrections

    write_set(tmp_path / "page" / "audio", make_texts(2, 2), 1.0)
    utterances = manifest.read_manifest(tmp_path / "page" / "audio" / "set.jsonl")
    manifest.write_manifest(tmp_path / "page" / "manifest.jsonl", utterances)
    with zipfile.ZipFile(tmp_path / "page.zip", "w") as archive:
        for path in sorted((tmp_path / "page").rglob("*")):
            archive.write(path, path.relative_to(tmp_path / "page"))
    for place in ("page.zip", "page"):
        found = read_corrections([tmp_path / place], tmp_path / "unpacked")
        assert [u.text for u in found.utterances] == make_texts(2, 2)
        assert not found.left_out


@pytest.mark.parametrize("damage", ["compressed", "encrypted", "short"])
def test_a_damaged_zip_is_named_and_the_others_are_read(tmp_path, damage):
    from asr.train.corrections import read_corrections

    good = write_set(tmp_path / "good", make_texts(2, 2), 1.0)
    with zipfile.ZipFile(tmp_path / "page.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.jsonl", b"{}" * 1000)
    content = bytearray((tmp_path / "page.zip").read_bytes())
    if damage == "compressed":
        content[44:47] = b"\xff\xff\xfe"
    elif damage == "encrypted":
        content[content.rfind(b"PK\x01\x02") + 8] |= 1
        content[6] |= 1
    (tmp_path / "page.zip").write_bytes(content[:60] if damage == "short" else content)
    with pytest.raises(ManifestError, match="cannot read the zip"):
        read_corrections([tmp_path / "page.zip"], tmp_path / "unpacked")
    found = read_corrections([tmp_path / "page.zip", good], tmp_path / "unpacked")
    assert len(found.utterances) == 2
    assert "cannot read the zip" in found.left_out[str(tmp_path / "page.zip")]


def test_a_zip_cannot_write_outside_its_folder(tmp_path):
    from asr.train.corrections import read_corrections

    line = {"id": "a", "audio": "../../etc/a.wav", "text": "A", "duration_s": 1.0}
    with zipfile.ZipFile(tmp_path / "page.zip", "w") as archive:
        archive.writestr("manifest.jsonl", json.dumps(line) + "\n")
        archive.writestr("../evil.wav", b"x")
    found = read_corrections([tmp_path / "page.zip"], tmp_path / "unpacked")
    assert not found.utterances
    assert len(found.left_out) == 1
    assert sorted(os.listdir(tmp_path)) == ["page.zip", "unpacked"]


def test_an_edited_transcript_and_a_text_beside_a_recording_are_read(tmp_path):
    from asr.train.corrections import read_corrections

    write_set(tmp_path, make_texts(2, 2), 1.0)
    (tmp_path / "u0.json").write_text(
        json.dumps({"format": 3, "source": "elsewhere/u0.wav", "text": "AB C", "duration_s": 1, "words": []})
    )
    (tmp_path / "u1.txt").write_text("DE F\n")
    found = read_corrections([tmp_path / "u0.json", tmp_path / "u1.wav"], tmp_path / "unpacked")
    assert [(u.id, u.text) for u in found.utterances] == [("u0", "AB C"), ("u1", "DE F")]


def test_an_input_of_no_known_kind_is_refused(tmp_path):
    from asr.train.corrections import read_corrections

    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(ManifestError, match="expected corrections"):
        read_corrections([tmp_path / "a.docx"], tmp_path)
