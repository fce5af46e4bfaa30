"""Files of the services: the recogniser's own results, in turns."""

import asyncio
import contextlib
import dataclasses
import queue
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asr
from asr.errors import AudioError
from asr.server.computing_turns import Turns
from asr.server.file_engine import FileEngine
from asr.server.messages import Done, FileOptions, Settled
from asr.server.problems import BusyError, RequestError
from asr.server.wire import TranscribeFile

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "egs" / "sample.wav"


@pytest.fixture(scope="module")
def long_file(sample, tmp_path_factory):
    """Over a minute: the sample again and again, with pauses."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.tile(np.concatenate([sample, np.zeros(20000, "<i2")]), 20), 16000)
    return path


async def events_of(services, path, options):
    async with contextlib.aclosing(services.files.pieces(path, options)) as pieces:
        return [event async for event in pieces]


@pytest.mark.parametrize("model", ["greedy", "stream"])
def test_a_short_file_gives_what_the_recogniser_gives(loop, services, greedy_model, model):
    expected = asr.load(greedy_model if model == "greedy" else model, device="cpu").transcribe(SAMPLE)
    found = loop(services.files.transcribe(SAMPLE, FileOptions(model=model, name="my.wav")))
    assert [(w.text, w.start_s, w.end_s) for w in found.words] == [(w.text, w.start_s, w.end_s) for w in expected.words]
    # Here torch runs the model, in the server onnxruntime.
    assert [w.confidence for w in found.words] == pytest.approx([w.confidence for w in expected.words], abs=1e-4)
    assert found.reliability == pytest.approx(expected.reliability, abs=1e-4)
    assert (found.text, found.source) == (expected.text, "my.wav")


def test_a_long_file_settles_piece_by_piece_to_what_the_recogniser_gives(loop, services, greedy_model, long_file):
    expected = asr.load(greedy_model, device="cpu").transcribe(long_file)
    *settled, done = loop(events_of(services, long_file, FileOptions(model="greedy")))
    assert isinstance(done, Done)
    assert done.transcript.text == expected.text
    assert [w.start_s for w in done.transcript.words] == pytest.approx([w.start_s for w in expected.words])
    assert len(settled) > 10
    assert all(isinstance(event, Settled) for event in settled)
    assert " ".join(event.transcript.text for event in settled) == expected.text


def test_a_short_file_overtakes_a_long_one(loop, services, long_file):
    order = []

    async def transcribe(path, name):
        await services.files.transcribe(path, FileOptions(model="stream"))
        order.append(name)

    async def run():
        long = asyncio.create_task(transcribe(long_file, "long"))
        await asyncio.sleep(0.2)
        await transcribe(SAMPLE, "short")
        await long

    loop(run())
    assert order == ["short", "long"]


def test_no_piece_computes_long_without_a_pause(loop, services, long_file):
    recognizer = asr.load("stream", device="cpu", runtime="onnxruntime")
    recognizer.transcribe(SAMPLE)
    begun_s = time.process_time()
    recognizer.transcribe(long_file)
    whole_s = time.process_time() - begun_s
    services.metrics.longest_piece_s = 0.0
    loop(services.files.transcribe(long_file, FileOptions(model="stream")))

    async def reported():
        while not services.metrics.longest_piece_s:
            await asyncio.sleep(0.01)

    loop(reported())
    assert services.metrics.longest_piece_s < whole_s / 2  # both are processor time, on the same machine


def test_hot_words_and_phrases_belong_to_a_file(loop, services):
    hot = FileOptions(model="stream", hot_words={"FOR": 8.0})
    listed = FileOptions(model="stream", phrases=("NINE OAKLAND",))
    assert loop(services.files.transcribe(SAMPLE, hot)).text == "ENTER FOR FIVE NINE TWO"
    assert set(loop(services.files.transcribe(SAMPLE, listed)).text.split()) <= {"NINE", "OAKLAND"}


def test_an_impossible_hot_word_is_named(loop, services):
    with pytest.raises(RequestError, match="日本") as caught:
        loop(services.files.transcribe(SAMPLE, FileOptions(model="stream", hot_words={"日本": 5.0})))
    assert caught.value.param == "hot_words"


def test_a_file_that_is_none_is_named_as_the_client_knows_it(loop, services, tmp_path):
    (tmp_path / "upload").write_bytes(b"not audio")
    with pytest.raises(AudioError) as caught:
        loop(services.files.transcribe(tmp_path / "upload", FileOptions(name="mine.wav")))
    assert "mine.wav" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_file_beyond_the_limit_of_seconds_is_refused(loop, services, long_file, greedy_model):
    assert services.pool.workers[0].setup.file_s == services.settings.limits.file_s


def test_a_cancelled_file_ends(loop, services, long_file):
    async def run():
        job = asyncio.create_task(services.files.transcribe(long_file, FileOptions(model="stream")))
        await asyncio.sleep(0.1)
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)

    loop(run())
    assert services.files.jobs == services.pool.workers[0].files == 0


def test_more_files_than_the_limit_are_refused_and_counted(loop, services, monkeypatch):
    limits = dataclasses.replace(services.settings.limits, file_jobs=0)
    monkeypatch.setattr(services.files, "settings", dataclasses.replace(services.settings, limits=limits))
    refused = services.metrics.refused["file"]
    with pytest.raises(BusyError):
        loop(services.files.transcribe(SAMPLE, FileOptions()))
    assert services.metrics.refused["file"] == refused + 1


def test_a_defect_is_told_to_the_client_and_its_place_to_the_log(capfd):
    replies = queue.Queue()
    engine = FileEngine({"broken": None}, "model", Turns(), replies.put)
    engine.begin(1, TranscribeFile(1, "broken", str(SAMPLE), FileOptions(name="secret.wav")))
    ((reply,),) = [replies.get(timeout=120)]
    assert str(reply.error) == "the recogniser has failed (AttributeError)"
    log = capfd.readouterr().err
    assert "Traceback" in log
    assert "in transcribe_gradually" in log
    assert "secret" not in log


def test_hot_words_of_a_model_without_a_beam_are_refused(loop, services):
    with pytest.raises(RequestError, match="beam above 1") as caught:
        loop(services.files.transcribe(SAMPLE, FileOptions(model="greedy", hot_words={"FOR": 8.0})))
    assert caught.value.param == "hot_words"
