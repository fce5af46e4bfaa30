"""Streaming equals the whole: any blocks, any rate, every cell, alone and in batches; endpoints; bad input."""

import math

import numpy as np
import pytest
import torch
import where
from hypothesis import given, settings
from hypothesis import strategies as st
from small import TOKENIZER, make_recognizer, sound

from asr.audio import read
from asr.config.sections import count_frames
from asr.decode.endpoint import Endpoint
from asr.errors import AudioError, ConfigError, DecodeError
from asr.models.inference import Latency
from asr.recognize import stream
from asr.recognize.language_models import Context
from asr.recognize.options import Chunks
from asr.recognize.stream import Stream
from asr.recognize.stream_batch import StreamBatch

CELLS = ("rnn", "rnn_relu", "gru", "lstm", "min_gru", "ssm")


def fed(live, samples, sizes):
    """All log-probabilities and texts of a stream that gets ``samples`` in blocks of ``sizes``, in turn."""
    matrices, at, turn = [], 0, 0
    plain = live.recognizer.decoder.accept

    def spy(searches, parts):
        matrices.extend(parts)
        plain(searches, parts)

    live.recognizer.decoder.accept = spy
    try:
        while at < len(samples):
            size = sizes[turn % len(sizes)]
            update = live.accept(samples[at : at + size])
            assert update.text[: update.stable] == update.text[: update.stable].rstrip() or update.stable
            at, turn = at + size, turn + 1
        final = live.finish()
    finally:
        live.recognizer.decoder.accept = plain
    return np.concatenate(matrices), final


@pytest.mark.parametrize("cell", CELLS)
def test_blocks_of_one_sample_give_the_whole(tmp_path, cell):
    recognizer = make_recognizer(tmp_path, cell)
    samples = sound(0.6)
    whole, _ = recognizer.log_probs([samples])
    log_probs, final = fed(Stream(recognizer), samples, [1])
    torch.testing.assert_close(log_probs, whole[0], atol=where.tolerance(1e-4, 1e-3), rtol=0)
    assert final.text == recognizer.transcribe(samples).text


@settings(max_examples=40, deadline=None)
@given(
    cell=st.sampled_from(CELLS),
    sizes=st.lists(st.integers(1, 40000), min_size=1, max_size=5),
    rate=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]),
    seconds=st.floats(0.03, 2.5),
    beam=st.sampled_from([1, 4]),
    factors=st.sampled_from([(4, 1), (2, 1), (4, 2)]),
    lookahead=st.sampled_from([0, 1, 4]),
    adapt_s=st.sampled_from([0.0, 0.5]),
    centred=st.booleans(),
)
def test_any_blocks_at_any_rate_give_the_whole(
    tmp_path_factory, cell, sizes, rate, seconds, beam, factors, lookahead, adapt_s, centred
):
    options = {"subsampling": factors[0], "upsampling": factors[1], "lookahead": lookahead, "adapt_s": adapt_s}
    options |= {"centred": centred, "beam": beam}
    recognizer = make_recognizer(tmp_path_factory.getbasetemp(), cell, **options)
    samples = sound(seconds, rate, seed=int(seconds * 1000))
    resampled = read.load_audio(samples, 16000, source_rate_hz=rate)
    live = Stream(recognizer, sample_rate_hz=rate)
    if count_frames(len(resampled), recognizer.model.config.features) == 0:
        for at in range(0, len(samples), 100):
            live.accept(samples[at : at + 100])
        assert live.finish().text == ""
        return
    whole, _ = recognizer.log_probs([resampled])
    log_probs, final = fed(live, samples, sizes)
    torch.testing.assert_close(log_probs, whole[0], atol=1e-4, rtol=0)
    expected = recognizer.transcribe(samples, sample_rate_hz=rate)
    assert final.text == expected.text
    times, wanted = ([t for w in x.words for t in (w.start_s, w.end_s)] for x in (final, expected))
    # The end of the last word is at most that of the sound, of which the resampler may lose a part of a sample.
    assert times == pytest.approx(wanted, abs=1e-3)
    assert final.duration_s == pytest.approx(expected.duration_s, abs=1e-3)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("beam", "lookahead"), [(1, 0), (4, 0), (4, 3)])
