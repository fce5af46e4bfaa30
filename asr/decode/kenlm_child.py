"""Runs KenLM in a process of its own for ``asr.decode.kenlm_binary``: JSON lines in and out.

It is run as a file and imports nothing of this package, so that it starts at once.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any


def serve_parent(path: str) -> None:
    """Say what the model is, then score the words of each line of standard input; ends with it."""
    # Ctrl-C is meant for the parent, which may have results to save; its end closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import kenlm

    try:
        model = kenlm.Model(path)
    except Exception as error:  # kenlm quotes the file's bytes, which may be no text
        _say({"error": str(error)})
        return
    empty, start = kenlm.State(), kenlm.State()
    model.NullContextWrite(empty)
    model.BeginSentenceWrite(start)
    _say({"order": model.order, "unknown": model.BaseScore(empty, "<unk>", kenlm.State())})
    for line in sys.stdin:
        scores: list[tuple[float, bool]] = []
        state = start
        for word in json.loads(line):
            # Word by word: by the sentence, KenLM would cut words at vertical tabs.
            before, state = state, kenlm.State()
            found = model.BaseFullScore(before, word.encode("utf-8", "replace").decode(), state)
            scores.append((found.log_prob, found.oov))
        _say(scores)


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[2])
    serve_parent(sys.argv[1])
