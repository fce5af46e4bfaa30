"""Words become written text as they arrive; the model directory brings the tagger."""

import dataclasses
import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import make_recognizer, sound

import asr
from asr import formats
from asr.cli.live_display import Display
from asr.config.language import NetworkConfig
from asr.decode.endpoint import Endpoint
from asr.errors import ConfigError, ModelError
from asr.lm.tagger import Tagger
from asr.lm.tagger_description import TaggerDescription, suffix_bucket
from asr.models import bundled, model_directory
from asr.recognize import readable
from asr.recognize.batch import transcribe_files
from asr.recognize.readable import ReadableWriter, all_with_written, with_written
from asr.recognize.readable_model import load_readable
from asr.scoring.wer import read_transcripts
from asr.text.number_words import NUMERIC
from asr.transcript import Transcript, Word

WORDS = ("a", "b", "c", "d", "ab", "ba", "the", "smith", "mister", "twenty", "five", "dollars", "and", "to", "p", "m")
LOOKAHEAD = 3
SAMPLE = Path(__file__).parents[2] / "egs" / "sample.wav"


def save_tagger(folder, seed=1):
    """A tagger with random weights, whose tags change from word to word."""
    torch.manual_seed(seed)
    description = TaggerDescription(WORDS, LOOKAHEAD, "en", {"ab": "aB"}, NetworkConfig("lstm", 2, 8, 64, 0.0))
    network = Tagger(description.network, len(WORDS))
    with torch.no_grad():
        network.output.weight.mul_(20)
    description.save(folder)
    model_directory.save_weights(folder, network, {}, storage="int8")
    return folder


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    return load_readable(save_tagger(tmp_path_factory.mktemp("tagger") / "readable"))


class Fixed:
    """A tagger that gives every word the tags of a table."""

    def __init__(self, tags=(), lookahead=1):
        self.description = TaggerDescription(("a",), lookahead, "en", {"mcdonald": "McDonald"})
        self.tags = dict(tags)

    def start(self):
        return []

    @property
    def text_end(self):
        return [None] * self.description.lookahead

    def run(self, texts, states):
        found = [self.read(words, list(state)) for words, state in zip(texts, states, strict=True)]
        return [logits for logits, _ in found], [state for _, state in found]

    def read(self, words, state):
        logits = np.full((len(words), 9), -50.0, np.float32)
        for row, word in zip(logits, words, strict=True):
            late = ([None] * self.description.lookahead + state)[-self.description.lookahead]
            case, mark = self.tags.get(late, (0, 0))
            row[[case, 4 + mark]] = 50
            state.append(word)
        return logits, state


def wrote(text, lookahead=1, **tags):
    writer = ReadableWriter(Fixed(tags, lookahead))
    writer.accept(text.split())
    writer.finish()
    return writer.text()


def test_the_first_word_of_a_text_has_a_capital():
    assert wrote("HELLO THERE") == "Hello there"


def test_the_word_behind_a_full_stop_has_a_capital():
    assert wrote("stop go", stop=(0, 2)) == "Stop. Go"


def test_i_always_has_a_capital():
    assert wrote("so i'm sure i am") == "So I'm sure I am"


def test_names_with_capitals_inside_have_their_spelling():
    assert wrote("see mcdonald", mcdonald=(3, 3)) == "See McDonald?"


def test_abbreviations_are_in_capitals():
    assert wrote("the nato", nato=(2, 0)) == "The NATO"


def test_letters_are_in_capitals():
    assert wrote("spell k n a g and a b") == "Spell K N A G and a B"


def test_a_mark_at_least_half_as_likely_as_none_is_written():
    writer = ReadableWriter(Fixed())
    for comma, expected in ((0.3, ""), (0.36, ",")):
        cases, marks = np.array([1, 0, 0, 0], np.float32), np.array([1 - comma, comma, 0, 0, 0], np.float32)
        assert writer._tag(cases, marks)[1] == expected


def test_a_title_before_a_name_is_abbreviated():
    assert wrote("so mister smith ran", smith=(1, 0)) == "So Mr. Smith ran"


def test_a_title_without_a_name_is_a_word():
    assert wrote("so mister ran") == "So mister ran"


def test_numbers_are_written_with_the_mark_behind_them():
    assert wrote("it is twenty five dollars now", dollars=(0, 1)) == "It is $25, now"


def test_a_time_at_the_end_of_a_sentence_has_one_full_stop():
    assert wrote("at three p m", m=(0, 2)) == "At 3 p.m."


def test_a_text_does_not_end_in_a_comma():
    assert wrote("yes", yes=(0, 1)) == "Yes"


