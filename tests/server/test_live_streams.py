"""Live streams of the services: the recogniser's own results, each with its own options, freed at the end."""

import asyncio
import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import asr
from asr.audio.samples import resample
from asr.decode.endpoint import Endpoint
from asr.server.live_streams import LiveService
from asr.server.messages import Final, Partial, SpeechStarted, SpeechStopped, StreamOptions
from asr.server.problems import BusyError, ClosingError, RequestError, UnknownModelError
from asr.server.wire import Probe

ROOT = Path(__file__).parents[2]
TEXT = "ENTER FOUR FIVE NINE TWO"
ALIKE = ("ENTER", "FOUR", "FOR", "FIVE", "FINE", "NINE", "TWO", "TO", "TOO")


def blocks(samples, size=1600):
    return [samples[at : at + size].tobytes() for at in range(0, len(samples), size)]


def times(transcript):
    """Words and times; confidences differ in their last digits with the streams that are computed together."""
    return [(word.text, word.start_s, word.end_s) for word in transcript.words]


async def fed(services, options, messages):
    """All events of a stream that gets ``messages``, and its last result."""
    async with await services.live.open(options) as session:
        events = []
        for message in messages:
            events += await session.feed(message)
        return events, await session.finish()


@pytest.fixture(scope="module")
def greedy(greedy_model):
    return asr.load(greedy_model, device="cpu")


@pytest.fixture(scope="module")
def twice(sample):
    """The sample, a pause, and the sample."""
    return np.concatenate([sample, np.zeros(24000, "<i2"), sample])


def test_a_stream_gives_what_the_recogniser_gives(loop, services, greedy, twice):
    events, last = loop(fed(services, StreamOptions(model="greedy"), blocks(twice)))
    stream = greedy.stream(endpoint=Endpoint(0.8))
    updates = [stream.accept(np.frombuffer(block, "<i2")) for block in blocks(twice)]
    partials = [event for event in events if isinstance(event, Partial)]
    assert [(p.text, p.stable) for p in partials] == [(u.text, u.stable) for u in updates]
    finals = [event.transcript for event in events if isinstance(event, Final)]
    assert [times(t) for t in finals] == [times(t) for u in updates for t in u.final]
    assert times(last.transcript) == times(stream.finish())
    assert finals[0].text == TEXT


def test_events_of_an_utterance_come_in_order(loop, services, twice):
    events, last = loop(fed(services, StreamOptions(model="greedy"), blocks(twice)))
    kinds = [type(event) for event in events if not isinstance(event, Partial)]
    assert kinds == [SpeechStarted, SpeechStopped, Final, SpeechStarted]
    started, stopped, final, again = [event for event in events if not isinstance(event, Partial)]
    assert started.time_s == pytest.approx(final.transcript.words[0].start_s, abs=0.1)
    assert stopped.time_s == final.transcript.words[-1].end_s
    assert again.time_s == pytest.approx(last.transcript.words[0].start_s, abs=0.1)


def test_many_streams_at_once_give_what_each_gives_alone(loop, services, sample):
    parts = [sample[: 12000 + 4000 * number] for number in range(8)]

    async def together():
        return await asyncio.gather(*(fed(services, StreamOptions(model="greedy"), blocks(p)) for p in parts))

    found = [last.transcript.text for _, last in loop(together())]
    alone = [loop(fed(services, StreamOptions(model="greedy"), blocks(p)))[1].transcript.text for p in parts]
    assert found == alone
    assert len(set(found)) > 3


@pytest.fixture(scope="module")
def beside(loop, services, sample):
    """The last results of five streams with options of their own, at the same time."""
    options = [
        StreamOptions(model="stream"),
        StreamOptions(model="stream", hot_words={"FOR": 8.0}),
        StreamOptions(model="stream", phrases=("TWO NINE", "FIVE", "ENTER FOUR NINE")),
        StreamOptions(model="stream", phrases=("NINE OAKLAND",)),
        StreamOptions(model="stream", phrases=ALIKE, alternatives=2),
    ]

    async def together():
        return await asyncio.gather(*(fed(services, each, blocks(sample)) for each in options))

    names = ("plain", "hot", "listed", "closed", "several")
    return dict(zip(names, (last for _, last in loop(together())), strict=True))


def test_hot_words_belong_to_a_stream(beside):
    assert beside["plain"].transcript.text == TEXT
    assert beside["hot"].transcript.text == "ENTER FOR FIVE NINE TWO"


