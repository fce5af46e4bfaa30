"""Steps of a worker's live streams: one stream's fault is its own."""

import numpy as np
import pytest
from small import make_recognizer, sound

from asr.server import live_engine
from asr.server.computing_turns import Turns
from asr.server.live_engine import LiveEngine, LiveStream, open_stream
from asr.server.messages import Partial, StreamOptions
from asr.server.settings import CASES
from asr.server.wire import Asked, CloseStream, EndUtterance, FeedStream, Reply, ResetStream, StepReport
from asr.transcript import Transcript, Word


@pytest.fixture
def engine(tmp_path):
    """An engine with the streams 1 and 2 of one model; what it emits is kept."""
    recognizer = make_recognizer(tmp_path)
    made = LiveEngine({"m": recognizer}, "m", Turns(), [].extend)
    for session in (1, 2):
        made.add(session, open_stream(recognizer, StreamOptions(encoding="f32le"), "m", "model"))
    return made


def step(engine):
    replies = []
    engine.step([live for live in engine.streams.values() if live.tasks], replies)
    return {reply.ticket: reply for reply in replies if isinstance(reply, Reply)}, replies


def test_a_block_that_is_no_sound_is_an_error_of_its_stream_alone(engine):
    engine.submit(Asked(1, FeedStream(1, np.full(1600, np.nan, "<f4").tobytes())))
    engine.submit(Asked(2, FeedStream(2, sound(0.1).tobytes())))
    found, _ = step(engine)
    assert "NaN" in str(found[1].error)
    assert found[2].error is None
    assert isinstance(found[2].value[-1], Partial)


def test_a_fault_of_ours_is_answered_and_the_streams_begin_again(engine, monkeypatch, capsys):
    monkeypatch.setattr(live_engine, "advance_streams", lambda streams: {}["fault"])
    engine.submit(Asked(1, FeedStream(1, sound(0.1).tobytes())))
    found, _ = step(engine)
    assert "the recogniser has failed" in str(found[1].error)
    assert "KeyError" in capsys.readouterr().err
    monkeypatch.undo()
    engine.submit(Asked(2, FeedStream(1, sound(0.1).tobytes())))
    assert step(engine)[0][2].error is None


def test_a_long_block_takes_several_steps_and_is_answered_once(engine):
    engine.submit(Asked(1, FeedStream(1, sound(5).tobytes())))
    engine.submit(Asked(2, FeedStream(2, sound(0.1).tobytes())))
    first, reports = step(engine)
    assert list(first) == [2]
    assert [r.audio_s for r in reports if isinstance(r, StepReport)] == [pytest.approx(1.0 + 0.1)]
    steps = 1
    while 1 not in (found := step(engine)[0]):
        steps += 1
    assert steps >= 2
    assert sum(isinstance(event, Partial) for event in found[1].value) == 1


def test_requests_of_a_stream_are_done_in_their_order(engine):
    engine.submit(Asked(1, FeedStream(1, sound(1).tobytes())))
    engine.submit(Asked(2, EndUtterance(1)))
    engine.submit(Asked(3, ResetStream(1)))
    assert [list(step(engine)[0]) for _ in range(3)] == [[1], [2], [3]]


def test_a_closed_stream_is_gone_and_a_request_to_it_is_answered(engine):
    emitted = []
    engine.emit = emitted.extend
    engine.submit(Asked(0, CloseStream(1)))
    assert list(engine.streams) == [2]
    engine.submit(Asked(5, EndUtterance(1)))
    assert emitted[0].ticket == 5
    assert "closed" in str(emitted[0].error)


def test_the_written_form_of_an_utterance_keeps_what_was_spoken():
    spoken = Transcript("ONE", (Word("ONE", 0, 1, 0.5),), 1.0, written="1.", written_words=(Word("1.", 0, 1, 0.5),))
    finals = {case: LiveStream(None, "any", StreamOptions(), case, offset_s=2.0).final(spoken) for case in CASES}
    assert {case: final.transcript.text for case, final in finals.items()} == {
        "model": "ONE", "lower": "one", "written": "1."
    }  # fmt: skip
    assert finals["written"].spoken.words == (Word("ONE", 2, 3, 0.5),)
    assert finals["written"].spoken.written_words == (Word("1.", 2, 3, 0.5),)
    assert finals["model"].spoken is finals["lower"].spoken is None
    assert finals["lower"].transcript.written_words == (Word("1.", 2, 3, 0.5),)


def test_a_stream_gets_a_swapped_model_once_its_utterance_has_ended_and_no_sooner(engine, tmp_path):
    old, new = engine.recognizers["m"], make_recognizer(tmp_path / "new")
    engine.recognizers["m"] = new
    engine.submit(Asked(1, FeedStream(1, sound(0.5).tobytes())))
    engine.submit(Asked(2, EndUtterance(1)))
    step(engine)
    assert engine.streams[1].stream.recognizer is old
    step(engine)
    assert engine.streams[1].stream.recognizer is new
    assert engine.streams[1].offset_s == pytest.approx(0.5)


def test_streams_of_the_old_and_of_the_new_model_are_computed_each_by_its_own(engine, tmp_path):
    new = engine.recognizers["m"] = make_recognizer(tmp_path / "new", blank=-3.0)
    engine.add(3, open_stream(new, StreamOptions(encoding="f32le"), "m", "model"))
    for session in (1, 3):
        engine.submit(Asked(session, FeedStream(session, sound(2).tobytes())))
        engine.submit(Asked(10 + session, EndUtterance(session)))
    found = {}
    while len(found) < 4:
        found |= step(engine)[0]
    for session, recognizer in ((11, engine.streams[2].stream.recognizer), (13, new)):
        alone = recognizer.stream()
        alone.accept(sound(2))
        assert found[session].value.transcript.text == alone.finish().text
