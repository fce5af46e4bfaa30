"""What the page asks of the server: loudness, playable sound, the zip; and bad bodies."""

from __future__ import annotations

import base64
import http.client
import io
import json
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from scripted_server import running

from asr.audio.read import load_audio
from asr.server.app import build_app
from asr.server.page_audio import loudness
from asr.server.services import Services
from asr.server.settings import ServerLimits, Settings

MOST_BYTES = 200_000


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server that takes files of at most ``MOST_BYTES`` and 60 s."""
    limits = ServerLimits(file_bytes=MOST_BYTES, file_s=60, idle_s=3, file_jobs=2)
    with running(build_app(Services(Settings(models={"an4": "an4"}, limits=limits)))) as address:
        yield address


@pytest.fixture(scope="module")
def wav() -> bytes:
    """Half a second of silence, then half a second of noise at half of full scale."""
    samples = np.zeros(16000)
    samples[8000:] = np.random.default_rng(0).choice([-0.5, 0.5], 8000)
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="WAV")
    return file.getvalue()


def post(url: str, body: bytes) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, method="POST")) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read()


def message(body: bytes) -> str:
    return json.loads(body)["error"]["message"]


def test_the_page_learns_of_models_and_limits(address):
    found = json.loads(urllib.request.urlopen(f"{address}/page-data/info").read())
    assert found["file_model"] == found["live_model"] == "an4"
    assert found["models"][0]["name"] == "an4"
    assert found["limits"]["file_bytes"] == MOST_BYTES


def test_a_model_without_a_fit_of_confidences_is_not_called_calibrated(address):
    # Its confidence.json holds a threshold and a judge of reliability only.
    found = json.loads(urllib.request.urlopen(f"{address}/page-data/info").read())
    assert found["models"][0]["calibrated"] is False


def test_peaks_follow_the_loudness(address, wav):
    status, body = post(f"{address}/page-data/peaks?name=a.wav", wav)
    found = json.loads(body)
    peaks = np.frombuffer(base64.b64decode(found["peaks"]), np.uint8)
    assert (status, found["duration_s"], found["per_s"], len(peaks)) == (200, 1.0, 50.0, 50)
    assert peaks[:25].max() == 0
    assert set(peaks[25:]) == {128}


def test_long_recordings_have_fewer_peaks_and_lose_no_loud_one(tmp_path):
    samples = np.zeros(450 * 1000, np.int16)  # 450 s
    samples[123_456] = 16384
    soundfile.write(tmp_path / "a.wav", samples, 1000)
    found = loudness(tmp_path / "a.wav", 3600)
    assert len(found.peaks) <= 20_000
    assert found.peaks.max() == 128
    at = int(found.peaks.argmax()) / found.per_s
    assert at <= 123.456 < at + 1 / found.per_s


def test_the_sound_is_what_the_server_decodes(address, wav):
    status, body = post(f"{address}/page-data/audio", wav)
    assert status == 200
    assert body.startswith(b"fLaC")
    np.testing.assert_array_equal(load_audio(io.BytesIO(body)), load_audio(io.BytesIO(wav)))


def test_corrections_of_several_recordings_come_back_as_one_zip(address, wav):
    header = {"name": "a.wav", "bytes": len(wav), "segments": [{"start_s": 0.4, "end_s": 1.0, "text": "ONE"}]}
    body = b"".join(json.dumps(header | {"name": name}).encode() + b"\n" + wav for name in ("a.wav", "b.wav"))
    status, answer = post(f"{address}/page-data/corrections", body)
    assert status == 200
    with zipfile.ZipFile(io.BytesIO(answer)) as found:
        lines = [json.loads(line) for line in found.read("manifest.jsonl").splitlines()]
        assert [line["audio"] for line in lines] == ["audio/a-001.flac", "audio/b-001.flac"]
        assert found.testzip() is None


@pytest.mark.parametrize("path", ["peaks", "audio"])
def test_a_file_without_audio_is_named_as_the_client_names_it(address, path):
    status, body = post(f"{address}/page-data/{path}?name=my%20notes.txt", b"no audio")
    assert status == 400
    assert message(body).startswith("my notes.txt: ")


@pytest.mark.parametrize("path", ["peaks", "audio"])
def test_an_empty_body_is_an_error(address, path):
    assert post(f"{address}/page-data/{path}", b"")[0] == 400


def test_a_body_that_is_too_large_is_refused(address):
    status, body = post(f"{address}/page-data/peaks", bytes(MOST_BYTES + 1))
    assert status == 413
    assert f"at most {round(MOST_BYTES / 2**20, 2)} MiB" in message(body)


def test_a_recording_that_is_announced_too_large_is_refused_before_it_comes(address):
    header = {"name": "a.wav", "bytes": 2**31, "segments": [{"start_s": 0, "end_s": 1, "text": "ONE"}]}
    assert post(f"{address}/page-data/corrections", json.dumps(header).encode() + b"\n")[0] == 413


def test_a_zip_whose_recording_is_cut_short_is_an_error(address, wav):
    header = {"name": "a.wav", "bytes": len(wav), "segments": [{"start_s": 0, "end_s": 1, "text": "ONE"}]}
    status, body = post(f"{address}/page-data/corrections", json.dumps(header).encode() + b"\n" + wav[:-10])
    assert status == 400
    assert f"expected {len(wav)} bytes" in message(body)


def test_a_recording_that_is_too_long_is_refused(address):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(61 * 1000, np.int16), 1000, format="WAV", subtype="PCM_U8")
    assert post(f"{address}/page-data/peaks", file.getvalue())[0] == 400
    assert post(f"{address}/page-data/audio", file.getvalue())[0] == 400


def test_a_client_that_stops_sending_gets_an_error(address, wav):
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    connection.putrequest("POST", "/page-data/peaks")
    connection.putheader("content-length", str(len(wav)))
    connection.endheaders(wav[:1000])
    answer = connection.getresponse()
    assert answer.status == 408
    connection.close()


def test_more_uploads_than_there_is_room_for_are_told_to_wait(address, wav):
    waiting = []
    for _ in range(2):
        connection = http.client.HTTPConnection(urlsplit(address).netloc)
        connection.putrequest("POST", "/page-data/peaks")
        connection.putheader("content-length", str(len(wav)))
        connection.endheaders(wav[:1000])
        waiting.append(connection)
    statuses = []
    while 503 not in statuses and len(statuses) < 20:  # until the server has seen both
        statuses.append(post(f"{address}/page-data/peaks", wav)[0])
        time.sleep(0.05)
    assert statuses[-1] == 503
    for connection in waiting:
        assert connection.getresponse().status == 408
        connection.close()
    assert post(f"{address}/page-data/peaks", wav)[0] == 200


def test_the_page_is_open_and_its_data_need_the_token():
    with running(build_app(Services(Settings(models={"an4": "an4"}, token="secret")))) as address:
        assert urllib.request.urlopen(f"{address}/").status == 200
        assert urllib.request.urlopen(f"{address}/page/main.js").status == 200
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/page-data/info")
        for path in ("peaks", "audio", "corrections"):
            assert post(f"{address}/page-data/{path}", b"x")[0] == 401
