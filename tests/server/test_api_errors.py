"""Errors of the package as answers of the server."""

import numpy as np
import pytest

import asr
from asr.errors import AudioError
from asr.recognize import long_audio
from asr.server.api_errors import api_error


@pytest.mark.parametrize("limit_s", [1.0, 7.0])
def test_a_file_above_the_limit_has_its_code_below_and_above_the_length_that_is_read_in_pieces(monkeypatch, limit_s):
    monkeypatch.setattr(long_audio, "LONG_S", 4.0)
    recognizer = asr.load("an4", max_duration_s=limit_s)
    with pytest.raises(AudioError) as refused:
        recognizer.transcribe(np.zeros(8 * recognizer.sample_rate_hz, np.float32))
    assert (api_error(refused.value).status, api_error(refused.value).code) == (400, "audio_too_long")


def test_a_file_that_is_no_audio_has_another_code():
    assert api_error(AudioError("a.wav: expected audio, got an empty file")).code == "invalid_audio"