def test_streams_in_a_batch_give_what_each_gives_alone(tmp_path, cell, beam, lookahead):
    recognizer = make_recognizer(tmp_path, cell, beam=beam, lookahead=lookahead, adapt_s=0.3 * (beam > 1))
    rng = np.random.default_rng(1)
    rates = [16000, 8000, 16000, 44100, 16000, 16000]
    sounds = [sound(0.5 + 0.4 * i, rate, seed=i) for i, rate in enumerate(rates)]
    batch = StreamBatch(recognizer)
    streams = [batch.open(sample_rate_hz=rate, source=f"s{i}") for i, rate in enumerate(rates)]
    at = [0] * len(streams)
    while any(a < len(s) for a, s in zip(at, sounds, strict=True)):
        blocks = {}
        for i, live in enumerate(streams):
            size = int(rng.integers(0, 5000))
            blocks[live] = sounds[i][at[i] : at[i] + size]
            at[i] += size
        for update in batch.accept(blocks).values():
            assert isinstance(update, stream.Update)
    finals = stream.finish_streams(streams)
    for final, samples, rate in zip(finals, sounds, rates, strict=True):
        expected = recognizer.transcribe(samples, sample_rate_hz=rate)
        assert final.text == expected.text
    assert sum(len(final.text) for final in finals) > 12
    assert [final.source for final in finals] == [f"s{i}" for i in range(6)]


def test_partial_texts_keep_their_promise(tmp_path):
    recognizer = make_recognizer(tmp_path, beam=8)
    samples = sound(4.0, seed=3)
    live = Stream(recognizer)
    promises, revised = [], 0
    for at in range(0, len(samples), 640):
        update = live.accept(samples[at : at + 640])
        promises.append(update.text[: update.stable])
        revised += len(promises) > 1 and not update.text.startswith(promises[-2])
        assert update.time_s <= (at + 640) / 16000
    final = live.finish().text
    assert len(final) > 20
    assert not revised
    for promise in promises:
        assert final.startswith(promise.rstrip())
    assert max(map(len, promises)) > 10


@pytest.mark.parametrize("size", [160, 1999, 16000])
def test_words_that_ended_a_while_ago_are_decided_on_for_any_blocks(tmp_path, size):
    recognizer = make_recognizer(tmp_path, beam=8, blank=1.0)
    samples = sound(6.0, seed=3)
    free, whole, live = Stream(recognizer), Stream(recognizer, settle_s=0.3), Stream(recognizer, settle_s=0.3)
    whole.accept(samples)
    kept = ""
    for at in range(0, len(samples), size):
        update = live.accept(samples[at : at + size])
        assert update.text.startswith(kept)
        kept = update.text[: update.stable]
    assert len(kept) > free.accept(samples).stable
    final = live.finish().text
    assert final.startswith(kept)
    assert final == whole.finish().text


def test_partial_texts_have_the_spaces_of_the_final_one(recognizer):
    space = recognizer.model.tokenizer.space_id
    a, b = (recognizer.model.tokenizer.encode(letter)[0] for letter in "AB")
    tokens = [space, a, space, space, b, space]
    assert recognizer.decoder.vocabulary.partial(tokens, 4) == ("A B", 1)
    assert recognizer.decoder.vocabulary.partial(tokens[:1], 1) == ("", 0)


# Endpoints


