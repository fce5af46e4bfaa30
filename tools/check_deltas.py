"""Send recordings to the Realtime API of a server: joined, are the deltas the transcript?

    asr serve --model stream &
    python tools/check_deltas.py data/an4/test.jsonl

Each recording is sent in blocks of 100 ms, and committed. The exit status is 1 where the deltas of an item are not its
transcript. Shown are the errors against the manifest's texts, and the share of characters that came before the commit.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from openai import AsyncOpenAI
from tqdm import tqdm

from asr.audio.read import load_audio
from asr.data.manifest import Utterance, read_manifest
from asr.scoring.wer import score

RATE_HZ = 24000
BLOCK_S = 0.1


@dataclass(frozen=True)
class Heard:
    """What came for a recording: the transcript, its deltas, and how many of them before the commit."""

    transcript: str
    deltas: tuple[str, ...]
    early: int


async def hear(server: str, samples: Sequence[np.ndarray], model: str = "") -> list[Heard]:
    """Send recordings ``(S,)`` at ``RATE_HZ`` over one connection, one item each."""
    client = AsyncOpenAI(base_url=f"http://{server}/v1", api_key="none", max_retries=0)
    query = {"intent": "transcription"} | ({"model": model} if model else {})
    session = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
    found = []
    async with client.realtime.connect(extra_query=query) as connection:
        await connection.session.update(session=session)
        for recording in tqdm(samples, unit="recording", disable=not sys.stderr.isatty()):
            data = np.round(np.clip(recording, -1, 1) * 32767).astype("<i2").tobytes()
            size = round(BLOCK_S * RATE_HZ) * 2
            for start in range(0, len(data), size):
                piece = base64.b64encode(data[start : start + size]).decode()
                await connection.input_audio_buffer.append(audio=piece)
            await connection.input_audio_buffer.commit()
            deltas: list[str] = []
            early = 0
            async for event in connection:
                if event.type == "error":
                    raise SystemExit(f"the server: {event.error.message}")
                if event.type.endswith("transcription.delta"):
                    deltas.append(event.delta)
                elif event.type == "input_audio_buffer.committed":
                    early = len(deltas)
                elif event.type.endswith(("transcription.completed", "transcription.failed")):
                    found.append(Heard(getattr(event, "transcript", ""), tuple(deltas), early))
                    break
    return found


def load_utterances(path: str) -> tuple[list[Utterance], list[np.ndarray]]:
    """A manifest's utterances, and their samples at ``RATE_HZ``."""
    utterances = read_manifest(path)
    return utterances, [load_audio(utterance.audio, RATE_HZ) for utterance in utterances]


def main() -> int:
    """Check all recordings of a manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("--server", metavar="HOST:PORT", default="127.0.0.1:8000")
    parser.add_argument("--model", default="", help="model of the server (default: its own for streams)")
    args = parser.parse_args()
    utterances, samples = load_utterances(args.manifest)
    found = asyncio.run(hear(args.server, samples, args.model))
    other = [u.id for u, heard in zip(utterances, found, strict=True) if "".join(heard.deltas) != heard.transcript]
    transcripts = {u.id: heard.transcript for u, heard in zip(utterances, found, strict=True)}
    report = score({u.id: u.text for u in utterances}, transcripts)
    early = sum(len("".join(heard.deltas[: heard.early])) for heard in found)
    total = sum(len(heard.transcript) for heard in found)
    print(f"{len(found)} items, {len(other)} whose deltas are not the transcript {' '.join(other[:10])}".rstrip())
    print(f"{report.errors} errors in {report.words} words; {early / max(1, total):.0%} of the text before the commit")
    return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main())
