"""What counts as an error when texts are scored: case, punctuation, alternatives, costs."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import asdict, dataclass
from typing import Any

from asr.errors import ManifestError
from asr.scoring.alternatives import LEVENSHTEIN, SCLITE, Costs, folded


@dataclass(frozen=True)
class Rules:
    """What counts as an error, and how words are aligned.

    ``ignore_case``: compare case-folded texts (``ß`` is ``ss``). ``ignore_punctuation``: leave punctuation out (Unicode
    category P), save apostrophes inside words and points inside numbers; dashes and slashes between letters divide
    words. ``alternatives``: ``{ a / b }`` in references are readings and not words. ``optional``: ``(word)`` in
    references may be missing, and then counts as right. ``costs``: the costs that the alignment minimises.
    """

    ignore_case: bool = False
    ignore_punctuation: bool = False
    alternatives: bool = True
    optional: bool = False
    costs: Costs = LEVENSHTEIN

    def text(self, text: str, *, reference: bool = False) -> str:
        """``text`` as it is scored. In a reference the notation stays."""
        if self.ignore_case:
            text = text.casefold()
        text = unicodedata.normalize("NFC", text)
        if self.ignore_punctuation:
            notation = {"alternatives": self.alternatives, "optional": self.optional} if reference else {}
            text = folded(text, **notation)
        return " ".join(text.split())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, tree: Any) -> Rules:
        """What ``to_dict`` gave. Raises ``ManifestError`` for anything else."""
        expected = DEFAULT_RULES.to_dict()
        costs = tree.get("costs") if isinstance(tree, dict) else None
        for found, known in ((tree, expected), (costs, expected["costs"])):
            kinds = {name: type(value) for name, value in found.items()} if isinstance(found, dict) else None
            if kinds != {name: type(value) for name, value in known.items()}:
                raise ManifestError(
                    f"rules: expected {json.dumps(expected)} or other values of these, got {tree!r:.200}"
                )
        return cls(**tree | {"costs": Costs(**tree["costs"])})

    def __str__(self) -> str:
        """As options of the command line."""
        words = [f"--{name.replace('_', '-')}" for name in ("ignore_case", "ignore_punctuation") if getattr(self, name)]
        words += ["--optional"] * self.optional + ["--literal"] * (not self.alternatives)
        known = {LEVENSHTEIN: "levenshtein", SCLITE: "sclite"}
        words += ["--costs " + known.get(self.costs, str(self.costs))] if self.costs != LEVENSHTEIN else []
        return " ".join(words) or "the usual rules"


DEFAULT_RULES = Rules()
LITERAL_RULES = Rules(alternatives=False)
"""For texts to train and tune on, whose braces are characters like any other."""