def script(pattern):
    """Log-probabilities of a network that says ``pattern``, one symbol a frame, ``_`` for blank."""
    ids = [0 if c == "_" else TOKENIZER.symbols.index(c) for c in pattern]
    matrix = np.full((len(ids), TOKENIZER.vocab_size), 1e-4, np.float32)
    matrix[range(len(ids)), ids] = 1.0
    log_probs: np.ndarray = np.log(matrix / matrix.sum(axis=1, keepdims=True))
    return log_probs


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_endpoints_cut_where_the_rules_say_for_any_blocks(tmp_path, size):
    recognizer = make_recognizer(tmp_path)
    frame_s = recognizer.frame_s
    live = Stream(recognizer, endpoint=Endpoint(silence_s=5 * frame_s, longest_s=30 * frame_s))
    pattern = "___" + "A_B" + "_" * 8 + "CC_" + "_" * 3 + "D" + "_" * 20 + "AB_" * 12 + "AC" * 30
    log_probs = script(pattern)
    final = []
    for at in range(0, len(log_probs), size):
        for part, ends in live.cut(log_probs[at : at + size]):
            live._search.accept(part)
            live._waiting.received += int(480 * len(part))
            if ends:
                final.append(live.end_utterance())
    texts = [t.text for t in final if t.words]
    assert texts[:2] == ["AB", "CD"]
    assert len(texts) == 4  # two by silence, one at a blank after 30 frames, one in the middle of speech after 45
    assert final[0].words[0].start_s == pytest.approx(3 * frame_s)
    assert final[1].words[0].start_s == pytest.approx(14 * frame_s)
    lengths = np.diff([0, *(t.duration_s for t in final)]) / frame_s
    assert lengths.max() <= 45 + 1e-6


def test_a_stream_with_endpoints_returns_utterances_and_their_sum(tmp_path):
    recognizer = make_recognizer(tmp_path, blank=6.0)
    samples = np.concatenate([sound(1.5, seed=1), np.zeros(24000, np.float32), sound(1.5, seed=2)])
    live = Stream(recognizer, endpoint=Endpoint(silence_s=0.09))
    utterances = []
    for at in range(0, len(samples), 800):
        utterances += live.accept(samples[at : at + 800]).final
    last = live.finish()
    starts = [t.words[0].start_s for t in [*utterances, last] if t.words]
    assert len(utterances) > 1
    assert starts == sorted(starts)


# Hot words


LISTS = ({"AB": 6.0}, {"C": 9.0}, {"D A": 8.0, "B": -5.0}, {})


@pytest.mark.parametrize("size", [400, 3000])
def test_hot_words_count_from_the_next_utterance_or_the_one_that_is_silent_yet(tmp_path, size):
    recognizer = make_recognizer(tmp_path, blank=6.0, beam=8)
    decoder = recognizer.decoder
    samples = np.concatenate([np.pad(sound(1.0, seed=seed), (8000, 8000)) for seed in range(4)])
    live = Stream(recognizer, endpoint=Endpoint(silence_s=0.09))
    parts, utterances, wanted = [], [], {}
    note, end = live.note, live.end_utterance

    def noted(rows):
        parts.append(rows)
        note(rows)

    def ended():
        found = end()
        utterances.append((np.concatenate(parts), wanted["now"], found))
        parts.clear()
        wanted["now"] = wanted["next"]
        return found

    live.note, live.end_utterance = noted, ended
    wanted["now"] = wanted["next"] = {}
    silent = 0
    for turn, at in enumerate(range(0, len(samples), size)):
        live.accept(samples[at : at + size])
        if turn % 3 == 2:
            wanted["next"] = LISTS[turn % len(LISTS)]
            live.set_hotwords(wanted["next"])
            if not any((rows.argmax(axis=1) != 0).any() for rows in parts):
                silent += bool(parts)
                wanted["now"] = wanted["next"]
    live.finish()
    for matrix, hotwords, transcript in utterances:
        search = decoder.search()
        decoder.begin(search, decoder.vocabulary_with(hotwords), Context())
        search.accept(matrix)
        assert transcript.text == decoder.text(decoder.finish(search)[0].tokens)
    assert silent
    assert sum(bool(transcript.text) for *_, transcript in utterances) > 3


