"""Recurrent speech recognition: log-mel features, deep (bi)directional recurrent networks, CTC, beam search, WER.

``asr.load().transcribe("recording.wav")`` is the shortest way in; see README.md.
"""

from __future__ import annotations

__version__ = "0.1.0"
