"""Training-time augmentation: what another speaker, room, microphone or line would have made of the same words.

Waveforms are distorted in the order in which sound travels: speaker (speed), room (silence, reverberation, noise,
babble), line (band, codec, lost packets, clipping), level. The speaker's vocal tract and the microphone's colour are
changed on log-mel energies, where they are cheap, and SpecAugment masks the normalised features. Every draw comes from
a generator passed in, so that a seed fixes all of it.
"""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import soundfile

from asr.audio import find, pyav, read
from asr.audio.samples import resample
from asr.config.training_sections import AugmentConfig
from asr.data.block_convolution import convolve
from asr.errors import ConfigError

OtherVoices: TypeAlias = "Callable[[int, np.random.Generator], Sequence[np.ndarray]]"
"""Gives up to so many waveforms ``(S,)`` of other speakers, drawn from a generator."""
MU = 255.0
_MU_LAW_SIZES = (np.expm1(np.arange(128) / 127 * np.log1p(MU)) / MU).astype(np.float32)
TRIM_DB = 30.0
NOISE_SPARE_S = 0.01
"""Read beyond a noise's end, so that rounding to samples never leaves too few."""
TELEPHONE_HZ = (300.0, 3400.0)
OPUS_HZ = (8000, 12000, 16000, 24000, 48000)
OPUS_BITS = (8e3, 32e3)
"""Bits per second that calls and voice messages are sent with."""
GSM_HZ = 8000
TELEPHONE_TAIL_S = 0.04
"""The impulse response of its band falls to 1e-9 of its peak within so long."""
PACKET_S = 0.02
LOST_IN_A_ROW = 2.0
"""Mean number of packets that are lost together."""