def test_streams_with_other_hot_words_do_not_disturb_each_other(tmp_path):
    recognizer = make_recognizer(tmp_path, beam=8)
    samples = sound(2.0)
    batch = StreamBatch(recognizer)
    first, second = batch.open(), batch.open()
    first.set_hotwords({"C": 50.0})
    for at in range(0, len(samples), 1600):
        batch.accept({first: samples[at : at + 1600], second: samples[at : at + 1600]})
    hot = make_recognizer(tmp_path, beam=8, hotwords={"C": 50.0}).transcribe(samples).text
    texts = [found.text for found in stream.finish_streams([first, second])]
    assert texts == [hot, recognizer.transcribe(samples).text]
    assert texts[0] != texts[1]


def test_hot_words_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="hot words: expected a beam above 1"):
        Stream(make_recognizer(tmp_path)).set_hotwords({"A": 1.0})
    live = Stream(make_recognizer(tmp_path, beam=4))
    for hotwords, message in (
        ({"X": 1.0}, "hot word 'X'"),
        ({"A": "5"}, "expected hot word A as a number"),
        ({3: 1.0}, "expected words as a text, got 3"),
        (["A"], "expected words with boosts"),
    ):
        with pytest.raises(DecodeError, match=message):
            live.set_hotwords(hotwords)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"endpoint": 0.6}, ConfigError),
        ({"sample_rate_hz": "16000"}, AudioError),
        ({"sample_rate_hz": True}, AudioError),
        ({"chunk_s": True}, ConfigError),
        ({"chunk_s": "0.64"}, ConfigError),
        ({"chunk_s": 0.64, "right_s": "0"}, ConfigError),
        ({"settle_s": "0.6"}, ConfigError),
        ({"settle_s": -1.0}, ConfigError),
        ({"settle_s": float("inf")}, ConfigError),
    ],
)
def test_options_of_other_types_are_refused(tmp_path, options, error):
    with pytest.raises(error, match="expected"):
        Stream(make_recognizer(tmp_path, bidirectional=True), **{"chunk_s": 0.64} | options)
    with pytest.raises(ConfigError, match="expected float, got"):
        Endpoint(True)


# Bidirectional models


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20000), min_size=1, max_size=4), chunk=st.integers(1, 12), right=st.integers(0, 12)
)
def test_latency_controlled_chunks_do_not_depend_on_blocks(tmp_path_factory, sizes, chunk, right):
    recognizer = make_recognizer(tmp_path_factory.getbasetemp(), "lstm", bidirectional=True)
    samples = sound(1.7, seed=5)
    options = {"chunk_s": chunk * 0.03, "right_s": right * 0.03}
    once, first = fed(Stream(recognizer, **options), samples, [len(samples)])
    pieces, second = fed(Stream(recognizer, **options), samples, sizes)
    torch.testing.assert_close(pieces, once, atol=1e-4, rtol=0)
    assert first.text == second.text
    frames = recognizer.log_probs([samples])[0].shape[1]
    assert len(once) == frames


def test_a_chunk_with_everything_behind_it_is_the_whole(tmp_path):
    recognizer = make_recognizer(tmp_path, "gru", bidirectional=True)
    samples = sound(1.5, seed=6)
    whole, _ = recognizer.log_probs([samples])
    for chunk, right in ((60, 0), (1, 60), (7, 60)):
        log_probs, _ = fed(Stream(recognizer, chunk_s=chunk * 0.03, right_s=right * 0.03), samples, [5000])
        torch.testing.assert_close(log_probs, whole[0], atol=1e-4, rtol=0)
    narrow, _ = fed(Stream(recognizer, chunk_s=0.03, right_s=0.0), samples, [5000])
    assert np.abs(narrow - whole[0]).max() > 0.1  # the context does matter