def test_phrases_belong_to_a_stream(beside):
    assert beside["listed"].transcript.text == TEXT
    words = set(beside["closed"].transcript.text.split())
    assert words
    assert words <= {"NINE", "OAKLAND"}


def test_a_stream_without_alternatives_has_its_transcript_alone(beside):
    assert beside["plain"].alternatives == (beside["plain"].transcript,)


def test_alternatives_belong_to_a_stream_best_first(beside):
    several = beside["several"]
    assert several.alternatives[0] == several.transcript
    assert [each.text for each in several.alternatives] == [TEXT, "ENTER FOR FIVE NINE TWO"]
    assert list(several.shares) == sorted(several.shares, reverse=True)
    assert sum(several.shares) == pytest.approx(1)


def test_a_message_of_many_seconds_is_the_same_stream(loop, services, twice):
    small, last = loop(fed(services, StreamOptions(model="greedy"), blocks(twice)))
    large, same = loop(fed(services, StreamOptions(model="greedy"), [twice.tobytes()]))
    assert times(same.transcript) == times(last.transcript)
    assert [times(e.transcript) for e in large if isinstance(e, Final)] == [
        times(e.transcript) for e in small if isinstance(e, Final)
    ]
    assert sum(isinstance(e, Partial) for e in large) == 1


def test_samples_may_be_cut_in_the_middle(loop, services, sample):
    data = sample.tobytes()
    _, last = loop(
        fed(services, StreamOptions(model="greedy"), [data[at : at + 1001] for at in range(0, len(data), 1001)])
    )
    assert last.transcript.text == TEXT


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_telephone_encodings_are_understood(loop, services, sample, encoding, tmp_path):
    import soundfile

    narrow = resample(sample.astype(np.float32) / 32768, 16000, 8000)
    path = tmp_path / "a.raw"
    soundfile.write(path, narrow, 8000, format="RAW", subtype="ULAW" if encoding == "mulaw" else "ALAW")
    options = StreamOptions(model="stream", rate_hz=8000, encoding=encoding)
    assert loop(fed(services, options, [path.read_bytes()]))[1].transcript.text == TEXT


def test_an_utterance_that_the_client_ends_is_a_recording_of_its_own(loop, services, greedy, sample):
    async def run():
        async with await services.live.open(StreamOptions(model="greedy", endpoint_s=None)) as session:
            await session.feed(sample.tobytes())
            first = await session.end_utterance()
            await session.feed(sample.tobytes())
            return first, await session.end_utterance(), await session.end_utterance()

    first, second, empty = loop(run())
    expected = greedy.transcribe(ROOT / "egs" / "sample.wav")
    assert first.transcript.text == second.transcript.text == expected.text
    offset_s = len(sample) / 16000
    for one, two in zip(first.transcript.words, second.transcript.words, strict=True):
        assert two.start_s == pytest.approx(one.start_s + offset_s)
    assert empty.transcript.text == ""


def test_a_reset_forgets_the_utterance(loop, services, sample):
    async def run():
        async with await services.live.open(StreamOptions(model="greedy")) as session:
            await session.feed(sample[:20000].tobytes())
            await session.reset()
            return await session.finish()

    assert loop(run()).transcript.text == ""


def test_a_stream_is_replaced_by_one_with_other_options(loop, services, sample):
    async def run():
        async with await services.live.open(StreamOptions(model="greedy")) as session:
            await session.feed(sample.tobytes())
            first = await session.end_utterance()
            options = StreamOptions(model="stream", phrases=ALIKE, alternatives=2)
            async with await services.live.open(options, instead_of=session) as other:
                assert services.live.open_sessions == 1
                await other.feed(sample.tobytes())
                return first, await other.finish()

    first, second = loop(run())
    assert first.transcript.text == TEXT
    assert second.transcript.text == TEXT
    assert len(second.alternatives) == 2


def streams_in_worker(loop, services):
    return loop(services.pool.workers[0].ask(Probe()))["streams"]


def test_a_stream_is_freed_in_the_worker_when_the_client_vanishes(loop, services, sample):
    async def vanish():
        session = await services.live.open(StreamOptions(model="greedy"))
        feeding = asyncio.create_task(session.feed(np.tile(sample, 20).tobytes()))
        await asyncio.sleep(0.05)
        feeding.cancel()
        await session.close()
        await session.close()
        opening = asyncio.create_task(services.live.open(StreamOptions(model="stream", hot_words={"ENTER": 2.0})))
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(feeding, opening, return_exceptions=True)

    before = services.live.open_sessions
    for _ in range(3):
        loop(vanish())
    assert services.live.open_sessions == before == 0
    assert services.pool.workers[0].load.streams.total() == 0
    for _ in range(600):
        if streams_in_worker(loop, services) == 0:
            break
        loop(asyncio.sleep(0.1))
    assert streams_in_worker(loop, services) == 0


