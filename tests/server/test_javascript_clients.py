"""OpenAI's Realtime client of npm, which speaks wss only, as it runs in Node and in browsers; each gets the transcript.

``npm install openai ws``, and NODE_PATH names the folder node_modules.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest
import soundfile
import soxr
from node_modules import find_node
from served import SAMPLE, SAMPLE_TEXT, serving

TOKEN = "sesame-1"
CLIENT = """
const OpenAI = require("openai"), fs = require("fs"), WS = require("ws");
const [kind, url, key, path] = process.argv.slice(-4);
globalThis.WebSocket ??= WS;
const client = new OpenAI({apiKey: key, baseURL: url, maxRetries: 0, dangerouslyAllowBrowser: true});
const own = kind === "ws" ? require("openai/realtime/ws").OpenAIRealtimeWS
                          : require("openai/realtime/websocket").OpenAIRealtimeWebSocket;
const live = new own({model: "greedy", dangerouslyAllowBrowser: true}, client);
const pcm = fs.readFileSync(path), deltas = [], errors = [];
live.on("error", (error) => errors.push(error.error?.code ?? error.message));
const finish = (transcript) => {
  console.log(JSON.stringify({transcript, deltas, errors}));
  process.exit(0);
};
live.on("session.created", () => {
  live.send({type: "input_audio_buffer.commit"});
  const input = {format: {type: "audio/pcm", rate: 24000}, transcription: {model: "greedy"}, turn_detection: null};
  live.send({type: "session.update", session: {type: "transcription", audio: {input}}});
  for (let at = 0; at < pcm.length; at += 9600) {
    live.send({type: "input_audio_buffer.append", audio: pcm.subarray(at, at + 9600).toString("base64")});
  }
  live.send({type: "input_audio_buffer.commit"});
});
live.on("conversation.item.input_audio_transcription.delta", (event) => deltas.push(event.delta));
live.on("conversation.item.input_audio_transcription.completed", (event) => finish(event.transcript));
setTimeout(() => finish(null), 300000);
"""


@pytest.fixture(scope="module")
def node():
    """Node, which finds the modules ``openai`` and ``ws``."""
    return find_node("openai", "ws")


@pytest.mark.parametrize("kind", ["ws", "websocket"])
def test_the_realtime_client_in_javascript_gets_the_transcript(node, secure_server, certificate, tmp_path, kind):
    samples, rate_hz = soundfile.read(SAMPLE, dtype="float32")
    pcm = (soxr.resample(samples, rate_hz, 24000) * 32767).astype("<i2").tobytes()
    (tmp_path / "sample.pcm").write_bytes(pcm)
    url = f"https://localhost:{secure_server.port}/v1"
    command = [node, "-e", CLIENT, "--", kind, url, TOKEN, str(tmp_path / "sample.pcm")]
    trusting = os.environ | {"NODE_EXTRA_CA_CERTS": certificate[0]}
    done = subprocess.run(command, capture_output=True, text=True, env=trusting, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["transcript"] == "".join(found["deltas"]) == SAMPLE_TEXT
    assert found["errors"] == ["input_audio_buffer_commit_empty"]


@pytest.fixture(scope="module")
def secure_server(node, certificate, greedy_model):
    """A server with HTTPS and a token."""
    options = ["--certificate", certificate[0], "--key", certificate[1], "--token", TOKEN]
    with serving("--model", f"greedy={greedy_model}", *options) as server:
        yield server