def draw_speeds(count: int, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """``(count,)`` float64 of the configured speed factors, each drawn uniformly."""
    return rng.choice(np.array(config.speeds), size=count)


def change_speed(samples: np.ndarray, sample_rate_hz: int, speed: float) -> np.ndarray:
    """Play ``samples`` ``(S,)`` ``speed`` times as fast, pitch and formants included (Ko et al. 2015)."""
    if speed == 1:
        return samples
    return resample(samples, round(sample_rate_hz * speed), sample_rate_hz, quality="LQ")


class _Streams:
    """The generators of ``rng.spawn(n)``, each made when it is first asked for: most are not, and each takes 10 us."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._make = type(rng.bit_generator)
        seed = rng.bit_generator.seed_seq
        assert isinstance(seed, np.random.SeedSequence)
        self._seed = seed
        self._made: dict[int, np.random.Generator] = {}

    def __getitem__(self, number: int) -> np.random.Generator:
        if number not in self._made:
            seed = self._seed
            key = (*seed.spawn_key, seed.n_children_spawned + number)
            child = np.random.SeedSequence(seed.entropy, spawn_key=key, pool_size=seed.pool_size)
            self._made[number] = np.random.Generator(self._make(child))
        return self._made[number]


class Distorter:
    """Room, line and level, drawn for each waveform. Raises ``ConfigError`` for a folder without audio."""

    def __init__(self, config: AugmentConfig, sample_rate_hz: int) -> None:
        self.config = config
        self.rate_hz = sample_rate_hz
        self.rooms = _recordings(config.reverb_dir, "augment.reverb_dir") if config.reverb_prob else []
        self._durations: dict[Path, float] = {}
        self.noises = _recordings(config.noise_dir, "augment.noise_dir") if config.noise_prob else []
        self.talkers = _recordings(config.babble_dir, "augment.babble_dir") if config.babble_prob else []

    def __call__(self, samples: np.ndarray, rng: np.random.Generator, voices: OtherVoices | None = None) -> np.ndarray:
        """``samples`` ``(S,)`` float32 -> ``(S',)`` float32, without the silence cut off or with that added.

        Babble is made of ``voices`` where there is no folder of it; without both there is none.
        Raises ``AudioError`` naming a noise or impulse response file that cannot be read.
        """
        config = self.config
        # All chances are drawn first, so that switching one distortion on leaves the others as they were.
        chance = rng.random(10)
        streams = _Streams(rng)
        if chance[5] < config.trim_prob:
            samples = trim(samples, self.rate_hz)
        elif config.silence_s:
            pad = streams[0].integers(round(config.silence_s * self.rate_hz) + 1, size=2)
            samples = np.pad(samples, (int(pad[0]), int(pad[1])))
        if chance[0] < config.reverb_prob:
            samples = reverberate(samples, self._room(streams[1]))
        if chance[1] < config.noise_prob:
            snr_db = streams[2].uniform(*config.noise_snr_db)
            samples = add_noise(samples, self._noise(len(samples), self.noises, streams[2]), snr_db)
        if chance[7] < config.babble_prob:
            snr_db = streams[8].uniform(*config.babble_snr_db)
            samples = add_noise(samples, self._babble(len(samples), voices, streams[8]), snr_db)
        if chance[2] < config.telephone_prob:
            samples = limit_band(samples, self.rate_hz, telephone=bool(streams[3].random() < 0.5))
        if chance[3] < config.codec_prob:
            samples = mu_law(samples)
        if chance[6] < config.opus_prob:
            low, high = np.log(OPUS_BITS)
            samples = opus(samples, self.rate_hz, float(np.exp(streams[7].uniform(low, high))))
        if chance[9] < config.gsm_prob:
            samples = gsm(samples, self.rate_hz)
        if chance[8] < config.packet_loss_prob:
            samples = lose_packets(samples, self.rate_hz, streams[9].uniform(*config.packet_loss_rate), streams[9])
        if chance[4] < config.clip_prob:
            samples = clip(samples, share=float(10 ** streams[5].uniform(-3, np.log10(0.05))))
        if config.gain_db:
            samples = samples * np.float32(10 ** (streams[6].uniform(-config.gain_db, config.gain_db) / 20))
        return samples

    def _room(self, rng: np.random.Generator) -> np.ndarray:
        if self.rooms:
            return read.load_audio(self.rooms[rng.integers(len(self.rooms))], self.rate_hz, max_duration_s=60.0)
        return simulate_room(
            rng.uniform(*self.config.reverb_rt60_s), rng.uniform(*self.config.reverb_ratio_db), self.rate_hz, rng
        )

    def _noise(self, length: int, recordings: Sequence[Path], rng: np.random.Generator) -> np.ndarray:
        if not recordings:
            return coloured_noise(length, rng.uniform(0.0, 2.0), rng)
        path = recordings[int(rng.integers(len(recordings)))]
        needed_s = length / self.rate_hz + NOISE_SPARE_S
        duration_s = self._durations.get(path)
        if duration_s is None:
            duration_s = self._durations[path] = read.probe_audio(path).duration_s
        if duration_s > needed_s:  # hours of noise: only what is needed is read
            start_s = rng.uniform(0, duration_s - needed_s)
            return read.load_audio(path, self.rate_hz, start_s=start_s, end_s=start_s + needed_s)[:length]
        noise = read.load_audio(path, self.rate_hz)
        return np.resize(np.roll(noise, -int(rng.integers(len(noise)))), length)

    def _babble(self, length: int, voices: OtherVoices | None, rng: np.random.Generator) -> np.ndarray:
        low, high = self.config.babble_voices
        count = int(rng.integers(low, high + 1))
        if self.talkers:
            return babble([self._noise(length, self.talkers, rng) for _ in range(count)], length, rng)
        return babble(voices(count, rng) if voices else [], length, rng)


def trim(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """``samples`` ``(S,)`` without what is silent at its ends: 10 ms blocks ``TRIM_DB`` below the loudest one."""
    size = sample_rate_hz // 100
    blocks = samples[: len(samples) // size * size].reshape(-1, size)
    power = np.square(blocks, dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power > power.max(initial=0) * 10 ** (-TRIM_DB / 10))
    return samples[loud[0] * size : (loud[-1] + 1) * size] if len(loud) else samples


def _recordings(folder: str, key: str) -> list[Path]:
    if not folder:
        return []
    if not os.path.isdir(folder):
        raise ConfigError(f"{key}: {folder}: no such folder")
    found = find.find_audio_files(folder)
    if not found:
        raise ConfigError(f"{key}: {folder}: no audio file in it")
    return found


def simulate_room(rt60_s: float, ratio_db: float, sample_rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """An impulse response ``(R,)`` float32: the direct sound, then noise that decays by 60 dB in ``rt60_s``.

    Polack's statistical model; the direct sound, first and of height 1, has ``ratio_db`` times the energy of the rest.
    """
    time = np.arange(1, max(2, round(rt60_s * sample_rate_hz))) / sample_rate_hz
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / rt60_s)
    tail *= 10 ** (-ratio_db / 20) / np.sqrt(np.square(tail).sum())
    return np.concatenate([[1.0], tail]).astype(np.float32)


def reverberate(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """``samples`` ``(S,)`` heard through an impulse response ``(R,)``, as long, as loud and not delayed."""
    direct = int(np.abs(response).argmax())
    wet = convolve(samples, response, direct, direct + len(samples))
    energy = np.square(wet, dtype=np.float64).sum()
    louder: np.ndarray = wet * np.sqrt(np.square(samples, dtype=np.float64).sum() / max(energy, 1e-20))
    return louder.astype(np.float32)


def coloured_noise(length: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """``(length,)`` float32 Gaussian noise whose power falls as ``1 / f ** slope``: 0 white, 1 pink, 2 brown."""
    from scipy import fft  # takes 0.2 s to import

    size = fft.next_fast_len(max(2, length), real=True)
    bins = size // 2 + 1
    # The spectrum is drawn, not the samples: this saves an FFT. Its values are uniform, which takes a fifth of the time
    # of Gaussian ones. Each sample and each bin of a short frame is a sum of very many of them, and so Gaussian.
    spectrum = rng.integers(-(2**15), 2**15, 2 * bins, dtype=np.int16).astype(np.float32)
    # Below 1/400 of the sampling rate (40 Hz at 16 kHz) it stays flat: what lies there is not heard, only loud.
    frequencies = np.maximum(np.arange(bins, dtype=np.float32), np.float32(size / 400))
    shaped = spectrum.view(np.complex64) * frequencies ** np.float32(-slope / 2)
    noise: np.ndarray = fft.irfft(shaped, size, overwrite_x=True)[:length]
    noise *= np.float32(math.sqrt(size / 2) / (2**15 / math.sqrt(3)))  # white noise of power 1
    return noise


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """``samples + noise``, both ``(S,)`` float32, with the noise ``snr_db`` below; silence stays silent."""
    power = np.square(samples, dtype=np.float64).mean()
    noise_power = np.square(noise, dtype=np.float64).mean()
    if noise_power == 0:
        return samples
    return samples + noise * np.float32(np.sqrt(power / noise_power) * 10 ** (-snr_db / 20))


def babble(voices: Sequence[np.ndarray], length: int, rng: np.random.Generator) -> np.ndarray:
    """``(length,)`` float32: ``voices`` ``(S,)`` at once and equally loud, each from a random place on, again and again
    where it is shorter. Without any it is silence."""
    total = np.zeros(length, np.float32)
    for voice in voices:
        power = np.square(voice, dtype=np.float64).mean() if len(voice) else 0.0
        if power:
            turned = np.roll(voice, -int(rng.integers(len(voice))))
            total += np.resize(turned, length) * np.float32(power**-0.5)
    return total


def limit_band(samples: np.ndarray, sample_rate_hz: int, *, telephone: bool) -> np.ndarray:
    """``samples`` ``(S,)`` as after sampling at 8 kHz or, with ``telephone``, within 300 to 3400 Hz."""
    if telephone:
        response = _telephone_response(sample_rate_hz)
        delay = len(response) // 2
        return convolve(samples, response, delay, delay + len(samples))
    if sample_rate_hz <= 8000:
        return samples
    narrow = resample(samples, sample_rate_hz, 8000, quality="LQ")
    wide = resample(narrow, 8000, sample_rate_hz, quality="LQ")
    return np.pad(wide, (0, max(0, len(samples) - len(wide))))[: len(samples)]


@functools.lru_cache(8)
def _telephone_response(sample_rate_hz: int) -> np.ndarray:
    """Impulse response ``(R,)`` float32 of a telephone's band, symmetrical about its middle."""
    half = round(TELEPHONE_TAIL_S * sample_rate_hz)
    size = 8 * (half + 1)
    hz = np.fft.rfftfreq(size, 1 / sample_rate_hz)
    low, high = TELEPHONE_HZ
    # Butterworth-like flanks of sixth order: a sharp edge would ring.
    gain = 1 / np.sqrt((1 + (low / np.maximum(hz, 1)) ** 12) * (1 + (hz / high) ** 24))
    response = np.roll(np.fft.irfft(gain, size), half)[: 2 * half + 1]
    return response.astype(np.float32)


def mu_law(samples: np.ndarray) -> np.ndarray:
    """``samples`` ``(S,)`` through 8-bit mu-law quantisation and back (ITU-T G.711's curve, mu = 255)."""
    sizes = np.minimum(np.abs(samples), 1)
    sizes *= np.float32(MU)
    steps = np.log1p(sizes, out=sizes)
    steps *= np.float32(127 / np.log1p(MU))
    expanded: np.ndarray = _MU_LAW_SIZES.take(np.rint(steps, out=steps).astype(np.int16))
    np.copysign(expanded, samples, out=expanded)
    return expanded


def opus(samples: np.ndarray, sample_rate_hz: int, bits_per_second: float) -> np.ndarray:
    """``samples`` ``(S,)`` through the Opus codec (RFC 6716) and back, at 6 to 256 kbit/s.

    PyAV encodes, or libsndfile without it. They have different versions of libopus: equally good, but not equal.
    """
    rate = next((rate for rate in OPUS_HZ if rate >= sample_rate_hz), OPUS_HZ[-1])
    sent = resample(np.clip(samples, -1, 1), sample_rate_hz, rate)
    if pyav.pyav_writes_opus():  # a third of the time
        container = pyav.opus_file(sent, rate, bits_per_second)
    else:
        container = io.BytesIO()
        # libsndfile makes of the level 0 to 1 a rate of 256 to 6 kbit/s.
        level = 1 - (bits_per_second - 6e3) / 250e3
        soundfile.write(container, sent, rate, format="OGG", subtype="OPUS", compression_level=level)
        container.seek(0)
    heard = resample(soundfile.read(container, dtype="float32")[0], rate, sample_rate_hz)
    return np.pad(heard[: len(samples)], (0, max(0, len(samples) - len(heard))))


def gsm(samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """``samples`` ``(S,)`` through the full-rate codec of GSM (GSM 06.10: 8 kHz, 13 kbit/s) and back."""
    container = io.BytesIO()
    sent = resample(np.clip(samples, -1, 1), sample_rate_hz, GSM_HZ)
    soundfile.write(container, sent, GSM_HZ, format="WAV", subtype="GSM610")
    container.seek(0)
    heard = resample(soundfile.read(container, dtype="float32")[0], GSM_HZ, sample_rate_hz)
    return np.pad(heard[: len(samples)], (0, max(0, len(samples) - len(heard))))


def lose_packets(samples: np.ndarray, sample_rate_hz: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """``samples`` ``(S,)`` with a share ``rate`` of the packets of ``PACKET_S`` lost, ``LOST_IN_A_ROW`` together on
    average (the model of Gilbert 1960).

    By equal chance the gaps are silent, or filled with the last packet that came, half as loud each time.
    """
    size = round(PACKET_S * sample_rate_hz)
    count = -(-len(samples) // size)
    # The chances that a packet is lost after one that came, and that one comes after a lost one. Of rates above
    # LOST_IN_A_ROW / (LOST_IN_A_ROW + 1) more are lost together.
    fail = min(1.0, rate / max(1e-9, 1 - rate) / LOST_IN_A_ROW)
    recover = min(1 / LOST_IN_A_ROW, (1 - rate) / max(1e-9, rate))
    draws, repeat = rng.random(count), bool(rng.random() < 0.5)
    received, lost, gain = samples.copy(), bool(rng.random() < rate), 1.0
    last = np.zeros(size, samples.dtype)
    for packet in range(count):
        part = received[packet * size : (packet + 1) * size]
        if lost:
            gain /= 2
            part[:] = last[: len(part)] * gain if repeat else 0
        else:
            last, gain = samples[packet * size : packet * size + size], 1.0
        lost = bool(draws[packet] >= recover) if lost else bool(draws[packet] < fail)
    return received


def clip(samples: np.ndarray, share: float) -> np.ndarray:
    """``samples`` ``(S,)`` with the loudest ``share`` of them cut to one height."""
    limit = np.quantile(np.abs(samples), 1 - share)
    clipped: np.ndarray = np.clip(samples, -limit, limit)
    return clipped


def draw_colour(config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """``(3,)`` float32 for ``colour``: vocal tract factor, tilt and bow in dB."""
    warp = rng.uniform(1 - config.warp, 1 + config.warp)
    return np.array([warp, *rng.uniform(-config.tilt_db, config.tilt_db, 2)], dtype=np.float32)


def draw_masks(frames: int, bins: int, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """SpecAugment masks (Park et al. 2019) of one utterance.

    Returns ``(time_masks + freq_masks, 2)`` int64 rows of (first, one past last): first the masked frames, then the
    masked bins. Time masks are no wider than ``time_mask_ratio`` of the utterance.
    """
    widest = min(config.time_mask_frames, int(frames * config.time_mask_ratio))
    rows = []
    for count, size, limit in ((config.time_masks, frames, widest), (config.freq_masks, bins, config.freq_mask_bins)):
        for _ in range(count):
            width = int(rng.integers(min(limit, size) + 1))
            first = int(rng.integers(size - width + 1))
            rows.append((first, first + width))
    return np.array(rows, dtype=np.int64).reshape(-1, 2)