def test_a_capital_that_a_sentence_end_explains_needs_the_end():
    writer = ReadableWriter(Fixed())
    writer.accept(["yes"])
    writer._end = 0.45
    cases, marks = np.array([0.45, 0.55, 0, 0], np.float32), np.array([1, 0, 0, 0, 0], np.float32)
    assert writer._tag(cases.copy(), marks.copy())[0] == "lower"
    assert writer._tag(cases, marks)[0] == "capital"


def test_a_number_without_end_stays_in_words_and_is_not_awaited():
    words = ["five", "two"] * 60
    writer = ReadableWriter(Fixed())
    writer.accept(words)
    assert 120 - writer.decided <= readable.LONGEST_NUMBER + 2
    writer.finish()
    assert writer.text().lower() == " ".join(words)


def test_behind_a_number_without_end_numbers_are_written_again():
    assert wrote(" ".join(["five", "two"] * 30 + ["so", "he", "now", "had", "twenty"])).endswith("he now had 20")


VOCABULARY = st.sampled_from([*WORDS, *sorted(NUMERIC), "oh", "percent", "X", "i"])


@given(st.lists(VOCABULARY, max_size=60), st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_decided_never_changes_and_pieces_give_the_whole(tagger, words, data):
    whole = ReadableWriter(tagger)
    whole.accept(words)
    expected = whole.finish()
    live = ReadableWriter(tagger)
    at, decided = 0, []
    while at < len(words):
        step = data.draw(st.integers(1, 7))
        live.accept(words[at : at + step])
        at += step
        assert live.pieces[: len(decided)] == decided
        assert live.guess().startswith(live.text())
        decided = list(live.pieces)
    assert live.finish() == expected
    assert [piece.start for piece in expected] == [0, *(piece.stop for piece in expected[:-1])][: len(expected)]
    assert whole.decided == len(words)


@given(st.lists(VOCABULARY, min_size=1, max_size=80))
@settings(max_examples=100, deadline=None)
def test_the_words_awaited_are_bounded(tagger, words):
    live = ReadableWriter(tagger)
    for count, word in enumerate(words, start=1):
        live.accept([word])
        assert count - live.decided <= LOOKAHEAD + readable.LONGEST_NUMBER + 1


def test_steps_give_what_the_network_gives_at_once(tmp_path):
    folder = save_tagger(tmp_path)
    model = load_readable(folder)
    network = Tagger(model.description.network, len(WORDS)).eval()
    weights = folder / "model.safetensors"
    model_directory.load_weights(network, safetensors.torch.load_file(weights), weights)
    ids = torch.tensor([[2, 3, 0, 5, 1]])
    buckets = torch.tensor([[suffix_bucket(word) for word in ("a", "b", "unknown", "d")] + [0]])
    expected = network(ids, buckets)[0].detach().numpy()
    state, found = model.start(), []
    for words in (["a"], ["b", "unknown"], ["d", None]):
        [logits], [state] = model.run([words], [state])
        found.append(logits)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=2e-4)


TEXTS = [["a"], ["b", "c", "unknown", "d"], [], ["d", "a", "b"], ["c", "c", "b", "a", "d", None]]


def test_texts_read_side_by_side_have_the_logits_of_each_alone(tagger):
    together, _ = tagger.run(TEXTS, [tagger.start()] * len(TEXTS))
    for words, logits in zip(TEXTS, together, strict=True):
        [alone], _ = tagger.run([words], [tagger.start()])
        np.testing.assert_allclose(logits, alone, atol=1e-5)


def test_texts_read_side_by_side_have_the_states_of_each_alone(tagger):
    _, together = tagger.run(TEXTS, [tagger.start()] * len(TEXTS))
    for words, state in zip(TEXTS, together, strict=True):
        _, [alone] = tagger.run([words], [tagger.start()])
        np.testing.assert_allclose(state, alone, atol=1e-5)


@given(st.lists(st.lists(VOCABULARY, max_size=30), max_size=6))
@settings(max_examples=50, deadline=None)
def test_texts_written_side_by_side_are_what_each_is_alone(tagger, texts):
    made = [Transcript(" ".join(t), tuple(Word(w, 0, 1, 0.9) for w in t), 1.0) for t in texts]
    assert all_with_written(made, tagger) == [with_written(one, tagger) for one in made]


def test_a_text_longer_than_one_pass_is_what_its_pieces_give(tagger, monkeypatch):
    words = [word for _ in range(8) for word in ("a", "b", "twenty", "d", "c")]
    made = Transcript(" ".join(words), tuple(Word(w, 0, 1, 0.9) for w in words), 1.0)
    at_once = with_written(made, tagger)
    monkeypatch.setattr(readable, "READ_AT_ONCE", 7)
    assert with_written(made, tagger) == at_once