@pytest.mark.parametrize("given", [{}, {"chunk_s": Chunks.chunk_s}, {"right_s": Chunks.right_s}])
def test_a_bidirectional_model_streams_in_chunks_of_default_lengths(tmp_path, given):
    recognizer = make_recognizer(tmp_path, "lstm", bidirectional=True)
    samples = sound(3.0, seed=7)
    default, _ = fed(recognizer.stream(**given), samples, [5000])
    named, _ = fed(Stream(recognizer, chunk_s=0.64, right_s=0.64), samples, [5000])
    whole, _ = recognizer.log_probs([samples])
    assert np.array_equal(default, named)
    assert not np.allclose(default, whole[0], atol=1e-4)


def test_a_model_directory_says_in_which_chunks_its_model_streams(tmp_path):
    (tmp_path / "streaming.yaml").write_text("chunk_s: 0.3\nright_s: 0.12\n")
    samples, recognizer = sound(3.0, seed=7), make_recognizer(tmp_path, "lstm", bidirectional=True)
    saved, _ = fed(recognizer.stream(), samples, [5000])
    given, _ = fed(recognizer.stream(chunk_s=0.3, right_s=0.12), samples, [5000])
    other, _ = fed(recognizer.stream(chunk_s=0.64, right_s=0.64), samples, [5000])
    assert np.array_equal(saved, given)
    assert not np.allclose(saved, other, atol=1e-4)


def test_chunks_of_a_model_directory_that_cannot_be_are_refused_with_the_file(tmp_path):
    (tmp_path / "streaming.yaml").write_text("chunk_s: 0\n")
    with pytest.raises(ConfigError, match=r"streaming\.yaml: expected chunk_s above 0"):
        make_recognizer(tmp_path, "lstm", bidirectional=True)


def test_each_chunk_is_that_of_the_definition(tmp_path):
    """The forward direction remembers all, the backward one sees the chunk and its right context alone."""
    recognizer = make_recognizer(tmp_path, "lstm", bidirectional=True)
    network = recognizer.backend.network
    features = torch.randn(1, 80, 16)
    with torch.inference_mode():
        found, _ = network.stream(features, latency=Latency(6, 3), last=True)
        x, _ = network.subsampling(features)
        layer, first = network.encoder.layers[0], network.input_norm(x)
        expected = []
        for start in range(0, 20, 6):
            window = first[:, start : start + 9]
            backward, _ = layer.backward_cell(window.flip(1))
            expected.append(backward.flip(1)[:, :6])
        forward, _ = layer.forward_cell(first)
        states = None
        kept = []
        for start in range(0, 20, 6):
            out, states = layer.forward_chunk(first[:, start : start + 9], min(6, 20 - start), states)
            kept.append(out[:, :6])
    torch.testing.assert_close(torch.cat(kept, dim=1), torch.cat([forward, torch.cat(expected, dim=1)], dim=2))
    assert found.shape[1] == 20


# Bad input


def test_impossible_chunks_are_refused(tmp_path):
    recognizer = make_recognizer(tmp_path, bidirectional=True)
    for options in ({"chunk_s": 0.0}, {"right_s": -1.0}, {"chunk_s": math.inf}):
        with pytest.raises(ConfigError, match="chunk_s above 0"):
            Stream(recognizer, **options)


def test_a_rate_and_a_pause_of_zero_are_refused(tmp_path):
    with pytest.raises(AudioError, match="sample_rate_hz"):
        Stream(make_recognizer(tmp_path), sample_rate_hz=0)
    with pytest.raises(ConfigError, match=r"endpoint\.silence_s"):
        Endpoint(silence_s=0)


def damaged():
    """A block with a sample that is not a number."""
    bad = sound(0.1)
    bad[70] = math.nan
    return bad


def test_a_bad_block_is_named_by_stream_and_time(tmp_path):
    live = Stream(make_recognizer(tmp_path), source="line 3")
    live.accept(sound(0.2))
    with pytest.raises(AudioError, match=r"line 3: sample 3270 \(0\.204 s\) is not a finite"):
        live.accept(damaged())


