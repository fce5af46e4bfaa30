"""A client of ``asr serve``: a recording as a whole, or live in blocks while it is played.

    asr serve &
    python egs/serve_client.py egs/sample.wav                # OpenAI's REST interface: text and times
    python egs/serve_client.py egs/sample.wav --live         # Vosk's protocol: text that grows

Any source of 16-bit samples can replace the file of ``--live``: a microphone, a telephone line.
"""

import argparse
import json
import os
import time

import soundfile
from openai import OpenAI
from websockets.sync.client import connect


def transcribe_file(url: str, token: str, path: str, model: str) -> None:
    client = OpenAI(base_url=f"{url}/v1", api_key=token or "none")
    with open(path, "rb") as file:
        made = client.audio.transcriptions.create(
            file=file, model=model, response_format="verbose_json", timestamp_granularities=["word"]
        )
    for word in made.words:
        print(f"{word.start:7.2f} s {word.end:7.2f} s  {word.word}")
    print(made.text)


def transcribe_live(url: str, token: str, path: str) -> None:
    address = url.replace("http", "ws", 1) + "/vosk"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with soundfile.SoundFile(path) as file, connect(address, additional_headers=headers) as socket:
        socket.send(json.dumps({"config": {"sample_rate": file.samplerate}}))
        for block in file.blocks(file.samplerate // 10, dtype="int16", always_2d=True):
            socket.send(block[:, 0].tobytes())
            answer = json.loads(socket.recv())
            print(answer.get("text") or answer.get("partial", ""), end="\n" if "text" in answer else "\r", flush=True)
            time.sleep(len(block) / file.samplerate)  # a microphone takes as long
        socket.send('{"eof" : 1}')
        print(json.loads(socket.recv())["text"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--live", action="store_true", help="send blocks at the pace of the recording")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="", help="model for a whole file (default: the server's)")
    args = parser.parse_args()
    token = os.environ.get("ASR_TOKEN", "")
    if args.live:
        transcribe_live(args.url, token, args.file)
    else:
        transcribe_file(args.url, token, args.file, args.model)


if __name__ == "__main__":
    main()
