"""Synthetic speech to train on: texts spoken by Kokoro-82M in many voices (``asr synth``).

A line of a text becomes an audio file and a line of a manifest. Voice, speed, pitch and loudness of line ``n`` depend
on the seed and ``n`` alone: shards of one text, an interrupted run and a run in one go give the same files. The network
is that of ``asr.data.kokoro``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from tqdm import tqdm

from asr import files
from asr.data.kokoro import KOKORO_HZ, KOKORO_SYMBOLS, WHOLE_SPEEDS, KokoroNetwork, Pronunciation
from asr.data.manifest import Utterance
from asr.data.voices import Voice, Voices, check_span, load_voices
from asr.errors import AsrError, ModelError, TextError
from asr.text.written_out import spoken

OUTPUT_HZ = 16_000
MOST_SYMBOLS = 508
"""Symbols of one utterance."""
MANIFEST, SETTINGS = "manifest.jsonl", "synth.json"


class Speaks(Protocol):
    """What turns symbols into sound: ``KokoroNetwork``, or a test's."""

    def __call__(self, symbols: Sequence[int], style: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
        """Samples ``(S,)`` at ``KOKORO_HZ`` of the symbols in a style ``(1, 256)``."""
        ...


@dataclass(frozen=True)
class SynthOptions:
    """How texts are spoken. ``voice``: a name; empty draws voices and mixtures. ``pitch``: semitones, up and down."""

    voice: str = ""
    spread: float = 1.25
    speed: tuple[float, float] = (0.8, 1.25)
    pitch: float = 0.0
    seed: int = 1
    format: str = "flac"

    def __post_init__(self) -> None:
        check_span(self.speed, 0.5, 2.0, "speed")
        check_span((1.0, self.spread), 1.0, 1.9, "spread")
        check_span((0.0, self.pitch), 0.0, 6.0, "pitch")
        if self.format not in ("flac", "wav"):
            raise ModelError(f"format: expected flac or wav, got {self.format}")


def words_of(text: str) -> tuple[str, str]:
    """What is said for a line of text, and its transcript in ``A-Z'``.

    Punctuation stays for the prosody where nothing had to be written out. Lines in capitals are not spelled.
    Raises ``TextError`` for a line without words, and naming what cannot be said: other scripts, unclear numbers.
    """
    plain = unicodedata.normalize("NFKD", text.replace("\u2019", "'"))
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    said = spoken(plain, "en")
    strange = next((word for word in said.split() if re.search(r"[^A-Za-z']", word)), "")
    if strange:
        raise TextError(f"cannot say {strange!r}: expected English words")
    if not re.search("[A-Za-z]", said):
        raise TextError("expected words, got none")
    same = re.sub(r"[^a-z']+", " ", plain.lower()).split() == said.lower().split()
    line = " ".join(plain.split()) if same else said
    if line.upper() == line:
        line = line.lower()
    # A letter alone is said by its name.
    line = re.sub(r"(?<![\w'])([b-hj-z])(?![\w'])", lambda match: match[1].upper(), line)
    return line, " ".join(said.upper().split())


@dataclass(frozen=True)
class Sentence:
    """One utterance to speak: its number, from which its voice and its id follow, and its text."""

    number: int
    text: str
    line: int = -1
    """Line of the file, from 0; -1: that of the number."""

    def __str__(self) -> str:
        return f"line {(self.number if self.line < 0 else self.line) + 1}"


def sentences_to_say(path: Path, times: int = 1) -> list[Sentence]:
    """The lines of a text file that are not blank, all of them ``times`` over.

    An utterance of the first round has the number of its line, from 0. Each further round goes on counting, so a folder
    made with fewer rounds can be gone on with. Raises ``AsrError`` where there is no line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AsrError(f"{path}: cannot read the text: {error}") from error
    jobs = [
        Sentence(turn * len(lines) + number, line.strip(), number)
        for turn in range(times)
        for number, line in enumerate(lines)
        if line.strip()
    ]
    if not jobs:
        raise AsrError(f"{path}: expected one sentence a line, got no text")
    return jobs


@dataclass(frozen=True)
class Synthesiser:
    """Speaks lines: network, pronunciation, voices and options together."""

    network: Speaks
    pronounce: Callable[[str, bool], str]
    voices: Voices
    options: SynthOptions

    def speak(self, job: Sentence) -> tuple[NDArray[np.float32], str, str]:
        """Samples ``(S,)`` at ``OUTPUT_HZ``, transcript and name of the voice. Raises ``AsrError``."""
        said, transcript = words_of(job.text)
        rng = np.random.default_rng((self.options.seed, job.number))
        voice = self._voice(rng, job.number)
        speed, semitones, gain = rng.uniform(*self.options.speed), rng.uniform(-1, 1), 10 ** rng.uniform(-0.4, 0.1)
        factor = 2 ** (self.options.pitch * semitones / 12)
        phonetic = self.pronounce(said, voice.british)
        unknown = next((symbol for symbol in phonetic if symbol not in KOKORO_SYMBOLS), "")
        if unknown or not phonetic.strip(" .,!?;:"):
            raise TextError(f"cannot say {said[:60]!r}: its pronunciation is {phonetic[:60]!r}")
        symbols = [KOKORO_SYMBOLS[symbol] for symbol in phonetic]
        if len(symbols) > MOST_SYMBOLS:
            raise TextError(f"expected at most {MOST_SYMBOLS} symbols, got {len(symbols)}; split the sentence")
        # Played faster by ``factor`` a voice is higher; spoken slower by it, it is as long as before.
        samples = self.network(symbols, voice.style(len(symbols)), speed / factor)
        samples = soxr.resample(samples, KOKORO_HZ * factor, OUTPUT_HZ)
        peak = float(np.abs(samples).max(initial=0.0))
        if not np.isfinite(samples).all() or peak < 0.005:
            raise AsrError("the network gave no sound")
        return (samples * (0.6 * gain / peak)).astype(np.float32).clip(-1, 1), transcript, voice.name

    def _voice(self, rng: np.random.Generator, number: int) -> Voice:
        if self.options.voice:
            return self.voices.named(self.options.voice)
        return self.voices.drawn(rng, number, self.options.spread)


def synthesise(
    texts: Path,
    output: Path,
    voices: str | Path,
    options: SynthOptions,
    *,
    model: str | Path | None = None,
    shard: tuple[int, int] = (1, 1),
    limit: int | None = None,
    times: int = 1,
    threads: int = 1,
    device: str = "cpu",
) -> tuple[Path, dict[str, str]]:
    """Speak the lines of ``texts`` into ``output``; go on where an earlier run with the same options stopped.

    Args:
        texts: UTF-8, one sentence a line.
        output: folder for ``audio/``, the manifest and ``synth.json``, the settings.
        voices: see ``load_voices``.
        shard: this part of how many; each part has a manifest of its own.
        limit: speak only so many utterances, from the first.
        times: speak the text so many times, each time in other voices.
        device: see ``KokoroNetwork``.

    Returns:
        The manifest, and why lines were left out, by their ids.

    Raises:
        AsrError: no line can be spoken, ``output`` holds speech of other texts or options, or cannot be written.
    """
    jobs = sentences_to_say(texts, times)[:limit][shard[0] - 1 :: shard[1]]
    network = KokoroNetwork(model, threads, device)
    if network.whole_speeds and (options.speed != (1.0, 1.0) or options.pitch):
        raise ModelError(WHOLE_SPEEDS)
    maker = Synthesiser(network, Pronunciation(), load_voices(voices), options)
    if options.voice:
        maker.voices.named(options.voice)
    name = MANIFEST if shard[1] == 1 else f"manifest.{shard[0]}-of-{shard[1]}.jsonl"
    try:
        prefix = _settle(output, texts, maker, network.sha256)
        left = speak_all(jobs, output, output / name, maker, prefix)
        if left and not os.path.exists(output / name):
            _remove_settings(output, alone=shard[1] == 1)
            raise AsrError(f"{texts}: none of {len(left)} lines can be spoken; the first: {next(iter(left.values()))}")
        return output / name, left
    except (OSError, soundfile.SoundFileError) as error:
        raise AsrError(
            f"{output}: cannot write: {error}; make room or choose another folder. The same command continues this run"
        ) from error


def speak_all(
    jobs: Sequence[Sentence], output: Path, manifest: Path, maker: Synthesiser, prefix: str = "synth"
) -> dict[str, str]:
    """Speak what the manifest does not have yet; why lines were left out, by id.

    Ids are ``PREFIX-NUMBER``. A manifest without lines is removed if lines were left out. Raises ``AsrError`` where
    another process speaks into the same manifest.
    """
    left = {}
    with manifest.open("a", encoding="utf-8") as lines:
        files.hold_alone(
            lines,
            f"{manifest}: another process speaks into it; wait for it, or give each process its part (--shard K/N)",
        )
        done = _spoken(manifest)
        for job in tqdm([job for job in jobs if f"{job.number:07}" not in done], "speaking", disable=None):
            name = f"{prefix}-{job.number:07}"
            audio = Path("audio") / f"{job.number // 1000:04}" / f"{name}.{maker.options.format}"
            try:
                samples, text, speaker = maker.speak(job)
            except AsrError as error:
                left[name] = f"{job}: {error}"
                print(f"error: left out: {left[name]}", file=sys.stderr)
                continue
            (output / audio).parent.mkdir(parents=True, exist_ok=True)
            with files.atomic(output / audio) as path:
                soundfile.write(path, samples, OUTPUT_HZ, "PCM_16", format=maker.options.format)
            known = "synth" if speaker in maker.voices.names else prefix  # mixtures are those of this text alone
            row = Utterance(name, str(audio), text, len(samples) / OUTPUT_HZ, f"{known}-{speaker}")
            kept = {key: getattr(row, key) for key in ("id", "audio", "text", "duration_s", "speaker")}
            lines.write(json.dumps(kept) + "\n")
            lines.flush()
        if left and not manifest.stat().st_size:
            files.remove_held(lines)
    return left


def _spoken(manifest: Path) -> set[str]:
    """The numbers of the lines in a manifest; a last line that a killed run left unfinished is cut off."""
    data = manifest.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        with manifest.open("r+b") as file:
            file.truncate(len(whole))
    return {str(row["id"]).rpartition("-")[2] for row in _rows(manifest, whole)}


def _rows(manifest: Path, data: bytes) -> Iterator[dict[str, Any]]:
    try:
        for line in data.splitlines():
            row = json.loads(line)
            row["id"]
            yield row
    except (ValueError, KeyError, TypeError) as error:
        raise AsrError(f"{manifest}: not a manifest of asr synth: {error}; choose another folder") from error


def _settle(output: Path, texts: Path, maker: Synthesiser, model_sha256: str) -> str:
    """Write the settings into a new folder; refuse one of other settings, whose files would be mixed with ours.

    Returns a prefix for ids that other texts and settings do not have: several folders may be trained on together.
    """
    settings = {
        "text_sha256": files.file_sha256(texts),
        "model_sha256": model_sha256,
        "voices_sha256": hashlib.sha256(maker.voices.tables.tobytes()).hexdigest(),
        **json.loads(json.dumps(asdict(maker.options))),
    }
    path = output / SETTINGS
    prefix = f"synth-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]}"
    if os.path.exists(path):
        old = files.read_object(path, "the settings")
        other = sorted(key for key in settings if old.get(key) != settings[key])
        if other:
            raise AsrError(f"{output}: holds speech of other settings ({', '.join(other)}); choose another folder")
        return prefix
    files.check_output(output, ours=_is_begun)
    output.mkdir(parents=True, exist_ok=True)
    files.write_json(path, settings)
    return prefix


def _remove_settings(output: Path, *, alone: bool) -> None:
    """Remove the settings where nothing was spoken, so that the folder can be used for a corrected text. ``alone``: no
    other process speaks into the folder."""
    if alone and os.listdir(output) == [SETTINGS]:
        (output / SETTINGS).unlink()


def _is_begun(output: Path) -> bool:
    """Whether another shard writes the settings of a folder at this moment."""
    return all(name.startswith(files.PART) or name == SETTINGS for name in os.listdir(output))
