"""Errors a user can act on.

Every message says what was expected, what came, which file or utterance is concerned, and what to do. The command line
prints the message without a traceback; anything that is not an ``AsrError`` is a bug in this package and keeps its
traceback.
"""

from __future__ import annotations


class AsrError(Exception):
    """Base of all errors this package raises on purpose."""


class AudioError(AsrError):
    """Audio that is missing, unreadable or too short, or that holds impossible values."""


class ForeignError(AudioError):
    """Audio in a container or coding that libsndfile does not read."""


class TooLongError(AudioError):
    """Audio that is longer than the limit of one way of reading it."""


class LengthLimitError(AudioError):
    """Audio that is longer than ``max_duration_s``, which no way of reading it may exceed."""


class CloudError(AsrError):
    """An input at a URL that cannot be reached, listed or read."""


class TextError(AsrError):
    """Text that the tokenizer cannot spell under the rules of the configuration."""


class ManifestError(AsrError):
    """A manifest or transcript file that is malformed, or does not match its partner."""


class ConfigError(AsrError):
    """A configuration with an unknown key, a value of the wrong type, or contradictory values."""


class ModelError(AsrError):
    """A model directory or checkpoint that is missing, damaged, or of another architecture."""


class DecodeError(AsrError):
    """A matrix that a decoder cannot take: wrong shape, not normalised, or not finite."""


class OutputError(AsrError):
    """An output that would overwrite a file that this package did not write."""


class TrainingError(AsrError):
    """Training that cannot start or cannot continue."""


class PlotError(AsrError):
    """A picture that cannot be drawn: matplotlib missing, nothing to show, or nowhere to write."""
