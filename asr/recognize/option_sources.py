"""Finds which decoding options apply, where each comes from, and whether calibrated confidences hold for them."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from asr.decode import confidence
from asr.decode.confidence import Calibration
from asr.decode.judgement import Judge
from asr.lm import lm_directory
from asr.lm.lm_directory import name_of
from asr.models.bundled import bundle_folder, bundled_models, model_file
from asr.recognize.options import DEFAULT_BEAM, SEARCHING, WIDE, Decoding, load_options

GIVEN, DIRECTORY, DEFAULT = "given", "model directory", "default"
"""Where an option comes from."""
RESETS = {
    "lm": ("lm_weight", "lm_adapt", "lm_carry", "word_bonus", "blank_penalty", "lexicon", "unknown_penalty"),
    "lexicon": ("unknown_penalty",),
    "rescore": ("rescore_weight", "rescore_keep"),
}
"""Options that belong to the file that another option names: a model directory's values were chosen for its own file,
so that they fall back to their defaults where another file is named."""
PRUNING = {"token_threshold", "beam_threshold", "blank_threshold"}
"""Options that make the search faster and seldom change a word."""


@dataclass(frozen=True)
class Choice:
    """Options of decoding with the source of each: ``GIVEN``, ``DIRECTORY`` or ``DEFAULT``."""

    options: Decoding
    origins: Mapping[str, str]

    def describe(self, given: str = GIVEN) -> str:
        """A line for each option: name, value, origin; ``given`` says in the user's words who named it."""
        return "\n".join(
            f"{name:<17}{_shown(getattr(self.options, name))}  ({given if origin == GIVEN else origin})"
            for name, origin in self.origins.items()
        )


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{word}:{boost:g}" for word, boost in value.items()) or "none"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "none" if isinstance(value, str | int) else name_of(value)


