"""Clients of `asr serve` for tools/bench_serve.py: Vosk and Realtime, in real time, and clients that vanish."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RATE_HZ, REALTIME_HZ = 16000, 24000
"""Of the Vosk protocol here, and of the Realtime API."""
SETTLED_S = 2.0
"""Beginning of each stream whose lags do not count."""


@dataclass
class Result:
    """What some clients have seen."""

    lags: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    refused_after_s: list[float] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    served: int = 0
    words: int = 0

    def add(self, other: Result) -> Result:
        """Both together."""
        return Result(
            self.lags + other.lags,
            self.refused + other.refused,
            self.refused_after_s + other.refused_after_s,
            self.lost + other.lost,
            self.served + other.served,
            self.words + other.words,
        )


def run_clients(
    port: int, sound: np.ndarray, count: int, args: argparse.Namespace, seed: int, ramp_s: float, realtime: bool = False
) -> Result:
    """``count`` clients of one process, in real time; ``realtime``: of the Realtime API instead of Vosk's."""
    client = realtime_client if realtime else one_client

    async def run() -> list[Result]:
        rng = np.random.default_rng(seed)
        delays = rng.uniform(0, ramp_s, count)
        starts = rng.integers(0, len(sound), count)
        work = (
            client(port, np.roll(sound, -start), args, delay)
            for start, delay in zip(starts.tolist(), delays.tolist(), strict=True)
        )
        return await asyncio.gather(*work)

    total = Result()
    for result in asyncio.run(run()):
        total = total.add(result)
    return total


async def one_client(port: int, sound: np.ndarray, args: argparse.Namespace, delay_s: float) -> Result:
    """One stream over the Vosk protocol."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus, WebSocketException

    result = Result()
    await asyncio.sleep(delay_s)
    began = time.perf_counter()
    try:
        async with connect(f"ws://127.0.0.1:{port}/vosk", compression=None, open_timeout=60) as socket:
            await socket.send(json.dumps({"config": {"sample_rate": RATE_HZ, "words": True}}))
            await _speak(socket, sound, args, result)
            result.served = 1
    except InvalidStatus as error:
        result.refused[str(error.response.status_code)] += 1
        result.refused_after_s.append(time.perf_counter() - began)
    except (WebSocketException, OSError, TimeoutError) as error:
        result.lost[f"{type(error).__name__}: {error}"] += 1
    return result


async def realtime_client(port: int, sound: np.ndarray, args: argparse.Namespace, delay_s: float) -> Result:
    """One stream over the Realtime API, which commits every third second; lags run from a commit to its text."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus, WebSocketException

    result = Result()
    await asyncio.sleep(delay_s)
    began = time.perf_counter()
    try:
        address = f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription"
        async with connect(address, compression=None, open_timeout=60) as socket:
            audio = {"format": {"type": "audio/pcm", "rate": REALTIME_HZ}, "turn_detection": None}
            audio["transcription"] = {"model": args.model.partition("=")[0]}
            session = {"type": "transcription", "audio": {"input": audio}}
            await socket.send(json.dumps({"type": "session.update", "session": session}))
            for number in range(max(1, round(args.seconds / 3))):
                await _commit(socket, np.roll(sound, -number * 3 * REALTIME_HZ)[: 3 * REALTIME_HZ], args.block, result)
            result.served = 1
    except InvalidStatus as error:
        result.refused[str(error.response.status_code)] += 1
        result.refused_after_s.append(time.perf_counter() - began)
    except (WebSocketException, OSError, TimeoutError) as error:
        result.lost[type(error).__name__] += 1
    return result


async def _commit(socket: Any, sound: np.ndarray, block_s: float, result: Result) -> None:
    """Send sound in real time, commit it, and wait for its text."""
    size, started = round(block_s * REALTIME_HZ), time.perf_counter()
    for number, at in enumerate(range(0, len(sound), size), start=1):
        await asyncio.sleep(max(0.0, started + number * block_s - time.perf_counter()))
        data = base64.b64encode(sound[at : at + size].tobytes()).decode()
        await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": data}))
    await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
    sent = time.perf_counter()
    async for text in socket:
        message = json.loads(text)
        if message["type"] == "error" or message["type"].endswith(".failed"):
            raise OSError(message["error"]["message"])
        if message["type"].endswith("input_audio_transcription.completed"):
            result.lags.append(time.perf_counter() - sent)
            result.words += len(message["transcript"].split())
            return


async def _speak(socket: Any, sound: np.ndarray, args: argparse.Namespace, result: Result) -> None:
    size, blocks = round(args.block * RATE_HZ), round(args.seconds / args.block)
    sent: list[float] = []
    started = time.perf_counter()

    async def listen() -> None:
        for number in range(blocks):
            answer = json.loads(await socket.recv())
            if number * args.block >= SETTLED_S:
                result.lags.append(time.perf_counter() - sent[number])
            result.words += len(answer.get("text", "").split())

    listening = asyncio.create_task(listen())
    try:
        for number in range(blocks):
            await asyncio.sleep(max(0.0, started + (number + 1) * args.block - time.perf_counter()))
            at = number * size % (len(sound) - size)
            await socket.send(sound[at : at + size].tobytes())
            sent.append(time.perf_counter())
            if listening.done():
                break
        await listening
        await socket.send('{"eof" : 1}')
        result.words += len(json.loads(await socket.recv()).get("text", "").split())
    finally:
        listening.cancel()


def vanish(port: int, sound: np.ndarray, count: int, seed: int) -> int:
    """Clients that connect, send a second of speech, and are gone without a word; how many were served."""

    async def one(start: int) -> bool:
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        try:
            socket = await connect(f"ws://127.0.0.1:{port}/vosk", compression=None, open_timeout=60)
            await socket.send(json.dumps({"config": {"sample_rate": RATE_HZ}}))
            for at in range(start, start + RATE_HZ, RATE_HZ // 4):
                await socket.send(sound[at : at + RATE_HZ // 4].tobytes())
            await socket.recv()
            socket.transport.abort()
        except (WebSocketException, OSError, TimeoutError):
            return False
        return True

    async def run() -> int:
        rng = np.random.default_rng(seed)
        served = 0
        for _ in range(0, count, 5):
            starts = rng.integers(0, len(sound) - RATE_HZ, min(5, count))
            served += sum(await asyncio.gather(*(one(int(start)) for start in starts)))
        return served

    return asyncio.run(run())
