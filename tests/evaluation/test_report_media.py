"""Sounds and pictures of the report: what they hold is read again by other programs."""

import io

import numpy as np
import pytest
import soundfile

from asr.config.sections import TextConfig
from asr.evaluation.report_media import as_opus, as_png, draw_posteriors
from asr.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(["<blank>", " ", *"ABCD"], TextConfig())


@pytest.mark.parametrize("rate_hz", [8000, 16000, 11025, 44100])
def test_opus_holds_the_sound(rate_hz):
    time = np.arange(3 * rate_hz) / rate_hz
    sound = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    found, found_hz = soundfile.read(io.BytesIO(as_opus(sound, rate_hz)), dtype="float32")
    assert len(found) / found_hz == pytest.approx(3.0, abs=0.03)
    spectrum = np.abs(np.fft.rfft(found))
    assert np.fft.rfftfreq(len(found), 1 / found_hz)[spectrum.argmax()] == pytest.approx(440, abs=2)


def test_a_long_sound_is_written_whole():
    sound = np.random.default_rng(0).normal(0, 0.05, 16000 * 100).astype(np.float32)
    assert soundfile.info(io.BytesIO(as_opus(sound, 16000))).duration == pytest.approx(100, abs=0.03)


def pixels(png: bytes) -> np.ndarray:
    """Opacities 0 to 1 of a PNG, by matplotlib."""
    pyplot = pytest.importorskip("matplotlib.image", reason="matplotlib reads the PNG")
    return pyplot.imread(io.BytesIO(png))[:, :, 3]


def test_a_png_holds_the_opacities():
    opacity = np.random.default_rng(1).integers(0, 256, (7, 33)).astype(np.uint8)
    assert np.rint(255 * pixels(as_png(opacity))).astype(np.uint8).tolist() == opacity.tolist()


def test_tokens_stand_in_the_order_of_their_peaks_above_blank():
    posteriors = np.full((6, 6), 0.01)
    for frame, token in enumerate([0, 4, 0, 2, 0, 0]):
        posteriors[frame, token] = 0.95
    picture = draw_posteriors(np.log(posteriors), TOKENIZER, 0.04)
    assert picture.tokens == ("C", "A", "blank")
    assert pixels(picture.png).tolist() == pytest.approx(posteriors[:, [4, 2, 0]].T, abs=0.003)
    assert picture.frame_s == 0.04


def test_a_long_utterance_shares_columns_that_keep_the_peaks():
    posteriors = np.full((7001, 6), 1e-4)
    posteriors[:, 0] = 0.99
    posteriors[5000, 3] = 0.9
    picture = draw_posteriors(np.log(posteriors), TOKENIZER, 0.04)
    assert picture.frame_s == pytest.approx(0.12)
    image = pixels(picture.png)
    assert image.shape == (2, 2334)
    assert image[0].argmax() == 5000 // 3
    assert image[0].max() == pytest.approx(0.9, abs=0.003)


def test_impossible_tokens_have_no_row():
    picture = draw_posteriors(np.log(np.eye(6)[[0, 1, 0]] + 1e-300), TOKENIZER, 0.04)
    assert picture.tokens == ("space", "blank")
