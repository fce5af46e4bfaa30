"""OpenAI's REST interface with its official clients, in Python and in JavaScript."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import io
import json
import socket
import subprocess
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
import soxr
from node_modules import find_node
from served import SAMPLE, SAMPLE_TEXT, Served, serving
from starlette.routing import Route

import asr
from asr.errors import AudioError
from asr.formats import read_subtitles
from asr.server import rest
from asr.server.app import build_app
from asr.server.messages import HOT_WORD_BOOST, Done, Settled
from asr.server.services import Services
from asr.server.settings import ServerLimits, Settings
from asr.server.transcription_bodies import KEEP_ALIVE, EventWriter
from asr.server.uploads import UploadedForm
from asr.transcript import Transcript, Word

TOKEN = "a secret"
MB = 2


@pytest.fixture(scope="module")
def server():
    """A server with a token, an alias, and small limits."""
    options = ["--model", "an4", "--alias", "whisper-1=an4", "--token", TOKEN, "--most-file-mb", str(MB)]
    with serving(*options, "--origin", "https://app.example.org", "--idle-s", "5", "--most-file-s", "80") as served:
        yield served


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(api_key=TOKEN, base_url=f"{server.url}/v1", max_retries=0) as client:
        yield client


def transcribe(client: openai.OpenAI, file: Any = SAMPLE, **options: Any) -> Any:
    return client.audio.transcriptions.create(file=file, model=options.pop("model", "an4"), **options)


def wav(samples: np.ndarray, rate_hz: int, form: str = "WAV") -> io.BytesIO:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=form)
    file.seek(0)
    file.name = f"sample.{form.lower()}"
    return file


def test_json_is_the_default(client):
    made = transcribe(client)
    assert made.text == SAMPLE_TEXT
    assert (made.usage.type, made.logprobs) == ("duration", None)


def test_text_is_the_text_alone(client):
    assert transcribe(client, response_format="text") == SAMPLE_TEXT + "\n"


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles_have_all_words(client, form):
    (read,) = read_subtitles(transcribe(client, response_format=form), "sample")
    assert read.text == SAMPLE_TEXT


def test_verbose_json_has_words_and_segments_with_times(client):
    both = transcribe(client, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert (both.text, both.language) == (SAMPLE_TEXT, "en")
    assert " ".join(word.word for word in both.words) == SAMPLE_TEXT
    assert " ".join(segment.text for segment in both.segments) == SAMPLE_TEXT
    times = [time for word in both.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert both.duration == pytest.approx(soundfile.info(SAMPLE).duration, abs=0.01)
    assert both.segments[0].start == both.words[0].start


def test_the_official_client_ignores_our_own_key(client):
    extra = transcribe(client, response_format="verbose_json").model_extra["asr"]
    assert [word["text"] for word in extra["words"]] == SAMPLE_TEXT.split()
    assert all(0 < word["confidence"] <= 1 for word in extra["words"])


@pytest.mark.parametrize("form", ["json", "text", "verbose_json"])
def test_a_stream_of_deltas_joins_to_the_text(client, form):
    events = list(transcribe(client, stream=True, response_format=form))
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == SAMPLE_TEXT
    assert {event.type for event in events[:-1]} == {"transcript.text.delta"}
    assert events[-1].type == "transcript.text.done"
    assert events[-1].usage.output_tokens == len(SAMPLE_TEXT.split())


def test_a_stream_of_verbose_json_ends_with_what_the_whole_answer_is(client):
    options = {"response_format": "verbose_json", "timestamp_granularities": ["word"]}
    *deltas, done = transcribe(client, stream=True, **options)
    assert done.verbose_json == transcribe(client, **options).model_dump(exclude_unset=True)
    assert deltas[-1].asr["end_s"] == done.verbose_json["words"][-1]["end"]


def test_logprobs_are_those_of_the_words(client):
    made = transcribe(client, include=["logprobs"])
    assert "".join(entry.token for entry in made.logprobs) == SAMPLE_TEXT
    assert all(entry.logprob <= 0 for entry in made.logprobs)
    *deltas, done = transcribe(client, include=["logprobs"], stream=True)
    joined = [entry.token for event in deltas for entry in event.logprobs]
    assert joined == [entry.token for entry in done.logprobs]
    assert [entry.token for entry in done.logprobs] == [entry.token for entry in made.logprobs]


def test_keywords_are_hot_words(client):
    """Noise hides the sample, so that hot words matter."""
    samples, rate_hz = soundfile.read(SAMPLE, dtype="float32")
    noisy = wav(samples + np.random.default_rng(1).normal(0, 0.05, len(samples)).astype(np.float32), rate_hz)
    plain, keyed = (transcribe(client, noisy, keywords=keywords).text for keywords in ([], ["Enter four"]))
    assert plain != keyed
    assert keyed == asr.load("an4", hotwords={"Enter four": HOT_WORD_BOOST}).transcribe(noisy).text


def test_prompt_temperature_and_chunking_change_nothing(client):
    chunking = {"type": "server_vad", "threshold": 0.3, "silence_duration_ms": 200, "prefix_padding_ms": 100}
    for strategy in ("auto", chunking):
        made = transcribe(client, prompt="ZULU", temperature=0.7, chunking_strategy=strategy, language="en")
        assert made.text == SAMPLE_TEXT


def test_an_alias_names_the_model(client):
    assert transcribe(client, model="whisper-1").text == SAMPLE_TEXT


def test_other_rates_channels_and_formats_give_the_same_text(client):
    samples, rate_hz = soundfile.read(SAMPLE, dtype="float32")
    resampled = soxr.resample(samples, rate_hz, 44100)
    assert transcribe(client, wav(np.stack([resampled, resampled], 1), 44100)).text == SAMPLE_TEXT
    assert transcribe(client, wav(samples, rate_hz, "FLAC")).text == SAMPLE_TEXT


@pytest.mark.parametrize(("container", "coding"), [("webm", "libopus"), ("mp4", "aac")])
def test_recordings_of_browsers_and_telephones_are_read(client, container, coding):
    av = pytest.importorskip("av")
    samples, rate_hz = soundfile.read(SAMPLE, dtype="float32")
    samples = soxr.resample(samples, rate_hz, 48000)
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        track = out.add_stream(coding, rate=48000, layout="mono")
        track.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.rate = 48000
        out.mux(track.encode(frame))
        out.mux(track.encode())
    assert transcribe(client, (f"voice.{container}", file.getvalue())).text == SAMPLE_TEXT


def test_models_are_listed_with_their_aliases(client):
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {"an4", "whisper-1"}
    assert client.models.retrieve("an4") == listed["an4"]
    assert listed["an4"].object == "model"


def refusal(call: Any, kind: type[openai.APIStatusError] = openai.BadRequestError) -> openai.APIStatusError:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.message
    return caught.value


def test_an_unknown_model_is_refused(client):
    error = refusal(lambda: transcribe(client, model="gpt-transcribe"), openai.NotFoundError)
    assert (error.param, error.code) == ("model", "model_not_found")
    assert "an4" in error.message
    assert refusal(lambda: client.models.retrieve("none"), openai.NotFoundError).param == "model"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"language": "de"}, "language"),
        ({"languages": ["de", "fr"]}, "languages"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"known_speaker_names": ["agent"]}, "known_speaker_names"),
        ({"known_speaker_references": ["data:audio/wav;base64," + "A" * 100_000]}, "known_speaker_references"),
        ({"response_format": "xml"}, "response_format"),
        ({"temperature": 3}, "temperature"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"keywords": ["x" * 1000]}, "keywords"),
        ({"keywords": ["☃"]}, "keywords"),
        ({"extra_body": {"beam_size": 5}}, "beam_size"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client, options, param):
    assert refusal(lambda: transcribe(client, **options)).param == param


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"This is no sound.\n" * 100, "voice.wav"),
        (SAMPLE.read_bytes()[:20_000], "voice.wav"),
        (SAMPLE.read_bytes()[:24] + (0).to_bytes(4, "little") + SAMPLE.read_bytes()[28:], "voice.wav"),
        (wav(np.zeros(100, np.float32), 16000).read(), "voice.wav"),
    ],
    ids=["empty", "text", "truncated", "rate 0", "shorter than a frame"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_file_that_is_no_recording_is_refused_with_its_name(client, content, message, stream):
    call = ("../../etc/voice.wav", content)
    error = refusal(lambda: transcribe(client, call, stream=stream))
    assert error.param == "file"
    assert message in error.message
    assert "etc" not in error.message
    assert "asr-upload" not in error.message


def test_a_recording_that_is_too_long_is_refused(client):
    error = refusal(lambda: transcribe(client, wav(np.zeros(81 * 16000, np.int16), 16000, "FLAC")))
    assert error.param == "file"
    assert (error.code, "80 s of audio" in error.message) == ("audio_too_long", True)


def test_a_long_recording_arrives_utterance_by_utterance(client):
    samples, rate_hz = soundfile.read(SAMPLE, dtype="float32")
    long = wav(np.tile(np.concatenate([samples, np.zeros(rate_hz, np.float32)]), 18), rate_hz, "FLAC")
    *deltas, done = transcribe(client, long, stream=True)
    assert len(deltas) > 3
    assert "".join(event.delta for event in deltas) == done.text == transcribe(client, long).text
    assert done.text == asr.load("an4").transcribe(long).text


def test_translation_is_refused(client):
    with pytest.warns(DeprecationWarning, match="deprecated"):
        error = refusal(lambda: client.audio.translations.create(file=SAMPLE, model="an4"))
    assert "does not translate" in error.message


@pytest.mark.parametrize("key", ["wrong", ""])
def test_without_the_token_nothing_is_answered(server, key):
    with openai.OpenAI(api_key=key or "-", base_url=f"{server.url}/v1", max_retries=0) as stranger:
        assert refusal(lambda: transcribe(stranger), openai.AuthenticationError).code == "invalid_api_key"


def test_a_foreign_origin_is_refused(client):
    headers = {"Origin": "https://evil.example"}
    error = refusal(lambda: transcribe(client, extra_headers=headers), openai.PermissionDeniedError)
    assert error.code == "origin_not_allowed"


def test_an_allowed_origin_is_answered(client):
    origin = "https://app.example.org"
    answered = client.audio.transcriptions.with_raw_response.create(
        file=SAMPLE, model="an4", extra_headers={"Origin": origin}
    )
    assert answered.headers["access-control-allow-origin"] == origin
    assert answered.parse().text == SAMPLE_TEXT


@contextlib.contextmanager
def connection(server: Served):
    found = http.client.HTTPConnection(server.host, server.port, timeout=300)
    try:
        yield found
    finally:
        found.close()


def ask(server: Served, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict, Any]:
    """Status, error and headers of a request by hand."""
    given = {"authorization": f"Bearer {TOKEN}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    with connection(server) as by_hand:
        by_hand.request(method, path, body, given)
        answered = by_hand.getresponse()
        return answered.status, json.loads(answered.read())["error"], answered.headers


def test_a_foreign_host_is_refused(server):
    status, error, _ = ask(server, "GET", "/v1/models", host="evil.example")
    assert (status, error["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/audio/speech", 404, "not_found"),
        ("GET", "/v1/audio/transcriptions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
    ],
)
def test_unknown_paths_and_methods_are_errors_of_the_same_shape(server, method, path, status, code):
    found, error, headers = ask(server, method, path)
    assert (found, error["code"], set(error)) == (status, code, {"message", "type", "param", "code"})
    assert status == 404 or error["message"].endswith(f"; expected {headers['allow']}")


def test_a_body_of_another_type_is_refused(server):
    status, error, _ = ask(server, "POST", "/v1/audio/transcriptions", b"{}", content_type="application/json")
    assert (status, error["code"]) == (415, "unsupported_media_type")


def test_2_gb_are_refused_when_they_are_announced(server):
    with connection(server) as by_hand:
        by_hand.putrequest("POST", "/v1/audio/transcriptions")
        for name, value in {"authorization": f"Bearer {TOKEN}", "content-length": str(2 * 10**9)}.items():
            by_hand.putheader(name, value)
        by_hand.putheader("content-type", "multipart/form-data; boundary=edge")
        by_hand.endheaders(b"--edge\r\n")
        answered = by_hand.getresponse()
        assert (answered.status, json.loads(answered.read())["error"]["code"]) == (413, "request_too_large")


def test_an_upload_beyond_the_limit_is_refused_though_its_length_is_not_announced(server):
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    pieces = [head, *[bytes(2**20)] * (MB * 4)]  # a client that sends everything before it reads the answer
    with connection(server) as by_hand:
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "multipart/form-data; boundary=edge"}
        by_hand.request("POST", "/v1/audio/transcriptions", iter(pieces), headers, encode_chunked=True)
        answered = by_hand.getresponse()
        error = json.loads(answered.read())["error"]
        assert (answered.status, error["param"]) == (413, "file")


def test_a_form_that_stops_in_the_middle_is_refused(server):
    body = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + SAMPLE.read_bytes()
    kind = "multipart/form-data; boundary=edge"
    status, error, _ = ask(server, "POST", "/v1/audio/transcriptions", body, content_type=kind)
    assert (status, error["code"]) == (400, "truncated_upload")


def test_clients_that_vanish_in_their_upload_leave_the_server_serving(server, client):
    for sent in (0, 1000, 20_000):
        with socket.create_connection((server.host, server.port)) as by_hand:
            head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {TOKEN}\r\n"
            head += "Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: 100000\r\n\r\n"
            part = '--edge\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            by_hand.sendall((head + part).encode() + bytes(sent))
    assert transcribe(client).text == SAMPLE_TEXT


def test_the_log_has_neither_texts_nor_file_names_nor_tokens(server, client):
    assert transcribe(client, ("voice.wav", SAMPLE.read_bytes())).text == SAMPLE_TEXT
    refusal(lambda: transcribe(client, ("voice.wav", b"no sound")))
    assert ask(server, "GET", f"/none?token={TOKEN.replace(' ', '%20')}")[0] == 404
    printed = "".join(server.lines)
    assert not [secret for secret in (SAMPLE_TEXT, "voice.wav", TOKEN, "Traceback") if secret in printed], printed


NODE = """
const OpenAI = require("openai"), fs = require("fs"), [url, key, path] = process.argv.slice(-3);
const client = new OpenAI({apiKey: key, baseURL: url, maxRetries: 0});
const ask = (more) => client.audio.transcriptions.create({file: fs.createReadStream(path), model: "an4", ...more});
(async () => {
  const verbose = await ask({response_format: "verbose_json", timestamp_granularities: ["word"]});
  const deltas = [];
  let done = "";
  for await (const event of await ask({stream: true})) {
    if (event.type === "transcript.text.delta") deltas.push(event.delta); else done = event.text;
  }
  let refused = null;
  try { await ask({language: "de"}); } catch (error) { refused = [error.status, error.param]; }
  const srt = await ask({response_format: "srt"});
  const words = verbose.words.map((word) => word.word);
  console.log(JSON.stringify({text: verbose.text, words, deltas, done, refused, srt}));
})();
"""


def test_the_official_client_in_javascript(server):
    node = find_node("openai")
    command = [node, "-e", NODE, "--", f"{server.url}/v1", TOKEN, str(SAMPLE)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert found["text"] == found["done"] == "".join(found["deltas"]) == " ".join(found["words"]) == SAMPLE_TEXT
    assert found["refused"] == [400, "language"]
    assert read_subtitles(found["srt"], "a")[0].text == SAMPLE_TEXT


# The rest needs no model: a service that answers as it is told stands in for it.


class Told:
    """A file service that gives what it was told, and notes when its work is ended."""

    def __init__(self, *pieces: Any) -> None:
        self.told = pieces
        self.ended = False

    async def pieces(self):
        try:
            for piece in self.told:
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                elif isinstance(piece, Exception):
                    raise piece
                else:
                    yield piece
        finally:
            self.ended = True


WORDS = tuple(Word(text, at, at + 0.5, 0.9) for at, text in enumerate(["ONE", "TWO"]))
FIRST = Settled(Transcript("ONE", WORDS[:1], 1.0))
SECOND = Settled(Transcript("TWO", WORDS[1:], 1.0))
WHOLE = Done(Transcript("ONE TWO", WORDS, 2.0))
FORM = UploadedForm("/tmp/asr-upload-x", name="voice.wav")


def streamed(told: Told, receive: Any = None) -> list[bytes]:
    """What a stream of events sends."""
    sent: list[bytes] = []

    async def never() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            pieces = rest.PieceReader(told.pieces(), FORM)
            await stack.enter_async_context(contextlib.aclosing(pieces))
            await pieces.wait(0.01)
            stream = rest.EventStream(rest._events(pieces, EventWriter()), stack.pop_all())
            await stream({"type": "http"}, never if receive is None else functools.partial(receive, sent), send)

    asyncio.run(run())
    return [data for data in sent if data]


def test_each_utterance_is_a_delta():
    told = Told(FIRST, SECOND, WHOLE)
    deltas = [json.loads(data[6:]).get("delta") for data in streamed(told)]
    assert deltas == ["ONE", " TWO", None]
    assert told.ended


def test_an_error_in_the_middle_of_a_stream_is_an_event():
    sent = streamed(Told(FIRST, AudioError("/tmp/asr-upload-x: damaged at 3 s"), WHOLE))
    error = json.loads(sent[-1][6:])["error"]
    assert (error["message"], error["param"]) == ("voice.wav: damaged at 3 s", "file")


def test_a_defect_in_the_middle_of_a_stream_is_an_event_without_details():
    sent = streamed(Told(FIRST, ZeroDivisionError("private"), WHOLE))
    assert json.loads(sent[-1][6:])["error"]["code"] == "internal_error"
    assert b"private" not in sent[-1]


def test_a_long_pause_is_bridged_by_comments(monkeypatch):
    monkeypatch.setattr(rest, "KEEP_ALIVE_S", 0.02)
    sent = streamed(Told(FIRST, 1.0, WHOLE))
    assert sent.count(KEEP_ALIVE) >= 2
    assert json.loads(sent[-1][6:])["text"] == "ONE"


def test_work_ends_when_the_client_goes_away():
    async def gone(sent: list[bytes]) -> Any:
        while not any(sent):
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    told = Told(FIRST, 60.0, WHOLE)
    assert len(streamed(told, gone)) == 1
    assert told.ended


def asked(app: Any, method: str, path: str) -> tuple[int, dict[str, str], dict]:
    """Status, headers and body of a request to an application in this process."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=a")]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
    with contextlib.suppress(ZeroDivisionError):
        asyncio.run(app(scope, receive, send))
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.fixture
def full():
    """An application without room for any file."""
    return build_app(Services(Settings(models={"an4": "an4"}, limits=ServerLimits(file_jobs=0))))


def test_a_server_without_room_says_when_to_try_again(full):
    status, headers, body = asked(full, "POST", "/v1/audio/transcriptions")
    assert (status, body["error"]["type"], body["error"]["code"]) == (503, "server_error", "overloaded")
    assert int(headers["retry-after"]) >= 1


def test_a_defect_is_answered_without_details(full):
    async def broken(request: Any) -> Any:
        raise ZeroDivisionError("private")

    full.router.routes.insert(0, Route("/broken", broken))
    status, _, body = asked(full, "GET", "/broken")
    assert (status, body["error"]["code"]) == (500, "internal_error")
    assert "private" not in json.dumps(body)
