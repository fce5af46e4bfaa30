"""Recordings of any length: pieces that lose nothing, posteriors that join, utterances, memory that stays."""

import io
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import make_recognizer, sound

import asr
from asr.audio import read
from asr.decode.endpoint import Endpoint
from asr.errors import AudioError, ConfigError, LengthLimitError, TooLongError
from asr.models.pace import LONGEST_S, SHORTEST_S, Pace
from asr.recognize import long_audio
from asr.recognize.recording import Recording

ROOT = Path(__file__).parents[2]
RATE = 16000
STEP = 480


def words_and_pauses(count, seed=0):
    """Tones of 0.3 to 1 s with pauses of 0.1 to 0.6 s; the sound and the pauses' (start, end) in samples."""
    rng = np.random.default_rng(abs(seed))
    parts, pauses, at = [], [], 0
    for _ in range(count):
        tone = 0.2 * np.sin(np.arange(int(rng.uniform(0.3, 1) * RATE)) * rng.uniform(0.05, 1))
        pause = np.zeros(int(rng.uniform(0.1, 0.6) * RATE))
        parts += [tone, pause]
        pauses.append((at + len(tone), at + len(tone) + len(pause)))
        at += len(tone) + len(pause)
    return np.concatenate(parts).astype(np.float32), pauses


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 300_000), min_size=1, max_size=4), count=st.integers(1, 60), seed=st.integers(0, 9)
)
def test_pieces_cover_the_sound_and_are_cut_in_pauses(sizes, count, seed):
    samples, pauses = words_and_pauses(count, seed)
    blocks, at = [], 0
    while at < len(samples):
        blocks.append(samples[at : at + sizes[len(blocks) % len(sizes)]])
        at += len(blocks[-1])
    found = list(long_audio.pieces(blocks, RATE, STEP))
    context = math.ceil(long_audio.CONTEXT_S * RATE / STEP)
    cuts = []
    for piece, following in zip(found, [*found[1:], None], strict=True):
        np.testing.assert_array_equal(piece.samples, samples[piece.first * STEP :][: len(piece.samples)])
        if following is None:
            assert piece.first * STEP + len(piece.samples) == len(samples)
        else:
            assert len(piece.samples) % STEP == 0
            cuts.append(following.first + context)
            assert piece.first + len(piece.samples) // STEP - following.first == 2 * context
    lengths = np.diff([0, *cuts]) * STEP / RATE
    assert ((lengths >= long_audio.SHORTEST_S) & (lengths <= long_audio.LONGEST_S)).all()
    for cut in cuts:
        assert any(start - STEP <= cut * STEP <= end + STEP for start, end in pauses)
    again = list(long_audio.pieces([samples], RATE, STEP))
    assert [(p.first, len(p.samples)) for p in again] == [(p.first, len(p.samples)) for p in found]


def spell(frames, tokens, vocabulary=5):
    """Posteriors that say ``tokens`` ``{row: token}`` and nothing elsewhere."""
    matrix = np.full((frames, vocabulary), math.log(0.001), np.float32)
    matrix[:, 0] = math.log(0.996)
    for row, token in tokens.items():
        matrix[row] = math.log(0.001)
        matrix[row, token] = math.log(0.996)
    return matrix


def test_joined_posteriors_say_every_token_once():
    # Two pieces overlap in the rows 80 to 120; a token at 99 and one at 104 are heard by both.
    tokens = {5: 1, 60: 2, 99: 3, 104: 4, 150: 1}
    whole = spell(200, tokens)
    first = long_audio.Piece(np.zeros(120 * STEP, np.float32), 0)
    second = long_audio.Piece(np.zeros(120 * STEP, np.float32), 80)
    # At their edges pieces mishear.
    early, late = whole[:120].copy(), whole[80:].copy()
    early[115:] = spell(5, {2: 2})
    late[:5] = spell(5, {1: 2})
    rows = np.concatenate(list(long_audio.joined([(first, early), (second, late)], 1, 10)))
    torch.testing.assert_close(rows, whole)


@pytest.mark.parametrize("upsampling", [1, 2])
def test_pieces_of_a_long_recording_say_what_the_whole_says(tmp_path, upsampling):
    recognizer = make_recognizer(tmp_path, bidirectional=True, upsampling=upsampling)
    with torch.no_grad():
        for name, parameter in recognizer.backend.network.named_parameters():
            if name.endswith("bias_ih_l0"):
                parameter[12:24] = -3.0  # the gates that forget: what pieces do not hear makes no difference to them
    samples = sound(40.0, seed=5)
    whole, frames = recognizer.log_probs([samples])
    blocks = [samples[at : at + 7001] for at in range(0, len(samples), 7001)]
    parts = list(long_audio.posteriors(blocks, recognizer.backend, recognizer.model.config, recognizer.log_probs))
    assert len(parts) > 4
    rows = np.concatenate(parts)
    assert len(rows) == int(frames[0])
    torch.testing.assert_close(np.exp(rows), np.exp(whole[0]), atol=0.02, rtol=0)