def test_a_stream_with_much_to_compute_does_not_delay_another(loop, services, sample):
    """A client that sends a minute in one message, and one that sends a tenth of a second behind it."""
    order = []

    async def run():
        async with (
            await services.live.open(StreamOptions(model="greedy")) as large,
            await services.live.open(StreamOptions(model="greedy")) as small,
        ):

            async def feed(session, data, name):
                await session.feed(data)
                order.append(name)

            worker = services.pool.workers[0].pid
            os.kill(worker, signal.SIGSTOP)  # it computes when both have come
            try:
                much = asyncio.create_task(feed(large, np.tile(sample, 20).tobytes(), "large"))
                await asyncio.sleep(0.1)
                little = asyncio.create_task(feed(small, sample[:1600].tobytes(), "small"))
                await asyncio.sleep(0.1)
            finally:
                os.kill(worker, signal.SIGCONT)
            await asyncio.gather(much, little)

    loop(run())
    assert order == ["small", "large"]


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"rate_hz": 10}, "rate_hz", "4000 to 192000"),
        ({"encoding": "opus"}, "encoding", "expected one of"),
        ({"alternatives": 17}, "alternatives", "1 to 16"),
        ({"hot_words": {f"W{n}": 1.0 for n in range(501)}}, "hot_words", "at most 500"),
        ({"phrases": ("A" * 201,)}, "phrases", "at most 200 characters"),
        ({"model": "stream", "hot_words": {"日本": 5.0}}, "hot_words", "日本"),
        ({"model": "stream", "phrases": ("日本",)}, "phrases", "日本"),
        ({"model": "greedy", "hot_words": {"TWO": 5.0}}, "hot_words", "beam"),
    ],
)
def test_options_that_cannot_be_served_are_named(loop, services, options, param, message):
    with pytest.raises(RequestError, match=message) as caught:
        loop(services.live.open(StreamOptions(**options)))
    assert caught.value.param == param
    assert services.live.open_sessions == 0


def test_an_unknown_model_is_refused(loop, services):
    with pytest.raises(UnknownModelError, match="expected greedy, stream or whisper-1"):
        loop(services.live.open(StreamOptions(model="/etc")))


def test_more_seconds_than_the_limit_are_refused(loop, services, sample, monkeypatch):
    limits = dataclasses.replace(services.settings.limits, stream_s=1.0)
    monkeypatch.setattr(services.live, "settings", dataclasses.replace(services.settings, limits=limits))
    with pytest.raises(RequestError, match="at most 1 s"):
        loop(fed(services, StreamOptions(model="greedy"), [sample.tobytes()]))


def test_more_streams_than_the_limit_are_refused_and_counted(loop, services, monkeypatch):
    limits = dataclasses.replace(services.settings.limits, streams=1)
    monkeypatch.setattr(services.live, "settings", dataclasses.replace(services.settings, limits=limits))
    refused = services.metrics.refused["live"]

    async def run():
        async with await services.live.open(StreamOptions(model="greedy")):
            await services.live.open(StreamOptions(model="greedy"))

    with pytest.raises(BusyError) as caught:
        loop(run())
    assert caught.value.retry_after_s > 0
    assert services.metrics.refused["live"] == refused + 1


def test_a_stream_is_refused_at_once_while_others_lag(loop, services, monkeypatch):
    monkeypatch.setattr(services.pool, "settings", dataclasses.replace(services.settings, lag_s=0.3))
    load = services.pool.workers[0].load

    async def run():
        async with await services.live.open(StreamOptions(model="greedy")):
            for _ in range(100):
                load.note_lag(2.0)
            await services.live.open(StreamOptions(model="greedy"))

    with pytest.raises(BusyError, match=r"lag 2.00 s"):
        loop(run())
    load._lags.clear()


def test_a_closing_server_finishes_streams_and_opens_none(loop, services, sample):
    live = LiveService(services.settings, services.catalogue, services.pool, services.metrics)

    async def run():
        session = await live.open(StreamOptions(model="greedy"))
        await session.feed(sample.tobytes())
        live.closing = True
        with pytest.raises(ClosingError):
            await session.feed(sample.tobytes())
        with pytest.raises(ClosingError):
            await live.open(StreamOptions(model="greedy"))
        return await session.finish()

    assert loop(run()).transcript.text == TEXT