def test_written_words_have_the_times_of_what_was_said():
    words = tuple(Word(text, at, at + 0.5, 0.9 - at / 10) for at, text in enumerate("IT TWENTY FIVE".split()))
    found = with_written(Transcript("IT TWENTY FIVE", words, 3.0), Fixed())
    assert found.written_words == (Word("It", 0, 0.5, 0.9), Word("25", 1, 2.5, pytest.approx(0.7)))


def test_text_and_words_stay_as_spoken():
    words = (Word("TWENTY", 0, 1, 0.9),)
    found = with_written(Transcript("TWENTY", words, 1.0), Fixed())
    assert (found.text, found.words, found.written) == ("TWENTY", words, "20")


def test_silence_is_written_as_nothing():
    assert with_written(Transcript("", (), 1.0), Fixed()).written == ""


@pytest.fixture
def recognizer(tmp_path):
    save_tagger(tmp_path / "readable")
    return make_recognizer(tmp_path, beam=4)


def test_a_recognizer_writes_what_it_transcribes(recognizer):
    found = recognizer.transcribe(sound(2.0, seed=3))
    writer = ReadableWriter(recognizer.readable)
    writer.accept([word.text for word in found.words])
    writer.finish()
    assert found.written == writer.text() != found.text


def test_a_long_recording_is_written_as_a_whole(recognizer, monkeypatch):
    from asr.recognize import long_audio

    monkeypatch.setattr(long_audio, "LONG_S", 1.0)
    found = recognizer.transcribe(sound(3.0, seed=3))
    assert found.written == with_written(dataclasses.replace(found, written=None), recognizer.readable).written != ""


@pytest.mark.parametrize("beam", [1, 4])
def test_a_stream_is_written_as_the_whole_recording(tmp_path, beam):
    save_tagger(tmp_path / "readable")
    recognizer = make_recognizer(tmp_path, beam=beam)
    samples = sound(20.0, seed=3)
    live = recognizer.stream()
    decided, longest = "", 0
    for at in range(0, len(samples), 1600):
        update = live.accept(samples[at : at + 1600])
        assert update.written.startswith(decided)
        decided = update.written[: update.written_stable]
        longest = max(longest, len(decided))
    final = live.finish()
    assert final.written == recognizer.transcribe(samples).written
    assert final.written.startswith(decided)
    assert longest > 5


def test_each_utterance_of_a_stream_is_written_by_itself(recognizer):
    samples = np.concatenate([sound(2.0, seed=3), np.zeros(24000, np.float32), sound(2.0, seed=4)])
    live = recognizer.stream(endpoint=Endpoint(0.4, 20.0))
    found = list(live.accept(samples).final)
    found.append(live.finish())
    for utterance in found:
        again = with_written(dataclasses.replace(utterance, written=None), recognizer.readable)
        assert utterance.written == again.written


def test_without_a_tagger_written_is_null_in_json(tmp_path):
    found = make_recognizer(tmp_path).transcribe(sound(1.0))
    assert json.loads(formats.to_json(found))["written"] is None


def test_json_has_both_texts_and_fits_the_schema(recognizer):
    tree = json.loads(formats.to_json(recognizer.transcribe(sound(2.0, seed=3))))
    schema = json.loads((bundled.bundle_folder().parent / "transcript.schema.json").read_text())
    jsonschema.validate(tree, schema)
    assert tree["written"] not in (None, tree["text"])


def test_json_is_read_with_its_written_text(recognizer):
    found = recognizer.transcribe(sound(2.0, seed=3))
    assert formats.read_transcript_json(formats.to_json(found), "x")[0].written == found.written


def test_scoring_takes_the_spoken_text_of_json(recognizer, tmp_path):
    found = recognizer.transcribe(sound(2.0, seed=3))
    (tmp_path / "hyp.json").write_text(formats.to_json(dataclasses.replace(found, source="a.wav")))
    assert read_transcripts(tmp_path / "hyp.json") == {"a": found.text}


@pytest.mark.parametrize("name", ["txt", "srt", "vtt"])
def test_files_have_the_written_text_where_it_is_asked_for(recognizer, tmp_path, name):
    soundfile.write(tmp_path / "a.wav", sound(2.0, seed=3), 16000)
    outcome = transcribe_files(
        recognizer, [str(tmp_path / "a.wav")], format=name, output_dir=tmp_path / "out", written=True
    )
    assert outcome.done == 1
    expected = recognizer.transcribe(tmp_path / "a.wav").written
    (back,) = formats.FORMATS[name].read((tmp_path / "out" / f"a.{name}").read_text(), "a")
    assert back.text == expected