@pytest.mark.parametrize("options", [{}, {"lookahead": 3}, {"centred": True}], ids=str)
@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_unidirectional_model_says_exactly_the_whole(tmp_path, rate, options):
    recognizer = make_recognizer(tmp_path, **options)
    samples = sound(30.0, rate, seed=6)
    whole, _ = recognizer.log_probs([read.load_audio(samples, RATE, source_rate_hz=rate)])
    parts, heard = recognizer.whole_posteriors(Recording(samples, rate_hz=rate))
    torch.testing.assert_close(np.concatenate(list(parts)), whole[0], atol=1e-4, rtol=0)
    assert heard.samples == pytest.approx(30.0 * RATE, abs=2)


class Alternating(Pace):
    """Blocks that are long and short by turns, as on a machine that is busy now and then."""

    def __init__(self):
        super().__init__()
        self.measured = []

    @property
    def block_s(self):
        return (SHORTEST_S, LONGEST_S, 1.37, 0.6)[len(self.measured) % 4]

    def note(self, sound_s, taken_s):
        self.measured.append(sound_s)


@pytest.mark.parametrize("options", [{}, {"lookahead": 3}, {"centred": True}], ids=str)
def test_blocks_of_any_pace_say_the_whole_and_each_is_measured(tmp_path, options):
    recognizer, pace = make_recognizer(tmp_path, **options), Alternating()
    samples = sound(30.0, seed=6)
    whole, _ = recognizer.log_probs([samples])
    blocks = [samples[at : at + 100_001] for at in range(0, len(samples), 100_001)]
    config = recognizer.model.config
    parts = list(long_audio.posteriors(blocks, recognizer.backend, config, recognizer.log_probs, pace=pace))
    torch.testing.assert_close(np.concatenate(parts), whole[0], atol=1e-4, rtol=0)
    assert len(parts) == len(pace.measured) + 1  # and the end
    assert sum(pace.measured) == pytest.approx(30.0)
    assert len({round(each, 3) for each in pace.measured}) >= 4


def test_utterances_hold_every_row_that_may_speak():
    silence = spell(100, {})
    speech = spell(40, {3: 1, 9: 2, 30: 3})
    parts = [silence, speech, silence[:20], speech, silence, silence, silence, speech]
    rules = Endpoint(silence_s=0.9, longest_s=9.0)
    found = list(long_audio.utterances(iter(parts), 0.03, rules))
    assert [start for start, _ in found] == [0, 162, 222, 522]
    whole = np.concatenate(parts)
    for start, rows in found:
        torch.testing.assert_close(rows, whole[start : start + len(rows)])
    spoken = [int(row) for row in (whole.argmax(1) != 0).nonzero()[0]]
    covered = {row for start, rows in found for row in range(start, start + len(rows))}
    assert covered.issuperset(spoken)


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(long_audio, "LONG_S", 4.0)


def test_long_recordings_are_transcribed_in_order_beside_short_ones(
    recognizer, bursts, write_wav, tmp_path, short_pieces
):
    lengths = [3.0, 9.0, 3.5, 20.0]
    paths = [write_wav(tmp_path / f"{i}.wav", bursts(s, seed=i)) for i, s in enumerate(lengths)]
    broken = tmp_path / "broken.wav"
    broken.write_bytes(paths[3].read_bytes()[:400_000])
    order = [paths[0], paths[1], broken, paths[2], paths[3]]
    results = dict(recognizer.transcribe_many([Recording(p, p.name) for p in order]))
    assert [item.name for item in results] == [p.name for p in order]
    for item, result in results.items():
        if item.name == "broken.wav":
            assert isinstance(result, AudioError)
            assert "broken.wav" in str(result)
        else:
            assert result.text == recognizer.transcribe(item.source).text
            assert result.duration_s == pytest.approx(lengths[int(item.name[0])], abs=1e-4)
            assert result.text == " ".join(w.text for w in result.words)
            starts = [w.start_s for w in result.words]
            assert starts == sorted(starts)
            assert all(w.start_s < w.end_s <= result.duration_s for w in result.words)


