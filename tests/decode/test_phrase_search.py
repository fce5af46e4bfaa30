"""A closed list of phrases: exact probabilities, answers over models and speeds, and the commands."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import TOKENIZER, make_recognizer, sound

import asr
from asr.audio import read, samples
from asr.cli import main
from asr.config.sections import TextConfig
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.decode import Phrase, greedy, score_phrases
from asr.decode.endpoint import Endpoint
from asr.decode.phrase_search import answers, read_phrases
from asr.errors import AudioError, ConfigError, DecodeError
from asr.recognize.decoder import Decoder
from asr.recognize.option_sources import choose
from asr.recognize.options import Decoding, load_options, save_options
from asr.recognize.recognizer import Recognizer
from asr.recognize.recording import Recording
from asr.recognize.stream import Stream
from asr.text.phones import WORD_BOUNDARY, PhoneTokenizer
from asr.text.tokenizer import CharTokenizer
from asr.text.word_tokens import WordTokenizer

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "egs" / "sample.wav"
WORDS = (ROOT / "egs" / "sample.txt").read_text(encoding="utf-8").strip()


def random_matrix(rng, *shape):
    logits = rng.normal(scale=2, size=shape)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def phrases(tmp_path):
    return write(tmp_path / "phrases.txt", "AB", "A B", "CD CD", "DACB")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), frames=st.integers(0, 5), vocabulary=st.integers(2, 4), data=st.data())
def test_the_probability_is_the_sum_over_all_paths(seed, frames, vocabulary, data):
    matrix = random_matrix(np.random.default_rng(seed), frames, vocabulary)
    token = st.integers(1, vocabulary - 1)
    ways = data.draw(st.lists(st.lists(token, max_size=6).map(tuple), min_size=1, max_size=4, unique=True))
    expected = dict.fromkeys(ways, 0.0)
    for path in itertools.product(range(vocabulary), repeat=frames):
        said = tuple(t for t, _ in itertools.groupby(path) if t)
        if said in expected:
            expected[said] += math.exp(sum(matrix[t, token] for t, token in enumerate(path)))
    found = score_phrases(matrix, [Phrase("", (way,)) for way in ways])
    assert np.exp(found[0]) == pytest.approx([expected[way] for way in ways], rel=1e-9)
    # The spellings of one phrase exclude each other.
    together = score_phrases(torch.from_numpy(matrix), [Phrase("", tuple(ways))])
    assert np.exp(together[0, 0]) == pytest.approx(sum(expected.values()), rel=1e-9)


def test_rows_of_a_batch_are_scored_alone_and_as_torch_does():
    batch = random_matrix(np.random.default_rng(1), 4, 30, 6)
    lengths = torch.tensor([30, 7, 3, 12])
    batch[1, 7:] = np.nan  # what is padding is never read
    ways = [(1, 2, 3), (4, 4, 5, 4), (1,), (2, 5, 2, 5, 2)]
    found = score_phrases(batch, [Phrase("", (way,)) for way in ways], lengths)
    for row, column in itertools.product(range(4), range(4)):
        matrix = torch.from_numpy(batch[row, : lengths[row]])
        loss = torch.nn.functional.ctc_loss(
            matrix[:, None], torch.tensor([ways[column]]), (len(matrix),), (len(ways[column]),), reduction="sum"
        )
        assert found[row, column] == pytest.approx(-float(loss))
    assert found[2, 1] == -math.inf


def test_the_answer_is_the_likeliest_with_its_times_and_its_share():
    # Token 2 in frames 1 and 2, then 1 in frame 4: blanks elsewhere.
    matrix = np.full((6, 4), 0.02)
    matrix[np.arange(6), [0, 2, 2, 0, 1, 0]] = 0.94
    matrix = np.log(matrix)
    listed = [Phrase("x", ((1, 2),)), Phrase("y", ((3, 3), (2, 1))), Phrase("z", ((1, 1, 1, 1),))]
    scores = score_phrases(matrix, listed)[0]
    found = answers(matrix, listed, scores, 3)
    assert [h.tokens for h in found] == [(2, 1), (1, 2)]  # the third has no room
    assert (found[0].frames, found[0].ends) == ((1, 4), (3, 5))
    share = math.exp(scores[1]) / (math.exp(scores[0]) + math.exp(scores[1]))
    assert found[0].confidences == pytest.approx((share, share))
    assert found[0].score == scores[1]
    # Anything else that is likelier than all of them is no phrase.
    other = answers(matrix, listed, np.append(scores, scores[1] + 1), 2)
    assert [h.tokens for h in other] == [(), (2, 1)]
    assert [h.phrase for h in other] == ["", "y"]
    assert other[1].confidences[0] == pytest.approx(1 / (1 + math.e), rel=0.01)
    assert answers(matrix[:1], listed, np.full(3, -np.inf))[0].tokens == ()


def test_what_only_a_slower_speed_has_room_for_fills_the_recording():
    matrix = np.log(np.full((2, 3), 1 / 3))
    found = answers(matrix, [Phrase("x", ((1, 2, 1),))], np.array([-3.0]))[0]
    assert (found.tokens, found.frames, found.ends) == ((1, 2, 1), (0, 0, 0), (2, 2, 2))


def test_a_recording_is_one_of_the_phrases(tmp_path, phrases):
    listed = ["AB", "A B", "CD CD", "DACB"]
    recognizer = make_recognizer(tmp_path, bidirectional=True, phrases=phrases)
    free = make_recognizer(tmp_path, bidirectional=True)
    waves = [sound(1.0, seed=seed) for seed in range(6)]
    texts = [recognizer.transcribe(wave).text for wave in waves]
    assert set(texts) <= set(listed)
    assert len(set(texts)) > 1
    for wave, text in zip(waves, texts, strict=True):
        matrix = torch.from_numpy(free.log_probs([wave])[0][0])
        loss = {}
        for phrase in listed:
            ids = torch.tensor([free.model.tokenizer.encode(phrase)])
            loss[phrase] = float(
                torch.nn.functional.ctc_loss(matrix[:, None], ids, (len(matrix),), (ids.shape[1],), reduction="sum")
            )
        assert text == min(loss, key=lambda phrase: loss[phrase])
        total = sum(math.exp(-value) for value in loss.values())
        assert recognizer.transcribe(wave).words[0].confidence == pytest.approx(math.exp(-loss[text]) / total, rel=1e-3)
    many = recognizer.transcribe_many([Recording(wave, str(i)) for i, wave in enumerate(waves)])
    assert [result.text for _, result in many] == texts


def test_what_is_none_of_them_is_empty_at_its_price(tmp_path, phrases):
    recognizer = make_recognizer(tmp_path, bidirectional=True, phrases=phrases)
    wave = sound(1.0, seed=2)
    free = recognizer.log_probs([wave])
    other = score_phrases(free[0], [Phrase("", (greedy(*free)[0].tokens,))], free[1])[0, 0]
    gap = float(other - recognizer.phrase_scores([wave])[0].max())
    assert gap > 0.5  # noise is no phrase
    for penalty, empty in ((-gap + 0.1, True), (-gap - 0.1, False)):
        asked = make_recognizer(tmp_path, bidirectional=True, phrases=phrases, unknown_penalty=penalty)
        transcript = asked.transcribe(wave)
        assert (transcript.text == "") is empty
        assert bool(transcript.words) is not empty


def test_what_is_said_surely_is_sure_whatever_else_is_allowed(phrases):
    """Anything else is not the phrase itself."""
    decoder = Decoder(Decoding(phrases=phrases, unknown_penalty=0.0), TOKENIZER)
    matrix = np.full((1, 6, 6), 1e-6)
    matrix[0, np.arange(6), [0, 2, 2, 3, 0, 0]] = 1 - 5e-6
    (found,) = decoder.decode(torch.from_numpy(np.log(matrix)), torch.tensor([6]))
    assert found.phrase == "AB"
    assert found.confidences[0] > 0.99


def test_a_spelling_that_is_impossible_does_not_hide_the_other():
    matrix = np.log(
        np.array([[0.2, 0.8, 0.0], [0.9, 0.1, 0.0]]) + 0.0,
        where=np.array([[1, 1, 0]] * 2, bool),
        out=np.full((2, 3), -np.inf),
    )
    listed = [Phrase("x", ((2,), (1,)))]
    assert answers(matrix, listed, score_phrases(matrix, listed)[0])[0].tokens == (1,)


def test_models_and_speeds_are_put_together(tmp_path, phrases):
    tokenizer = WordTokenizer(["<blank>", "A", "B", "AB", "CD", "DACB"], TextConfig())
    speeds = (0.8, 1.0, 1.25)
    first = make_recognizer(tmp_path, bidirectional=True, phrases=phrases, speeds=speeds)
    second = make_recognizer(tmp_path, "gru", tokenizer=tokenizer, phrases=phrases, speeds=speeds)
    both = Recognizer(first.model, device="cpu", decoding=first.decoder.options, also=[second])
    waves = [sound(0.8, seed=7), sound(1.1, seed=8)]
    expected = np.zeros((2, 4))
    for recognizer, (row, wave) in itertools.product((first, second), enumerate(waves)):
        probabilities = 0
        for speed in speeds:
            played = samples.resample(wave, round(16000 * speed), 16000)
            matrix = recognizer.log_probs([played])[0][0]
            probabilities = probabilities + np.exp(score_phrases(matrix, recognizer.decoder.phrases)[0])
        expected[row] += np.log(probabilities / 3) / 2
    assert both.phrase_scores(waves)[:, :4] == pytest.approx(expected, abs=1e-4)
    assert [both.transcribe(w).text for w in waves] == [both.decoder.phrases[i].text for i in expected.argmax(axis=1)]


def test_a_second_model_may_hear_another_rate(tmp_path, phrases):
    first = make_recognizer(tmp_path, bidirectional=True, phrases=phrases)
    second = make_recognizer(tmp_path, phrases=phrases)
    config = second.model.config
    narrow = dataclasses.replace(
        second.model,
        config=dataclasses.replace(
            config, features=dataclasses.replace(config.features, sample_rate_hz=8000, high_hz=4000)
        ),
    )
    other = Recognizer(narrow, device="cpu", decoding=Decoding(phrases=phrases))
    both = Recognizer(first.model, device="cpu", decoding=first.decoder.options, also=[other])
    wave = sound(1.0, seed=3)
    alone = first.phrase_scores([wave]), other.phrase_scores([samples.resample(wave, 16000, 8000)])
    assert both.phrase_scores([wave])[:, :4] == pytest.approx(np.mean(alone, axis=0)[:, :4])


def test_phones_say_the_phrase_and_not_what_sounds_like_it(tmp_path):
    lexicon = {"TO": [("T", "UW")], "TWO": [("T", "UW")], "EITHER": [("IY", "T"), ("T", "IY")]}
    tokenizer = PhoneTokenizer(
        ["<blank>", "T", "UW", "IY", WORD_BOUNDARY],
        lexicon,
        TextConfig(tokenizer="phone", lexicon="x", word_boundary=True),
    )
    path = write(tmp_path / "phrases.txt", "either two", "two")
    decoder = Decoder(Decoding(phrases=path), tokenizer)
    assert [len(phrase.spellings) for phrase in decoder.phrases] == [2, 1]
    matrix = np.full((1, 9, 5), 0.01)
    matrix[0, np.arange(9), [1, 3, 0, 4, 0, 1, 0, 2, 0]] = 0.96
    log_probs = torch.from_numpy(np.log(matrix))
    assert decoder.decode(log_probs, torch.tensor([9]))[0].phrase == "EITHER TWO"


def test_a_second_model_tells_phrases_apart_that_sound_alike(tmp_path):
    path = write(tmp_path / "phrases.txt", "AB", "BA")
    lexicon = {"AB": [("T", "UW")], "BA": [("T", "UW")]}
    config = TextConfig(tokenizer="phone", lexicon="x", word_boundary=True)
    phones = make_recognizer(
        tmp_path,
        bidirectional=True,
        tokenizer=PhoneTokenizer(["<blank>", "T", "UW", WORD_BOUNDARY], lexicon, config),
        phrases=path,
    )
    letters = make_recognizer(tmp_path, bidirectional=True, phrases=path)
    both = Recognizer(phones.model, device="cpu", decoding=phones.decoder.options, also=[letters])
    texts = []
    for seed in range(8):
        wave = sound(1.0, seed=seed)
        texts.append(both.transcribe(wave).text)
        assert texts[-1] == letters.transcribe(wave).text
        assert phones.transcribe(wave).text == "AB"  # the first of the list
    assert set(texts) == {"AB", "BA"}


def test_streamed_utterances_are_answered_when_they_end(tmp_path, phrases):
    recognizer = make_recognizer(tmp_path, phrases=phrases)
    waves = [sound(1.0, seed=seed) for seed in (4, 5)]
    for wave in waves:
        stream = Stream(recognizer)
        for start in range(0, len(wave), 700):
            update = stream.accept(wave[start : start + 700])
            assert update.text == ""
        final = stream.finish()
        assert final.text == recognizer.transcribe(wave).text
        for word, whole in zip(final.words, recognizer.transcribe(wave).words, strict=True):
            assert (word.text, word.start_s, word.end_s) == (whole.text, whole.start_s, whole.end_s)
            assert word.confidence == pytest.approx(whole.confidence, abs=1e-5)
        stream.start()
        assert stream.finish().text == ""
    stream = Stream(recognizer, endpoint=Endpoint(longest_s=0.4))
    update = stream.accept(np.concatenate(waves))
    assert len(update.final) >= 2
    assert {t.text for t in update.final} <= {phrase.text for phrase in recognizer.decoder.phrases}


def test_silence_in_a_stream_is_no_phrase(tmp_path):
    phrases = write(tmp_path / "phrases.txt", WORDS, "NO")
    stream = Stream(asr.load("stream", phrases=phrases), endpoint=Endpoint(longest_s=4.0))
    said = read.load_audio(SAMPLE, 16000)
    update = stream.accept(np.concatenate([said, np.zeros(16000 * 10, np.float32)]))
    assert [t.text for t in update.final] == [WORDS]
    assert stream.finish().text == ""


@pytest.fixture
def sample_list(tmp_path):
    """The words of the sample in small letters among phrases that are like them."""
    first, *rest = WORDS.split()
    return write(tmp_path / "phrases.txt", "", " ".join(rest), WORDS.lower(), f"{WORDS} {first}", WORDS)


def test_the_bundled_model_picks_its_sample_as_the_list_writes_it(sample_list, capsys):
    assert main.run_command(["transcribe", str(SAMPLE), "--phrases", sample_list, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == WORDS.lower()


def test_a_phrase_in_other_letters_is_no_rival(sample_list):
    assert asr.load(phrases=sample_list).transcribe(SAMPLE).confidence > 0.9


def test_the_words_of_a_phrase_follow_each_other(sample_list):
    times = [word.start_s for word in asr.load(phrases=sample_list).transcribe(SAMPLE).words]
    assert len(times) == len(WORDS.split())
    assert times == sorted(times)


def test_two_models_at_three_speeds_pick_it_too(sample_list, capsys):
    command = ["transcribe", str(SAMPLE), "--phrases", sample_list, "--also", "stream", "--speeds", "0.9,1,1.1"]
    assert main.run_command(command) == 0
    assert capsys.readouterr().out.strip() == WORDS.lower()


def test_what_is_none_of_the_phrases_has_no_text(tmp_path, capsys):
    other = write(tmp_path / "other.txt", "YES", "NO")
    assert main.run_command(["transcribe", str(SAMPLE), "--phrases", other, "--unknown-penalty", "-5"]) == 0
    assert capsys.readouterr().out.strip() == ""


LETTERS = CharTokenizer(["<blank>", " ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], TextConfig(case="upper"))


def test_a_phrase_comes_back_as_it_is_written_with_the_times_of_what_is_spoken(tmp_path):
    digits = {"FOUR": "4,", "FIVE": "5", "NINE": "9", "TWO": "2"}
    line = " ".join(digits.get(word, word.title()) for word in WORDS.split()) + "!"
    spoken = asr.load(phrases=write(tmp_path / "plain.txt", WORDS, "YES")).transcribe(SAMPLE)
    found = asr.load(phrases=write(tmp_path / "p.txt", "Yes.", line, "42")).transcribe(SAMPLE)
    assert found.text == line
    assert [word.text for word in found.words] == line.split()
    assert [word.start_s for word in found.words] == [word.start_s for word in spoken.words]
    assert found.spoken_text == WORDS
    with pytest.raises(DecodeError, match=r"p\.txt:3: '42': '4', '2' cannot be spelt"):
        asr.load(phrases=write(tmp_path / "p.txt", "YES", "NO", "42"), language="none")


def test_words_of_a_phrase_that_are_several_spoken_ones_are_put_together(tmp_path):
    recognizer = make_recognizer(tmp_path, phrases=write(tmp_path / "p.txt", "10 D"), language="en", tokenizer=LETTERS)
    found = recognizer.transcribe(sound(3.0))
    plain = make_recognizer(tmp_path, phrases=write(tmp_path / "p.txt", "TEN D"), tokenizer=LETTERS)
    first, second = plain.transcribe(sound(3.0)).words
    assert [(w.text, w.start_s, w.end_s) for w in found.words] == [
        ("10", first.start_s, first.end_s), ("D", second.start_s, second.end_s),
    ]  # fmt: skip
    two = make_recognizer(tmp_path, phrases=write(tmp_path / "p.txt", "D-10"), tokenizer=LETTERS)
    assert [w.text for w in two.transcribe(sound(3.0)).words] == ["D-10"]


def test_evaluate_scores_the_answers(tmp_path, capsys):
    path = write(tmp_path / "phrases.txt", WORDS.lower() + ".", "YES", "NO")
    utterance = Utterance("one", str(SAMPLE), WORDS, duration_s=1.0)
    manifest.write_manifest(tmp_path / "m.jsonl", [utterance, dataclasses.replace(utterance, id="two", text="YES")])
    report = tmp_path / "report.json"
    command = ["evaluate", str(tmp_path / "m.jsonl"), "--phrases", path, "--also", "stream", "--json", str(report)]
    assert main.run_command(command) == 0
    assert [u["hypothesis"] for u in json.loads(report.read_text())["utterances"]] == [WORDS, WORDS]
    assert "SER" in capsys.readouterr().out


@pytest.fixture
def with_phrases(tmp_path):
    """A model directory that holds a list of phrases, and the list that was given for it."""
    given = write(tmp_path / "phrases.txt", "A", "B")
    save_options(tmp_path / "model", Decoding(phrases=given, speeds=(0.9, 1.0), unknown_penalty=-3))
    return tmp_path / "model", given


def test_a_model_directory_may_hold_its_phrases(with_phrases):
    options = load_options(with_phrases[0])
    assert Path(options.phrases).read_text() == "A\nB\n"
    assert Path(options.phrases).parent.parent == with_phrases[0]


def test_a_model_directory_holds_the_options_of_its_phrases(with_phrases):
    options = load_options(with_phrases[0])
    assert (options.speeds, options.unknown_penalty) == ((0.9, 1.0), -3)


def test_phrases_that_are_given_replace_the_search_of_a_directory(with_phrases, tmp_path):
    save_options(tmp_path / "searching", Decoding(beam=8, word_bonus=1))
    assert choose(tmp_path / "searching", phrases=with_phrases[1]) == Decoding(phrases=with_phrases[1])


def test_a_search_that_is_asked_for_replaces_the_phrases_of_a_directory(with_phrases):
    assert choose(with_phrases[0], word_bonus=1.0) == Decoding(beam=16, word_bonus=1.0)


def test_speeds_that_are_given_keep_the_phrases_of_a_directory(with_phrases):
    chosen = choose(with_phrases[0], speeds=(0.8, 1.0))
    assert chosen.speeds == (0.8, 1.0)
    assert chosen.phrases


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 4}, "phrases: expected no search options beside them, got beam"),
        ({"lm": "x", "lexicon": "y"}, "phrases: expected no search options beside them, got lm, lexicon"),
        ({"lm_adapt": 0.1}, "lm_adapt"),
        ({"speeds": ()}, "one or more from 0.5 to 2"),
        ({"speeds": (1.0, 3.0)}, r"one or more from 0.5 to 2, got \[1.0, 3.0\]"),
        ({"unknown_penalty": 1.0}, "unknown_penalty: expected at most 0"),
    ],
)
def test_options_that_make_no_sense(phrases, options, message):
    with pytest.raises(ConfigError, match=message):
        Decoding(phrases=phrases, **options)


def test_speeds_need_phrases():
    with pytest.raises(ConfigError, match="speeds: expected phrases"):
        Decoding(speeds=(0.9, 1.0))


def test_several_models_need_phrases():
    with pytest.raises(ConfigError, match="also: expected phrases"):
        asr.load(also=["stream"])


def test_speeds_that_are_no_numbers_are_refused(phrases, capsys):
    with pytest.raises(SystemExit):
        main.run_command(["transcribe", str(SAMPLE), "--phrases", phrases, "--speeds", "fast"])
    assert "expected numbers with commas between them, got 'fast'" in capsys.readouterr().err


def test_several_models_need_the_same_phrases(tmp_path, phrases):
    first = make_recognizer(tmp_path, phrases=phrases)
    other = make_recognizer(tmp_path, phrases=write(tmp_path / "fewer.txt", "AB"))
    with pytest.raises(ConfigError, match=r"the same phrases, speeds and unknown_penalty for several models"):
        Recognizer(first.model, device="cpu", decoding=first.decoder.options, also=[other])


@pytest.mark.parametrize("command", ["tune", "calibrate"])
def test_nothing_is_fitted_to_a_list_of_phrases(phrases, capsys, command):
    assert main.run_command([command, "m.jsonl", "--model", "an4", "--phrases", phrases]) == 2
    assert "--phrases: expected a search" in capsys.readouterr().err


def test_streams_take_one_model_at_one_speed(tmp_path, phrases):
    first = make_recognizer(tmp_path, phrases=phrases)
    several = Recognizer(first.model, device="cpu", decoding=first.decoder.options, also=[first])
    for recognizer in (several, make_recognizer(tmp_path, phrases=phrases, speeds=(0.9, 1.0))):
        with pytest.raises(ConfigError, match="one model and speed 1 for a stream"):
            Stream(recognizer)


def test_a_recording_of_minutes_is_no_phrase_and_harms_no_other(tmp_path, phrases):
    recognizer = make_recognizer(tmp_path, phrases=phrases)
    long = np.zeros(16000 * 61, np.float32)
    with pytest.raises(AudioError, match="expected one phrase, at most 60 s, got more"):
        recognizer.transcribe(long)
    wave = sound(1.0)
    results = [result for _, result in recognizer.transcribe_many([Recording(long, "long"), Recording(wave, "short")])]
    assert isinstance(results[0], AudioError)
    assert results[1].text == recognizer.transcribe(wave).text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n  \n", r"p\.txt: expected a phrase on each line, got an empty file"),
        (b"AB\n\nXYZ\n", r"p\.txt:3: 'XYZ': 'X', 'Y', 'Z' cannot be spelt"),
        (b"\xff\xfe\x00A", r"p\.txt: cannot read the phrases"),
    ],
    ids=["empty", "other letters", "other bytes"],
)
def test_bad_lists_name_file_and_line(tmp_path, content, message):
    (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(DecodeError, match=message):
        read_phrases(tmp_path / "p.txt", TOKENIZER)


def test_a_list_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DecodeError, match=r"gone\.txt: cannot read the phrases"):
        read_phrases(tmp_path / "gone.txt", TOKENIZER)


def test_a_phrase_that_is_listed_twice_counts_once(tmp_path):
    found = read_phrases(write(tmp_path / "p.txt", "AB", " AB ", "A  B"), TOKENIZER)
    assert [phrase.text for phrase in found] == ["AB", "A B"]


def test_no_phrases_have_no_scores():
    assert score_phrases(np.log(np.full((2, 3), 1 / 3)), []).shape == (1, 0)


@pytest.mark.parametrize("wrong", [7, 1.9, True])
def test_what_is_no_token_cannot_be_scored(wrong):
    with pytest.raises(DecodeError, match=f"expected whole token ids from 1 to 2, got {wrong}"):
        score_phrases(np.log(np.full((2, 3), 1 / 3)), [Phrase("", ((1, wrong),))])