@pytest.mark.parametrize("wrong", [np.zeros((2, 3, 4)), np.array(["a"]), np.zeros(5, np.int64)])
def test_a_block_that_is_no_sound_is_named_by_its_stream(wrong, tmp_path):
    with pytest.raises(AudioError, match="line 3"):
        Stream(make_recognizer(tmp_path), source="line 3").accept(wrong)


def test_a_stream_goes_on_behind_a_bad_block(tmp_path):
    live = Stream(make_recognizer(tmp_path))
    live.accept(sound(0.2))
    with pytest.raises(AudioError):
        live.accept(damaged())
    live.accept([])  # nothing is nothing
    live.accept((sound(0.2) * 32767).astype(np.int16))
    assert live.finish().duration_s == pytest.approx(0.4)


def test_a_finished_stream_takes_sound_after_start_only(tmp_path):
    live = Stream(make_recognizer(tmp_path))
    live.accept(sound(0.2))
    live.finish()
    with pytest.raises(AudioError, match="finished"):
        live.accept(sound(0.1))
    live.start()
    live.accept(sound(0.3))
    assert live.finish().duration_s == pytest.approx(0.3)


def test_a_bad_block_harms_no_other_stream_of_the_batch(tmp_path):
    batch = StreamBatch(make_recognizer(tmp_path))
    first, second = batch.open(source="a"), batch.open(source="b")
    results = batch.accept({first: damaged(), second: sound(1.0)})
    assert isinstance(results[first], AudioError)
    assert results[second].time_s > 0.9


def test_an_empty_stream_is_an_empty_transcript(tmp_path):
    for beam in (1, 4):
        found = Stream(make_recognizer(tmp_path, beam=beam)).finish()
        assert (found.text, found.words, found.duration_s) == ("", (), 0.0)


def test_a_recognizer_opens_its_own_streams(tmp_path):
    recognizer = make_recognizer(tmp_path)
    samples = sound(2.0, rate=8000)
    live = recognizer.stream(sample_rate_hz=8000, endpoint=Endpoint(silence_s=0.5), source="desk")
    live.accept(samples)
    assert live.source == "desk"
    assert live.finish().text == recognizer.transcribe(samples, sample_rate_hz=8000).text


def test_hot_words_phrases_and_alternatives_belong_to_a_stream_of_a_batch(tmp_path):
    recognizer = make_recognizer(tmp_path, beam=8)
    batch = StreamBatch(recognizer)
    plain, hot = batch.open(), batch.open(hotwords={"C": -20.0})
    listed, several = batch.open(phrases=["AB", "CD"]), batch.open(alternatives=3)
    samples = sound(2)
    batch.accept(dict.fromkeys((plain, hot, listed, several), samples))
    texts = [live.finish().text for live in (plain, hot, listed)]
    assert texts[0] == recognizer.transcribe(samples).text
    assert texts[1] == make_recognizer(tmp_path, beam=8, hotwords={"C": -20.0}).transcribe(samples).text != texts[0]
    assert texts[2]
    assert set(texts[2].split()) <= {"AB", "CD"}
    found = several.finish()
    assert found.alternatives[0].transcript.text == found.text == texts[0]
    assert len({each.transcript.text for each in found.alternatives}) == 3
    shares = [each.share for each in found.alternatives]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)


def test_alternatives_have_the_words_of_earlier_utterances_in_front(tmp_path):
    recognizer = make_recognizer(tmp_path, beam=8)
    live = Stream(recognizer, endpoint=Endpoint(10.0, 0.5), alternatives=2)
    live.push(sound(2))
    found = live.finish()
    assert all(each.transcript.text.split()[:1] == found.text.split()[:1] for each in found.alternatives)
    assert found.alternatives[0].transcript.text == found.text


def test_alternatives_must_be_a_number(tmp_path):
    with pytest.raises(DecodeError, match="alternatives"):
        Stream(make_recognizer(tmp_path), alternatives=0)
