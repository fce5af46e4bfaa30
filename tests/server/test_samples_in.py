"""Bytes of clients as samples."""

import io

import numpy as np
import pytest
import soundfile

from asr.errors import ConfigError
from asr.server.samples_in import as_samples


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_g711_is_decoded_as_libsndfile_does(encoding, subtype):
    every = bytes(range(256))
    options = {"samplerate": 8000, "channels": 1, "format": "RAW", "subtype": subtype}
    expected, _ = soundfile.read(io.BytesIO(every), dtype="float32", **options)
    np.testing.assert_allclose(as_samples(every, encoding), expected, atol=1e-7)


def test_sixteen_bits_span_minus_one_to_one():
    assert as_samples(np.array([-32768, 0, 16384], "<i2").tobytes(), "s16le").tolist() == [-1.0, 0.0, 0.5]


def test_floats_stay_as_they_are():
    assert as_samples(np.array([0.25, -1.0], "<f4").tobytes(), "f32le").tolist() == [0.25, -1.0]


def test_an_unknown_encoding_is_named():
    with pytest.raises(ConfigError, match="expected one of s16le, mulaw, alaw, f32le, got 'opus'"):
        as_samples(b"", "opus")