def test_written_text_in_a_ctm_is_refused(recognizer, tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(1.0), 16000)
    with pytest.raises(ConfigError, match="written: expected the format txt, srt, vtt, json, got ctm"):
        transcribe_files(recognizer, [str(tmp_path / "a.wav")], format="ctm", written=True)


def test_written_text_without_a_tagger_says_how_to_get_one(tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(1.0), 16000)
    with pytest.raises(ConfigError, match=r"expected a folder readable/ .* asr train-readable TEXT"):
        transcribe_files(make_recognizer(tmp_path), [str(tmp_path / "a.wav")], written=True)


def test_a_live_display_shows_the_written_text(recognizer, capsys):
    import sys

    found = recognizer.transcribe(sound(2.0, seed=3))
    Display(sys.stdout, written=True).final(found)
    assert capsys.readouterr().out == found.written + "\n"


def test_phrases_are_written_as_their_list_has_them(tmp_path):
    save_tagger(tmp_path / "readable")
    (tmp_path / "phrases.txt").write_text("Ab ba\nD c\n")
    found = make_recognizer(tmp_path, phrases=str(tmp_path / "phrases.txt")).transcribe(sound(1.0, seed=3))
    assert found.written == found.text


def test_an_alignment_is_written_as_its_text(recognizer):
    assert recognizer.align(sound(2.0), "Ab, ba").written == recognizer.align(sound(2.0), "Ab, ba").text


def test_bundled_models_share_a_tagger(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "bundle_folder", lambda: tmp_path / "models")
    save_tagger(tmp_path / "readable")
    assert bundled.readable_folder(tmp_path / "models" / "english") == tmp_path / "readable"


def test_other_models_do_not_take_the_tagger_of_bundled_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "bundle_folder", lambda: tmp_path / "models")
    save_tagger(tmp_path / "readable")
    assert bundled.readable_folder(tmp_path / "mine") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format: expected 1, got 2"),
        ({"marks": ["."]}, "marks: expected"),
        ({"lookahead": 0}, "lookahead: expected a whole number from 1 to 64, got 0"),
        ({"hidden": 9}, "weights of another architecture"),
        ({"hidden": 10**9}, "hidden: expected a whole number"),
        ({"layers": 3}, "weights of another architecture"),
        ({"words": "a b"}, "weights of another architecture"),
        ({"words": "a a b"}, "words: expected different words"),
        ({"words": None}, "words: expected different words"),
        ({"mixed": {"ab": "xy"}}, "mixed: expected spellings"),
        ({"mixed": []}, "mixed: expected spellings"),
        ({"language": 3}, "language: expected a code"),
    ],
)
def test_a_malformed_description_is_refused(tmp_path, change, message):
    save_tagger(tmp_path)
    path = tmp_path / "readable.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        load_readable(tmp_path)


@pytest.mark.parametrize("name", ["readable.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    save_tagger(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_readable(tmp_path)


@pytest.mark.parametrize("name", ["readable.json", "model.safetensors"])
def test_a_file_cut_short_is_named(tmp_path, name):
    save_tagger(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match=name):
        load_readable(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    save_tagger(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["output.bias"][0] = float("nan")
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ModelError, match=r"output\.bias holds values that are not finite"):
        load_readable(tmp_path)


def test_a_model_with_a_damaged_tagger_does_not_load(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(bundled.locate_model("an4"), model)
    save_tagger(model / "readable")
    (model / "readable" / "readable.json").write_text("{}")
    with pytest.raises(ModelError, match=r"readable\.json: format"):
        asr.load(model)


def test_bundled_models_write_their_transcripts():
    found = asr.load("an4").transcribe(SAMPLE)
    assert found.text == "ENTER FOUR FIVE NINE TWO"
    assert found.written == "Enter 4592."


def test_the_bundled_tagger_takes_at_most_three_megabytes():
    folder = bundled.bundle_folder().parent / "readable"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3_000_000


def test_the_bundled_tagger_writes_english():
    writer = ReadableWriter(load_readable(bundled.bundle_folder().parent / "readable"))
    writer.accept("HELLO MISTER SMITH I PAID TWENTY FIVE DOLLARS IN NEW YORK THEN I WENT HOME".split())
    writer.finish()
    assert "Mr. Smith" in writer.text()
    assert "I paid $25 in New York" in writer.text()