def merge(folder: Path, **given: Any) -> Choice:
    """The options of a model directory with those in ``given`` that are not None put over them.

    An option changes itself alone, but for those of ``RESETS``: naming a file drops what the directory holds for its
    own file. ``beam=1`` asks for greedy decoding, also against the directory; a language model or hot words without a
    beam get one of 16. ``lm`` and ``rescore`` may name a bundled model, whose language model is meant. ``phrases`` and
    searching exclude each other: what is asked for replaces what the directory says. Raises ``ConfigError`` as
    ``load_options`` and for a value out of range.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    asked |= {name: _of_bundled(asked[name]) for name in ("lm", "rescore") if name in asked}
    alone = asked.get("beam") == 1 or asked.get("phrases")
    saved = load_options(folder)
    if alone or (saved.phrases and any(asked.get(name) for name in (*SEARCHING, "beam"))):
        saved = Decoding(language=saved.language)
    default = Decoding()
    reset = {belonging for name in asked for belonging in RESETS.get(name, ())}
    values = {
        field.name: getattr(default if field.name in reset else saved, field.name)
        for field in dataclasses.fields(Decoding)
    }
    origins = {name: DEFAULT if value == getattr(default, name) else DIRECTORY for name, value in values.items()}
    if "beam" not in asked and saved.beam == 1 and any(asked.get(name) for name in WIDE):
        values["beam"] = DEFAULT_BEAM
    return Choice(Decoding(**values | asked), origins | dict.fromkeys(asked, GIVEN))


def _of_bundled(place: Any) -> Any:
    """The language model of a bundled model that is named instead of a file; anything else as it is."""
    if isinstance(place, list | tuple):
        return tuple(map(_of_bundled, place))
    if not isinstance(place, str) or os.path.exists(place) or place not in bundled_models():
        return place
    return load_options(bundle_folder() / place).lm or place


def choose(folder: Path, **given: Any) -> Decoding:
    """The options of ``merge`` alone."""
    return merge(folder, **given).options


def conditions(options: Decoding, named: Callable[[str | Path], Any] = lm_directory.fingerprint) -> dict[str, Any]:
    """What the confidences of words depend on beside the model: every option that is in force and more than pruning.

    Language models and lexicons are named by the checksum of their content, so that a copy is the same, or by
    ``named``. Plain values for JSON; infinite numbers are None.
    """
    if options.beam == 1:
        return {"beam": 1}
    idle = set(PRUNING)
    idle |= set() if options.lm else {"lm_weight", "lm_adapt", "lm_carry"}
    idle |= set() if options.hotwords else {"language"}
    idle |= set() if options.rescore else {"rescore_weight", "rescore_keep", "nbest"}
    idle |= set() if options.lm or options.lexicon else {"unknown_penalty"}
    found: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(Decoding) if field.name not in idle):
        value = getattr(options, name)
        if value == getattr(Decoding(), name) and name not in ("lm_weight", "rescore_weight"):
            continue
        if name in ("lm", "rescore", "lexicon"):
            value = _named(value, named)
        value = list(value) if isinstance(value, tuple) else value
        found[name] = value if not isinstance(value, float) or math.isfinite(value) else None
    return found


def text_conditions(options: Decoding) -> dict[str, Any]:
    """``conditions`` of a fit to decoded text. Language models and lexicons are named by their size in bytes: a start
    has no time for checksums of them."""
    return conditions(options, _size)


def _size(place: str | Path) -> int:
    """Bytes of a file, or of the files in a directory."""
    if os.path.isdir(place):
        return sum(os.path.getsize(one.path) for one in os.scandir(place) if os.path.isfile(one.path))
    return os.path.getsize(place)


def _named(place: Any, name: Callable[[str | Path], Any]) -> Any:
    """The name of a file or directory, or of each of several; anything else, also what is missing or a pipe, which can
    be read once, has none and is like nothing else."""
    if isinstance(place, tuple):
        return [_named(one, name) for one in place]
    if isinstance(place, lm_directory.LanguageDirectory):
        place = place.path
    if not isinstance(place, str | Path):
        return f"{name_of(place)} {id(place)}"
    if not (os.path.isfile(place) or os.path.isdir(place)):
        return f"no checksum: {place}"
    return name(place)


class Confidences(NamedTuple):
    """The confidence settings of a model directory.

    ``calibration``: fitted to the confidences of words. ``threshold``: if the mean confidence of a text, before
    calibration, is below it, the model may not know this kind of speech; a calibration holds only for speech like the
    speech that it was fitted on. ``remark``: why a calibration was left out. ``judge``: says instead of ``threshold``
    whether a text is reliable, where it was fitted.
    """

    calibration: Calibration | None = None
    threshold: float | None = None
    remark: str = ""
    judge: Judge | None = None

    def describe(self) -> str:
        """A line for people, as those of ``Choice.describe``."""
        doubt = "" if self.threshold is None else f", doubtful below {self.threshold:.2f}"
        if self.judge is not None:
            doubt = f", texts reliable from {(self.judge.decoded or self.judge).threshold:.3f}"
        source = "the model's own" if self.calibration is None else "fitted to held-out speech"
        return f"{'confidences':<17}{source}{doubt}"


def confidences(folder: Path, options: Decoding) -> Confidences:
    """What a model directory says of the confidences of words that are decoded so.

    A calibration is left out, with a remark, where it was fitted for another language model or other options; one that
    does not say for which is used. Phrases have neither. Raises ``ModelError`` for a damaged file.
    """
    # A phrase's confidence is its share of the probability of all of them, which is another thing.
    if options.phrases:
        return Confidences()
    folder = model_file(folder, confidence.CONFIDENCE_FILE).parent
    calibrations, threshold, judge = confidence.load_confidences(folder)
    if judge is not None and judge.decoded is not None and judge.decoded.fitted_for != text_conditions(options):
        judge = dataclasses.replace(judge, decoded=None)
    found = calibrations.get("greedy" if options.beam == 1 else "beam")
    if found is None or found.fitted_for is None:
        return Confidences(found, threshold, judge=judge)
    here = conditions(options)
    if found.fitted_for == here:
        return Confidences(found, threshold, judge=judge)
    other = ", ".join(
        sorted(name for name in here.keys() | found.fitted_for if here.get(name) != found.fitted_for.get(name))
    )
    return Confidences(
        None,
        threshold,
        f"{folder / confidence.CONFIDENCE_FILE}: not used, because it was fitted with other options ({other} differ); "
        "word confidences are the model's own. asr calibrate fits them to the options that you give it",
        judge,
    )
