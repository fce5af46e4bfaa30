"""From utterances to batches: what is left out, what goes together, and that nothing but the seed decides."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch
from corpus import RATE_HZ, make_config, make_utterances
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config.sections import output_frames
from asr.data.batch_maker import MASK_STREAM, ORDER_STREAM, SPEED_STREAM, BatchMaker, BatchOrder, Row
from asr.data.batches import Dataset, Example
from asr.data.distort import change_speed
from asr.data.manifest import Utterance, write_manifest
from asr.data.sample_cache import SampleCache
from asr.data.splice import join_pieces
from asr.errors import ManifestError, TextError
from asr.models.acoustic import AcousticModel
from asr.models.features import LogMel
from asr.text.tokenizer import CharTokenizer, min_frames


@pytest.fixture(scope="module")
def utterances(tmp_path_factory):
    return make_utterances(tmp_path_factory.mktemp("corpus"), 20, "u")


def make_dataset(utterances, config, *, training=True, warn=None):
    tokenizer = CharTokenizer(["<blank>", " ", "A", "B", "C"], config.text)
    return Dataset(utterances, tokenizer, config, training=training, warn=warn or pytest.fail)


def fake(id, text, duration_s):
    return Utterance(id, "/nowhere.wav", text, duration_s)


def equal(a, b):
    names = [field.name for field in dataclasses.fields(a)]
    pairs = [(getattr(a, name), getattr(b, name)) for name in names if name != "masks"]
    pairs += list(zip(a.masks, b.masks, strict=True))
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


# What is left out


def test_a_label_that_cannot_fit_is_named_with_its_counts(tmp_path):
    config = make_config(tmp_path)
    # 25 ms window, 10 ms hop, subsampling 2: 0.115 s give 10 frames and 5 outputs.
    data = make_dataset(
        [
            fake("fits", "ABCAB", 0.115),
            fake("repeat", "ABCCA", 0.115),
            fake("long", "ABCABC", 0.115),
            fake("silence", "", 0.115),
        ],
        config,
    )
    assert [u.id for u in data.utterances] == ["fits", "silence"]
    assert data.left_out.keys() == {"repeat", "long"}
    assert "needs 6 frames" in data.left_out["repeat"]
    assert "give 5" in data.left_out["repeat"]


def test_too_long_and_too_short_audio_is_left_out_of_training(tmp_path):
    config = make_config(tmp_path, data={"max_utterance_s": 2.0})
    cases = [fake("fits", "A", 2.0), fake("long", "A", 2.1), fake("short", "", 0.024)]
    training = make_dataset(cases, config)
    assert training.left_out.keys() == {"long", "short"}
    assert "data.max_utterance_s" in training.left_out["long"]
    assert "shorter than one window" in training.left_out["short"]
    # A validation figure must not depend on a limit of training.
    assert make_dataset(cases, config, training=False).left_out.keys() == {"short"}


def test_an_unknown_character_names_the_utterance(tmp_path):
    with pytest.raises(TextError, match=r"utterance odd: 'É'"):
        make_dataset([fake("odd", "ABÉ", 1.0)], make_config(tmp_path))


@given(st.integers(0, 4000), st.sampled_from([2, 4]))
@settings(deadline=None, max_examples=25)
def test_output_frames_are_those_of_the_network(tmp_path_factory, samples, subsampling):
    config = make_config(tmp_path_factory.getbasetemp(), model={"subsampling": subsampling, "bidirectional": False})
    features, frames = LogMel(config.features)(torch.zeros(1, samples), torch.tensor([samples]))
    log_probs, lengths = AcousticModel(config.model, config.features.mel_bins, 5)(features, frames)
    assert log_probs.shape[1] == int(lengths) == output_frames(samples, config)


def test_exclude_leaves_out_by_id_and_keeps_labels_in_step(tmp_path, utterances):
    data = make_dataset(utterances, make_config(tmp_path))
    for index in range(len(utterances)):
        data.samples(index)
    data.exclude({"u0": "broken", "u7": "broken too"})
    assert data.left_out == {"u0": "broken", "u7": "broken too"}
    assert data.cached_s == pytest.approx(sum(u.duration_s for u in data.utterances))
    assert [u.id for u in data.utterances] == [u.id for u in utterances if u.id not in ("u0", "u7")]
    for index, (utterance, label) in enumerate(zip(data.utterances, data.labels, strict=True)):
        assert label == [" ABC".index(c) + 1 for c in utterance.text]
        assert np.array_equal(data.samples(index), soundfile.read(utterance.audio, dtype="float32")[0])


def test_check_does_not_believe_the_manifest(tmp_path, utterances):
    lies = dataclasses.replace(utterances[0], text="A" * 50, duration_s=30.0)
    data = make_dataset([lies, utterances[1]], make_config(tmp_path))
    assert "needs 99 frames" in data.check(0)
    assert data.check(1) == ""


# The plan


def test_the_first_epoch_may_go_from_short_to_long(tmp_path):
    durations = np.random.default_rng(0).uniform(0.5, 3, 40)
    config = make_config(tmp_path, augment={"speeds": [1.0]}, data={"shortest_first": True})
    data = make_dataset([fake(f"u{i}", "A", d) for i, d in enumerate(durations)], config)
    longest = [[max(durations[example.index] for example in batch) for batch in data.plan(epoch)] for epoch in (0, 1)]
    assert len(longest[0]) > 5
    # Lengths are jittered by a tenth before they are sorted.
    assert all(after > 0.8 * before for before, after in pairwise(longest[0]))
    assert longest[1] != sorted(longest[1])
    assert sorted(example.index for batch in data.plan(0) for example in batch) == list(range(40))


def plan_ids(data, epoch):
    return [[data.utterances[example.index].id for example in batch] for batch in data.plan(epoch)]


@settings(max_examples=40, deadline=None)
@given(
    durations=st.lists(st.floats(0.05, 12), min_size=1, max_size=60),
    batch_s=st.floats(0.5, 30),
    epoch=st.integers(0, 1000),
    training=st.booleans(),
)
def test_batches_cover_each_utterance_once_and_stay_within_the_bound(
    tmp_path_factory, durations, batch_s, epoch, training
):
    config = make_config(tmp_path_factory.getbasetemp(), data={"batch_s": batch_s})
    data = make_dataset([fake(f"u{i}", "A", d) for i, d in enumerate(durations)], config, training=training)
    batches = data.plan(epoch)
    assert sorted(example.index for batch in batches for example in batch) == list(range(len(durations)))
    for batch in batches:
        played = [durations[example.index] / example.speed for example in batch]
        assert len(batch) == 1 or max(played) * len(batch) <= batch_s
        assert {example.speed for example in batch} <= (set(config.augment.speeds) if training else {1.0})
    if not training:
        for batch, following in pairwise(batches):
            together = [durations[example.index] for example in [*batch, following[0]]]
            assert max(together) * len(together) > batch_s, "the batch had room for one more"


def test_plans_follow_seed_and_epoch(tmp_path, utterances):
    data = make_dataset(utterances, make_config(tmp_path))
    again = make_dataset(utterances, make_config(tmp_path))
    other = make_dataset(utterances, make_config(tmp_path, train={"seed": 2}))
    assert data.plan(0) == again.plan(0)
    assert data.plan(3) == data.plan(3)
    assert data.plan(0) != data.plan(1)
    assert data.plan(0) != other.plan(0)
    assert {frozenset(ids) for ids in plan_ids(data, 0)} != {frozenset(ids) for ids in plan_ids(data, 1)}
    # Neither do the short ones come first.
    longest = [max(utterances[example.index].duration_s for example in batch) for batch in data.plan(0)]
    assert longest != sorted(longest)


def test_neighbours_in_a_batch_are_of_similar_length(tmp_path):
    rng = np.random.default_rng(0)
    cases = [fake(f"u{i}", "A", float(d)) for i, d in enumerate(rng.uniform(1, 15, 400))]
    config = make_config(tmp_path, data={"batch_s": 60.0}, augment={"speeds": [0.9, 1.0, 1.1]})
    data = make_dataset(cases, config)
    padded = valid = 0.0
    for batch in data.plan(0):
        played = [cases[example.index].duration_s / example.speed for example in batch]
        padded += max(played) * len(played)
        valid += sum(played)
    assert valid / padded > 0.85


def test_a_label_that_only_just_fits_is_not_played_faster(tmp_path):
    config = make_config(tmp_path, augment={"speeds": [2.0]})
    label = "AB" * 6
    data = make_dataset([fake("tight", label, 0.26), fake("roomy", label, 2.0)], config)
    assert min_frames(data.labels[0]) == output_frames(round(0.26 * RATE_HZ), config)
    speeds = {data.utterances[e.index].id: e.speed for batch in data.plan(0) for e in batch}
    assert speeds == {"tight": 1.0, "roomy": 2.0}


def test_streams_of_random_numbers_do_not_repeat_each_other(tmp_path, utterances):
    data = make_dataset(utterances, make_config(tmp_path))
    streams = [(epoch, stream, index) for epoch in range(3) for stream in range(3) for index in range(5)]
    assert len({SPEED_STREAM, MASK_STREAM, ORDER_STREAM}) == 3
    rows = [Row(utterances[0], [], -1, index) for index in range(5)]
    draws = {data.maker.rng(epoch, stream, rows[index]).integers(2**63) for epoch, stream, index in streams}
    assert len(draws) == len(streams)


# The batches


def test_a_batch_holds_the_audio_and_labels_of_its_utterances(tmp_path, utterances):
    config = make_config(tmp_path, augment={"speeds": [0.9, 1.0, 1.1]})
    data = make_dataset(utterances, config)
    by_id = {u.id: u for u in utterances}
    for plan, batch in zip(data.plan(1), data.batches(data.plan(1), 1), strict=True):
        assert batch.samples.shape == (len(plan), batch.lengths.max())
        assert batch.total_samples == batch.lengths.sum()
        labels = batch.tokens.split(batch.token_lengths.tolist())
        for row, example in enumerate(plan):
            utterance = by_id[batch.ids[row]]
            assert utterance is data.utterances[example.index]
            original, _ = soundfile.read(utterance.audio, dtype="float32")
            expected = change_speed(original, RATE_HZ, example.speed)
            length = int(batch.lengths[row])
            np.testing.assert_array_equal(batch.samples[row, :length].numpy(), expected)
            assert not batch.samples[row, length:].any()
            assert data.utterances[example.index].text == "".join(" ABC"[i - 1] for i in labels[row].tolist())
        assert [masks.shape for masks in batch.masks] == [(len(plan), 4, 2)]


def test_validation_batches_are_unchanged_audio(tmp_path, utterances):
    config = make_config(tmp_path, augment={"speeds": [0.9]})
    data = make_dataset(utterances, config, training=False)
    batches = list(data.batches(data.plan(0), 0))
    assert all(equal(a, b) for a, b in zip(batches, data.batches(data.plan(5), 5), strict=True))
    assert all(batch.masks == () for batch in batches)
    lengths = {id: n for batch in batches for id, n in zip(batch.ids, batch.lengths.tolist(), strict=True)}
    assert lengths == {u.id: round(u.duration_s * RATE_HZ) for u in utterances}


def test_batches_do_not_depend_on_prefetching_caching_or_what_was_read_before(tmp_path, utterances):
    data = make_dataset(utterances, make_config(tmp_path))
    reference = list(data.batches(data.plan(2), 2))
    assert len(reference) > 3
    for changes in (
        {"prefetch": 1},
        {"prefetch": 50},
        {"cache_s": 1.0},
        {"cache_s": 0.0},
        {"cache_s": 3.0},
    ):
        data = make_dataset(utterances, make_config(tmp_path, data=changes))
        list(data.batches(data.plan(1), 1))
        assert all(equal(a, b) for a, b in zip(data.batches(data.plan(2), 2), reference, strict=True)), changes


def test_starting_at_a_batch_gives_the_tail(tmp_path, utterances):
    data = make_dataset(utterances, make_config(tmp_path))
    whole = list(data.batches(data.plan(1), 1))
    for start in range(len(whole) + 1):
        again = make_dataset(utterances, make_config(tmp_path))
        tail = list(again.batches(again.plan(1)[start:], 1))
        assert all(equal(a, b) for a, b in zip(tail, whole[start:], strict=True))


def test_an_utterance_on_one_channel_is_read_from_it(tmp_path, utterances):
    item = utterances[0]
    mono, rate_hz = soundfile.read(item.audio, dtype="float32")
    both = tmp_path / "both.wav"
    soundfile.write(both, np.stack([np.zeros_like(mono), mono], axis=1), rate_hz, subtype="FLOAT")
    data = make_dataset([dataclasses.replace(item, audio=str(both), channel=1)], make_config(tmp_path))
    np.testing.assert_allclose(data.samples(0), mono, atol=1e-7)


def test_the_cache_keeps_to_its_size(tmp_path, utterances):
    data = make_dataset(utterances, make_config(tmp_path, data={"cache_s": 4.0}))
    for index in range(len(utterances)):
        data.samples(index)
    assert 3.0 < data.cached_s <= 4.0
    assert data.places[-1] == -1


def test_unreadable_audio_is_reported_and_the_rest_kept(tmp_path, utterances):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"not audio")
    broken = [dataclasses.replace(utterances[3], id="bad", audio=str(bad)), fake("gone", "A", 0.5)]
    warnings = []
    data = make_dataset([*utterances, *broken], make_config(tmp_path), warn=warnings.append)
    ids = [id for batch in data.batches(data.plan(0), 0) for id in batch.ids]
    assert sorted(ids) == sorted(u.id for u in utterances)
    assert sorted(warning.split(":")[0] for warning in warnings) == ["bad", "gone"]
    assert any("bad.wav" in warning for warning in warnings)


def test_a_batch_of_unreadable_files_is_none(tmp_path, utterances):
    warnings = []
    data = make_dataset([fake("gone", "A", 0.5), *utterances[:1]], make_config(tmp_path), warn=warnings.append)
    gone = next(b for b in [[e] for batch in data.plan(0) for e in batch] if data.utterances[b[0].index].id == "gone")
    assert data.batch(gone, 0) is None
    assert len(warnings) == 1


def test_audio_shorter_than_promised_is_left_out_of_its_batch(tmp_path, utterances):
    short = dataclasses.replace(utterances[0], text="ABCABC" * 20, duration_s=25.0)
    warnings = []
    data = make_dataset([short], make_config(tmp_path), warn=warnings.append)
    assert list(data.batches(data.plan(0), 0)) == [None]
    assert "needs 120 frames" in warnings[0]


def test_a_label_that_fits_only_with_the_silence_keeps_it(tmp_path, utterances):
    sound = soundfile.read(utterances[0].audio, dtype="float32")[0][:2000]
    path = tmp_path / "short.wav"
    soundfile.write(path, np.pad(sound, RATE_HZ), RATE_HZ)
    duration_s = (2 * RATE_HZ + 2000) / RATE_HZ
    warnings = []
    for text, trimmed in (("AB", True), ("ABC" * 10, False)):
        item = dataclasses.replace(utterances[0], audio=str(path), text=text, duration_s=duration_s)
        config = make_config(tmp_path, augment={"trim_prob": 1.0, "speeds": [1.0]})
        (batch,) = make_dataset([item], config, warn=warnings.append).batches([[Example(0, 1.0)]], 0)
        assert (int(batch.lengths[0]) < RATE_HZ) == trimmed
    assert warnings == []


# Utterances joined from pieces


def pieces_of(utterances, count=4):
    """Each utterance cut into equal parts; part ``i`` says letter ``i`` of ABC."""
    parts = []
    for utterance in utterances:
        size = utterance.duration_s / count
        for i in range(count):
            cut = dataclasses.replace(
                utterance,
                id=f"{utterance.id}-{i}",
                text="ABC"[i % 3],
                duration_s=size,
                start_s=i * size,
                end_s=(i + 1) * size,
            )
            parts.append(cut)
    return parts


def spliced(utterances, folder, prob=1.0, pieces=None, **sections):
    write_manifest(folder / "pieces.jsonl", pieces_of(utterances) if pieces is None else pieces)
    augment = {"splice": str(folder / "pieces.jsonl"), "splice_prob": prob, "speeds": [1.0]}
    return make_dataset(utterances, make_config(folder, augment=augment, **sections))


def test_joined_utterances_say_what_their_pieces_say_and_are_no_longer_than_those_they_replace(utterances, tmp_path):
    data = spliced(utterances, tmp_path)
    plain = make_dataset(utterances, make_config(tmp_path, augment={"speeds": [1.0]}))
    examples = [Example(i, 1.0) for i in range(len(utterances))]
    batch, again, other, before = (
        data.batch(examples, 3),
        data.batch(examples, 3),
        data.batch(examples, 4),
        plain.batch(examples, 3),
    )
    assert equal(batch, again)
    assert not equal(batch, other)
    assert batch.ids == before.ids
    assert (batch.lengths <= before.lengths).all()
    assert (batch.lengths > 0.6 * before.lengths).all()  # pieces are a quarter of a recording
    label = [data.tokenizer.symbols[t] for t in batch.tokens[: batch.token_lengths[0]].tolist()]
    assert label[1::2] == [" "] * (len(label) // 2)
    assert set(label[::2]) <= set("ABC")
    assert len(label) >= 5


def test_pieces_stay_with_their_speaker(utterances, tmp_path):
    mine = [u for u in utterances if u.speaker == "u-0"]
    data = spliced(utterances, tmp_path, pieces=pieces_of(mine))
    plain = make_dataset(utterances, make_config(tmp_path, augment={"speeds": [1.0]}))
    examples = [Example(i, 1.0) for i in range(len(utterances))]
    batch, before = data.batch(examples, 0), plain.batch(examples, 0)
    for i, utterance in enumerate(utterances):
        length = before.lengths[i]
        same = torch.equal(batch.samples[i, :length], before.samples[i, :length])
        assert same == (utterance.speaker == "u-1")


def test_share_of_utterances_that_are_joined(utterances, tmp_path):
    data = spliced(utterances, tmp_path, prob=0.25)
    rows = data.order([Example(i, 1.0) for i in range(20)], 0).rows
    joined = sum(data.maker._spliced(row, epoch) is not None for row in rows for epoch in range(20))
    assert 65 < joined < 135  # 100 expected, standard deviation 9


def test_joined_label_that_cannot_fit_leaves_the_utterance_as_it_was(utterances, tmp_path):
    long = [dataclasses.replace(piece, text="ABC" * 20) for piece in pieces_of(utterances)]
    data = spliced(utterances, tmp_path, pieces=long)
    plain = make_dataset(utterances, make_config(tmp_path, augment={"speeds": [1.0]}))
    assert equal(data.batch([Example(0, 1.0)], 0), plain.batch([Example(0, 1.0)], 0))


def test_strange_symbol_in_a_piece_is_named_before_training(utterances, tmp_path):
    with pytest.raises(TextError, match="u3-1"):
        spliced(
            utterances,
            tmp_path,
            pieces=[*pieces_of(utterances)[:13], dataclasses.replace(pieces_of(utterances)[13], text="Ä")],
        )


def test_missing_pieces_are_named(utterances, tmp_path):
    with pytest.raises(ManifestError, match=r"nowhere\.jsonl"):
        make_dataset(utterances, make_config(tmp_path, augment={"splice": str(tmp_path / "nowhere.jsonl")}))


def test_joints_do_not_click():
    joined = join_pieces(
        [np.ones(1600, dtype=np.float32), np.ones(1, dtype=np.float32), -np.ones(1600, dtype=np.float32)], 16000
    )
    assert len(joined) == 3201
    assert np.abs(np.diff(joined)).max() < 1.01  # the single sample is too short to fade
    assert np.abs(np.diff(np.delete(joined, 1600))).max() < 0.02


def test_babble_is_other_speakers_of_the_batch(tmp_path):
    """Each waveform is a number of its own, so that what is added shows whose it is."""
    config = make_config(tmp_path, augment={"babble_prob": 1.0, "babble_voices": [4, 4]})
    names = ["ann-1", "ann-2", "bob-1", "cid-1", "-1", "-2"]
    rows = []
    for place, name in enumerate(names):
        speaker = name.partition("-")[0]
        rows.append(Row(Utterance(name, f"{place}.wav", "A", 1.0, speaker=speaker), [2], place))
    maker = BatchMaker(config, None, SampleCache(8000, 0))
    maker.read = lambda item, place: np.full(8000, place + 1, np.float32)
    order = BatchOrder("train", 1, tuple(rows))

    def heard(index):
        found = [maker._voices(rows[index], order, 4, np.random.default_rng(seed)) for seed in range(20)]
        return {int(voice[0]) - 1 for voices in found for voice in voices}

    assert heard(0) == {2, 3, 4, 5}
    assert heard(3) == {0, 1, 2, 4, 5}
    assert heard(4) == {0, 1, 2, 3, 5}  # without a speaker: any other utterance
    assert len(maker._voices(rows[3], order, 4, np.random.default_rng(0))) == 4
    assert maker._voices(rows[0], BatchOrder("train", 1, tuple(rows[:2])), 4, np.random.default_rng(0)) == []


def test_babble_decodes_no_utterance_twice(tmp_path):
    config = make_config(tmp_path, augment={"babble_prob": 1.0, "babble_voices": [4, 4]})
    rows = [Row(Utterance(f"{place}", f"{place}.wav", "A", 1.0), [2], place) for place in range(6)]
    maker = BatchMaker(config, None, SampleCache(8000, 0))
    decoded = []

    def read(item, place):
        decoded.append(place)
        return np.random.default_rng(place).standard_normal(8000).astype(np.float32)

    maker.read = read
    for _ in range(2):
        decoded.clear()
        assert len(maker.make(BatchOrder("train", 1, tuple(rows))).layout.ids) == 6
        assert sorted(decoded) == list(range(6))


def test_a_talker_that_cannot_be_read_is_left_out_of_the_babble(tmp_path):
    config = make_config(tmp_path, augment={"babble_prob": 1.0})
    maker = BatchMaker(config, None, SampleCache(8000, 0))
    rows = [Row(Utterance(name, str(tmp_path / "gone.wav"), "A", 1.0), [2], -1) for name in ("a", "b", "c")]
    assert maker._voices(rows[0], BatchOrder("train", 1, tuple(rows)), 2, np.random.default_rng(0)) == []