@pytest.mark.parametrize("rate", [16000, 22050])
def test_no_word_is_lost_or_doubled_in_a_long_recording(rate):
    """The bundled model on its sample, said twenty times with pauses, as a recording of over a minute."""
    said = read.load_audio(ROOT / "egs" / "sample.wav", rate)
    words = (ROOT / "egs" / "sample.txt").read_text(encoding="utf-8").split()
    rng = np.random.default_rng(3)
    parts, starts, at = [], [], 0
    for _ in range(24):
        pause = np.zeros(int(rng.uniform(0.2, 2.0) * rate), np.float32)
        parts += [pause, said]
        starts.append((at + len(pause)) / rate)
        at += len(pause) + len(said)
    whole = np.concatenate(parts)
    assert len(whole) / rate > long_audio.LONG_S
    result = asr.load("an4", beam=1).transcribe(whole, sample_rate_hz=rate)
    assert [w.text for w in result.words] == words * 24
    assert result.duration_s == pytest.approx(len(whole) / rate, abs=1e-3)
    for word, start in zip(result.words[:: len(words)], starts, strict=True):
        assert start <= word.start_s <= start + 0.5


def test_a_segment_of_a_long_file_is_that_segment(recognizer, bursts, write_wav, tmp_path, short_pieces):
    samples = bursts(20.0, seed=8)
    path = write_wav(tmp_path / "x.wav", samples)
    ((_, part),) = recognizer.transcribe_many([Recording(path, "x", 3.0, 15.0)])
    expected = recognizer.transcribe(soundfile.read(path, dtype="float32")[0][3 * RATE : 15 * RATE])
    assert (part.text, part.duration_s) == (expected.text, 12.0)


def test_a_pipe_is_read_once(recognizer, bursts, write_wav, tmp_path, short_pieces):
    path = write_wav(tmp_path / "x.wav", bursts(9.0, seed=2))

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.file = path.open("rb")

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.file.readinto(buffer)

    expected = recognizer.transcribe(path)
    assert recognizer.transcribe(Pipe()).text == expected.text
    ((item, result),) = recognizer.transcribe_many([Recording(Pipe(), "pipe")])
    assert (item.name, result.text) == ("pipe", expected.text)


def test_alignment_of_a_long_recording(recognizer, bursts, short_pieces):
    samples = bursts(12.0, seed=4)
    text = recognizer.transcribe(samples).text
    aligned = recognizer.align(samples, text)
    assert aligned.text == text
    assert all(0 <= w.start_s < w.end_s <= 12.0 for w in aligned.words)


@pytest.mark.parametrize("limit", [1.0, 7.0])
def test_a_longest_duration_is_kept(model_dir, bursts, write_wav, tmp_path, short_pieces, limit):
    path = write_wav(tmp_path / "x.wav", bursts(9.0, seed=2))
    limited = asr.load(model_dir, max_duration_s=limit)
    with pytest.raises(LengthLimitError, match=r"x\.wav: expected at most max_duration_s="):
        limited.transcribe(path)
    with pytest.raises(ConfigError, match="max_duration_s: expected > 0"):
        asr.load(model_dir, max_duration_s=0)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_file_in_blocks_is_the_file(tmp_path, rate):
    samples = np.stack([sound(3.0, rate, 1), sound(3.0, rate, 2)], axis=1)
    path = tmp_path / "x.flac"
    soundfile.write(path, samples, rate)
    for options in ({}, {"start_s": 1.0}, {"start_s": 0.5, "end_s": 2.0}):
        whole = read.load_audio(path, RATE, **options)
        parts = np.concatenate(list(read.stream_audio(path, RATE, **options)))
        assert abs(len(whole) - len(parts)) <= 1
        # A segment's first samples have no filter context when it is read as a stream.
        edge = 0 if rate == RATE or "start_s" not in options else 400
        stop = min(len(whole), len(parts)) - (400 if "end_s" in options and rate != RATE else 0)
        np.testing.assert_allclose(parts[edge:stop], whole[edge:stop], atol=1e-4)
    with pytest.raises(TooLongError):
        list(read.stream_audio(path, RATE, max_duration_s=2.0))
    with pytest.raises(AudioError, match="expected a segment inside"):
        list(read.stream_audio(path, RATE, start_s=5.0))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_recording(model_dir, tmp_path, bursts):
    """Peak memory of 2 and of 20 minutes, each in a process of its own."""
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import torch
        torch.set_num_threads(1)
        import asr
        print(asr.load(sys.argv[1]).transcribe(sys.argv[2]).duration_s)
        # Not ru_maxrss, which begins with that of the process that started this one.
        print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
        """
    )
    peaks = []
    for minutes in (2, 20):
        path = tmp_path / f"{minutes}.flac"
        soundfile.write(path, np.tile(bursts(60.0, seed=1), minutes), RATE)
        command = [sys.executable, "-c", code, str(model_dir), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=True)
        seconds, peak = done.stdout.split()
        assert float(seconds) == 60 * minutes
        peaks.append(int(peak))
    assert peaks[1] < 1.1 * peaks[0]
