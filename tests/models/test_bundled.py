"""The model that comes with the package: loads without an argument, hears the sample, reaches what its card says."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml

import asr
from asr.cli import main
from asr.errors import ModelError
from asr.evaluation.model_scores import evaluate_model, evaluate_stream
from asr.models import bundled
from asr.models.model_directory import load_model
from asr.models.storage import quantize_model
from asr.recognize.options import load_options
from asr.recognize.recognizer import load

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "egs" / "sample.txt").read_text(encoding="utf-8").strip()


def test_it_transcribes_the_sample():
    transcript = asr.load(device="cpu").transcribe(ROOT / "egs" / "sample.wav")
    assert transcript.text == REFERENCE
    times = [time for word in transcript.words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= transcript.duration_s
    assert all(0.5 < word.confidence <= 1 for word in transcript.words)


def test_commands_use_it_without_being_told(capsys):
    assert main.run_command(["transcribe", str(ROOT / "egs" / "sample.wav")]) == 0
    assert capsys.readouterr().out == REFERENCE + "\n"
    assert main.run_command(["info"]) == 0
    shown = capsys.readouterr().out
    assert "not_for: " in shown
    assert "held_out: " in shown


def test_the_default_model_is_the_one_of_general_english():
    assert bundled.default_model() == "english"
    assert asr.load(device="cpu").model.path == bundled.locate_model("english")


@pytest.mark.parametrize("name", ["an4", "stream"])
def test_the_models_of_an4_say_what_they_are_for(name, capsys):
    assert main.run_command(["info", name]) == 0
    assert "letters, digits, names, dates" in capsys.readouterr().out


def test_the_demo_shows_text_times_confidences_and_wer(capsys):
    runpy.run_path(str(ROOT / "egs" / "demo.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert f"transcript  {REFERENCE}" in out
    assert "WER 0.00 %" in out
    assert "confidence" in out


def test_the_example_prints_words_and_goes_on_after_a_bad_file(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["transcribe.py", "no_such_file.wav", str(ROOT / "egs" / "sample.wav")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "egs" / "transcribe.py"), run_name="__main__")
    printed = capsys.readouterr()
    assert stop.value.code == 1
    assert "no_such_file.wav: no such file" in printed.err
    assert [line.split()[-1] for line in printed.out.splitlines()[1:]] == REFERENCE.split()


@pytest.mark.parametrize(("name", "size"), [("english", 56e6), ("an4", 12e6), ("stream", 14e6)])
def test_it_is_small_and_holds_no_path_of_the_machine_that_made_it(name, size):
    folder = bundled.locate_model(name)
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= size
    for path in folder.rglob("*.yaml"):
        for section in yaml.safe_load(path.read_text()).values():
            values = section.values() if isinstance(section, dict) else [section]
            assert not [v for v in values if isinstance(v, str) and v.startswith(("/", "data/"))], path


def test_all_bundled_models_stay_within_the_size_of_the_package():
    assert sum(path.stat().st_size for path in bundled.bundle_folder().rglob("*") if path.is_file()) <= 80e6


def test_the_default_model_is_named_in_one_place(tmp_path, monkeypatch):
    assert bundled.default_model() in bundled.bundled_models()
    (tmp_path / "stream").symlink_to(bundled.locate_model("stream"))
    monkeypatch.setattr(bundled, "bundle_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match=r"default\.txt: cannot read the name of the default model"):
        bundled.locate_model(None)
    (tmp_path / bundled.DEFAULT_FILE).write_text("stream\n")
    assert bundled.locate_model(None) == tmp_path / "stream"
    assert asr.load(device="cpu").model.path.name == "stream"
    (tmp_path / bundled.DEFAULT_FILE).write_text("gone\n")
    with pytest.raises(ModelError, match=r"gone: neither a model directory nor a bundled model \(stream\)"):
        bundled.locate_model(None)


@pytest.mark.parametrize("name", ["english", "an4", "stream"])
def test_it_reaches_what_its_card_says_on_an4(asr_data, tmp_path, name):
    archive = asr_data("an4_sphere.tar.gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["prepare.py", "--source", str(archive), str(tmp_path)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "recipes" / "an4" / "prepare.py"), run_name="__main__")
    assert stop.value.code == 0
    recognizer = load(name, device="cpu")
    manifest = tmp_path / "test.jsonl"
    result = (
        evaluate_stream(manifest, recognizer, block_s=0.1) if name == "stream" else evaluate_model(manifest, recognizer)
    )
    card = recognizer.model.card["test"]
    assert (result.report.words, len(result.report.utterances), result.failures) == (773, 130, {})
    # Other CPUs round otherwise: a word may fall to the other side.
    assert result.report.errors == pytest.approx(card["errors"], abs=2)
    assert card["wer"] == card["errors"] / card["words"]


def test_the_streaming_model_hears_the_sample_as_it_comes(capsys):
    recognizer = asr.load("stream", device="cpu")
    assert not recognizer.model.config.model.bidirectional
    sample = ROOT / "egs" / "sample.wav"
    assert recognizer.transcribe(sample).text == REFERENCE
    assert main.run_command(["stream", str(sample), "--model", "stream"]) == 0
    assert capsys.readouterr().out == REFERENCE + "\n"


def test_the_default_model_streams_the_sample_in_chunks(capsys, monkeypatch):
    sample = ROOT / "egs" / "sample.wav"
    assert main.run_command(["stream", str(sample)]) == 0
    assert capsys.readouterr().out == REFERENCE + "\n"
    assert not run_example(monkeypatch, "stream.py", sample)
    assert capsys.readouterr().out.strip().endswith(REFERENCE)


def test_the_streaming_model_of_english_has_the_weights_of_english():
    streaming, whole = load_model("english-stream"), load_model("english")
    assert all(map(torch.equal, streaming.network.state_dict().values(), whole.network.state_dict().values()))


def test_the_cards_of_english_name_one_origin_which_averages_of_fine_tuned_models_need():
    origins = {load_model(name).card["origin"] for name in ("english", "english-stream")}
    assert len(origins) == 1
    assert re.fullmatch("[0-9a-f]{16}", origins.pop())


def test_the_streaming_model_of_english_takes_no_room_for_weights():
    assert sum(path.stat().st_size for path in bundled.locate_model("english-stream").iterdir()) < 20_000


def test_the_streaming_model_of_english_decodes_as_english():
    streaming, whole = (load_options(bundled.locate_model(name)) for name in ("english-stream", "english"))
    assert streaming.lm
    assert streaming == whole


def test_the_streaming_model_of_english_judges_and_writes_its_transcripts():
    recognizer = asr.load("english-stream", device="cpu")
    assert recognizer.judge is not None
    assert recognizer.judge == asr.load("english", device="cpu").judge
    assert recognizer.readable is not None


def test_the_streaming_model_of_english_hears_the_sample_as_it_comes(capsys):
    assert main.run_command(["stream", str(ROOT / "egs" / "sample.wav"), "--model", "english-stream"]) == 0
    assert capsys.readouterr().out == REFERENCE + "\n"


def test_info_says_whose_weights_it_has_and_how_late_it_is(capsys):
    assert main.run_command(["info", "english-stream"]) == 0
    shown = capsys.readouterr().out
    assert "weights of the bundled model english" in shown
    assert "at most 1.28 s late" in shown


def test_info_names_the_tagger(capsys):
    assert main.run_command(["info", "english"]) == 0
    assert "written text:   case, punctuation and digits by the tagger" in capsys.readouterr().out


def test_a_copy_of_a_model_that_refers_to_another_is_whole(tmp_path):
    quantize_model("english-stream", tmp_path / "copy")
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert {"model.safetensors", "tokens.txt", "lm", "decoding.yaml", "confidence.json", "streaming.yaml"} <= names
    assert bundled.SAME_AS_FILE not in names


@pytest.mark.parametrize("name", ["../english", "/etc", "nobody", "english-stream", ""])
def test_only_bundled_models_with_weights_can_be_referred_to(tmp_path, name):
    (tmp_path / bundled.SAME_AS_FILE).write_text(name)
    with pytest.raises(ModelError, match=r"same_as\.txt: expected the name of a bundled model with weights \(an4, eng"):
        load_model(tmp_path)


@pytest.mark.parametrize("options", [{"beam": 1}, {"lm": ""}])
def test_english_without_its_language_model(options):
    recognizer = asr.load("english", device="cpu", **options)
    assert not recognizer.decoder.options.lm
    heard = recognizer.transcribe(ROOT / "egs" / "sample.wav").text
    assert asr.score({"sample": REFERENCE}, {"sample": heard}).cer < 0.1, heard  # a letter may be wrong


def run_example(monkeypatch, name, *arguments):
    """Run an example as a command; its exit status."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    try:
        runpy.run_path(str(ROOT / "egs" / name), run_name="__main__")
    except SystemExit as stop:
        return stop.code
    return 0


def test_the_alignment_example_prints_letters_and_writes_a_textgrid(capsys, monkeypatch, tmp_path):
    grid = tmp_path / "sample.TextGrid"
    assert not run_example(monkeypatch, "align.py", ROOT / "egs" / "sample.wav", REFERENCE, grid)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[5] for line in lines] == REFERENCE.split()
    assert grid.read_text().count("text = ") > 2 * len(REFERENCE.split())
    assert "no such file" in run_example(monkeypatch, "align.py", "nowhere.wav", "A")


def test_the_decoding_example_shows_every_way(capsys, monkeypatch, tmp_path):
    text = tmp_path / "text"
    text.write_text("ENTER FOUR FIVE NINE TWO\nRUBOUT ONE TWO THREE\n" * 3)
    command = [ROOT / "egs" / "sample.wav", "--text", text, "--hotword", "FOUR:3"]
    assert not run_example(monkeypatch, "decode_with_lm.py", *command)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].endswith("FIVE NINE TWO")  # greedily a letter of FOUR is wrong
    assert all(line.endswith(REFERENCE) for line in lines[1:])
    assert "no such file" in run_example(monkeypatch, "decode_with_lm.py", "nowhere.wav")


@pytest.mark.parametrize(("options", "suffix", "mark"), [([], ".srt", ",180 -->"), (["--vtt"], ".vtt", ".180 -->")])
def test_the_subtitles_example_writes_next_to_the_file(capsys, monkeypatch, tmp_path, options, suffix, mark):
    talk = tmp_path / "talk.wav"
    talk.write_bytes((ROOT / "egs" / "sample.wav").read_bytes())
    assert run_example(monkeypatch, "subtitles.py", tmp_path / "gone.wav", talk, *options) == 1
    assert "gone.wav: no such file" in capsys.readouterr().err
    written = talk.with_suffix(suffix).read_text()
    assert mark in written
    assert REFERENCE in written.replace("\n", " ")
