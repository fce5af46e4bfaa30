"""``asr report``: an evaluation as one HTML page that shows what is wrong, with sounds and posteriors."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

import asr
from asr import files
from asr.audio.read import load_audio
from asr.audio.samples import Samples
from asr.cloud.addresses import is_url
from asr.errors import AsrError, AudioError, ManifestError
from asr.evaluation.evaluation_file import EvaluationFile, UtteranceDetails, join_evaluations
from asr.evaluation.report_media import PosteriorPicture, as_opus, draw_posteriors
from asr.evaluation.report_page import build_page, data_uri, is_report_page
from asr.evaluation.report_statistics import (
    comparison_figures,
    errors_of_words,
    groups,
    overall,
    utterance_rows,
    word_table,
    worst,
)
from asr.scoring.comparison import Comparison, compare

if TYPE_CHECKING:
    from asr.recognize.engine import Engine

EMBEDDED = 200
"""Utterances whose sound and posteriors stand in the page itself."""
_TOGETHER = 32
"""Utterances that go through the network at once."""
LISTENED_HZ = 16000
"""Rate of the sounds where no model asks for another."""
_FILE_NAME = re.compile(r"\d{6}\.(opus|png)")
"""Names of the files in the folder of a page."""
LONGEST_SOUND_S = 120.0
"""Longer utterances are linked, not embedded, and have no picture."""


@dataclass(frozen=True)
class ReportOptions:
    """How a page is made.

    ``embedded``: utterances, the worst first, whose sound and posteriors stand in the page. ``model``: a model
    directory or bundled name that gives the posteriors; None takes the evaluation's own, ``none`` leaves them out.
    ``engine``: the same, already loaded. ``folder``: where sounds and posteriors of all other utterances are written,
    to be linked; without it the page links their recordings.
    """

    title: str = ""
    embedded: int = EMBEDDED
    model: str | None = None
    device: str = "auto"
    engine: Engine | None = None
    folder: Path | None = None


def write_report(
    evaluations: Sequence[EvaluationFile],
    path: str | Path,
    others: Sequence[EvaluationFile] = (),
    options: ReportOptions | None = None,
) -> list[str]:
    """Write the page of an evaluation, or of several of one model on different corpora, to ``path``.

    ``others``: evaluations of the same utterances by another model, to stand beside the first with paired tests.
    Returns what is missing in the page and why, a line each: unreadable recordings, a model that is not there.

    Raises ``ManifestError`` where ``others`` are not of the same utterances and references, or have other rules, and
    ``AsrError`` naming ``path`` where it cannot be written.
    """
    options = options or ReportOptions()
    first = join_evaluations(evaluations)
    second = join_evaluations(others) if others else None
    found = _compared(first, second) if second else None
    notes: list[str] = []
    data = _data(first, second, found, options)
    media = _Media(Path(path), first, options, notes).add(data["utterances"])
    data["notes"] = notes
    files.write_text(path, build_page(data, media))
    return notes


def check_page(path: Path, *, force: bool = False) -> None:
    """Refuse a page that cannot be written, before the work. Raises ``AsrError``."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise AsrError(f"{path}: expected the name of a page, such as report.html; the page is named last")
    files.check_report(path)
    files.check_output(path, force=force, ours=is_report_page)


def check_linked_folder(folder: Path, *, force: bool = False) -> None:
    """Refuse a folder for sounds and pictures that holds anything else. Raises ``AsrError``."""

    def ours(path: Path) -> bool:
        return os.path.isdir(path) and all(_FILE_NAME.fullmatch(name) for name in os.listdir(path))

    files.check_output(folder, force=force, ours=ours)


def _compared(first: EvaluationFile, second: EvaluationFile) -> Comparison:
    rules = first.report.rules, second.report.rules
    if rules[0] != rules[1]:
        raise ManifestError(
            f"{first.path}, {second.path}: expected evaluations that were scored by the same rules, got {rules[0]} and "
            f"{rules[1]}"
        )
    ours, theirs = ({u.id for u in entry.report.utterances} for entry in (first, second))
    if ours != theirs:
        told = [_only_in(first.path, ours - theirs, second), _only_in(second.path, theirs - ours, first)]
        raise ManifestError(
            f"expected evaluations of the same utterances, got {'; '.join(filter(None, told))}; evaluate both "
            "models on one manifest, without the utterances that only one of them can transcribe"
        )
    try:
        return compare(first.report, second.report)
    except ManifestError as error:
        raise ManifestError(f"{first.path}, {second.path}: {error}") from error


def _only_in(path: str, names: set[str], other: EvaluationFile) -> str:
    """Names the utterances that only one evaluation has, and the reason, if it is known."""
    if not names:
        return ""
    name = min(names)
    why = f": {other.path} could not transcribe it: {other.failures[name][:200]}" if name in other.failures else ""
    return f"{len(names)} only in {path}, such as {name!r}{why}"


def _data(
    first: EvaluationFile, second: EvaluationFile | None, found: Comparison | None, options: ReportOptions
) -> dict[str, Any]:
    """What the page shows, without sounds and pictures."""
    names = [_name_of(entry) for entry in (first, second) if entry]
    if len(names) == 2 and names[0] == names[1]:  # the same model, decoded in two ways
        names = [Path(entry.path).stem for entry in (first, second) if entry]
    return {
        "title": options.title or " and ".join(sorted(set(first.corpora.values()))[:3]) or "Evaluation",
        "made_by": f"asr {asr.__version__}",
        "names": names,
        "settings": [_setting(entry) for entry in (first, second) if entry],
        "overall": [overall(entry.report) for entry in (first, second) if entry],
        "comparison": comparison_figures(found) if found else None,
        "groups": groups(first, second.report if second else None),
        "words": word_table(first.report, first.outside),
        "errors": errors_of_words(first.report, first.outside),
        "failures": sorted(first.failures.items()),
        "utterances": utterance_rows(first, second),
    }


def _name_of(evaluation: EvaluationFile) -> str:
    return Path(evaluation.model).name if evaluation.model else Path(evaluation.path).stem


def _setting(evaluation: EvaluationFile) -> list[list[str]]:
    """What an evaluation was made of, as names and values."""
    rows = {
        "Model": evaluation.model,
        "Manifest": evaluation.manifest,
        "Read from": "" if evaluation.manifest else evaluation.path,
        "Scored by": str(evaluation.report.rules),
        "Decoding": ", ".join(f"{name} {value}" for name, value in evaluation.decoding.items())
        or ("greedy" if evaluation.model else ""),
        "Audio": _duration(evaluation.audio_s),
        "Speed": f"{evaluation.seconds / evaluation.audio_s:.3f} times real time"
        if evaluation.audio_s and evaluation.seconds is not None
        else "",
        "Streamed": "yes" if evaluation.streamed else "",
    }
    return [[name, value] for name, value in rows.items() if value]


def _duration(seconds: float | None) -> str:
    if not seconds:
        return ""
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


class _Media:
    """Sounds and pictures of the utterances of one page."""

    def __init__(self, page: Path, evaluation: EvaluationFile, options: ReportOptions, notes: list[str]) -> None:
        self.page = page
        self.evaluation = evaluation
        self.options = options
        self.notes = notes
        self.engine = options.engine
        self._unreadable: list[str] = []

    def add(self, rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """Give the rows of utterances their links; returns what is embedded, by the place of its row."""
        details = self.evaluation.details
        known = [row for row in rows if details[row["i"]].audio]
        if not known:
            self.notes.append("The evaluation does not name its recordings: there are no sounds and no posteriors.")
            return {}
        places = {row["i"]: place for place, row in enumerate(rows)}
        chosen = [
            name
            for name in worst(self.evaluation.report.utterances, self.options.embedded)
            if details[name].audio and (details[name].duration_s or 0.0) <= LONGEST_SOUND_S
        ]
        rest = [row["i"] for row in known if row["i"] not in set(chosen)]
        if chosen or self.options.folder:
            self._load()
        media = {}
        for name, opus, picture in self._made(chosen, "embedding"):
            media[places[name]] = {"audio": data_uri(opus, "audio/ogg")} | _embedded(picture)
        if self.options.folder:
            self._write(rest, rows, places)
        else:
            for name in rest:
                rows[places[name]] |= self._linked(details[name])
        self._report_unreadable()
        return media

    def _load(self) -> None:
        """Load the model of the posteriors; where there is none a note says so."""
        model = self.options.model or self.evaluation.model
        if self.engine is not None or model == "none":
            return
        if not model:
            self.notes.append("No posteriors: the evaluation names no model, or several; name one with --model.")
            return
        from asr.recognize.engine import Engine
        from asr.recognize.loading import load_any
        from asr.recognize.options import Decoding

        try:
            self.engine = Engine(load_any(model), device=self.options.device, decoding=Decoding())
        except AsrError as error:
            if self.options.model:  # asked for by name
                raise
            self.notes.append(f"No posteriors: {error}")

    def _made(self, names: Sequence[str], title: str) -> Iterator[tuple[str, bytes, PosteriorPicture | None]]:
        """Sound and picture of utterances, in their order; those that cannot be read are left out."""
        rate_hz = self.engine.sample_rate_hz if self.engine else LISTENED_HZ
        with tqdm(total=len(names), desc=title, unit="utterance", disable=None, leave=False) as bar:
            for at in range(0, len(names), _TOGETHER):
                sounds = {name: samples for name in names[at : at + _TOGETHER]
                          if (samples := self._sound(name, rate_hz)) is not None}  # fmt: skip
                pictures = self._pictures(sounds)
                for name, samples in sounds.items():
                    yield name, as_opus(samples, rate_hz), pictures.get(name)
                bar.update(len(names[at : at + _TOGETHER]))

    def _sound(self, name: str, rate_hz: int) -> Samples | None:
        found = self.evaluation.details[name]
        try:
            return load_audio(
                found.audio, rate_hz, start_s=found.start_s, end_s=found.end_s, channel=found.channel,
                max_duration_s=LONGEST_SOUND_S,
            )  # fmt: skip
        except AudioError as error:
            self._unreadable.append(f"{name}: {error}")
            return None

    def _pictures(self, sounds: dict[str, Samples]) -> dict[str, PosteriorPicture]:
        if self.engine is None or not sounds:
            return {}
        least = self.engine.model.config.features.least_samples
        long_enough = {name: samples for name, samples in sounds.items() if len(samples) >= least}
        from asr.recognize.pipeline import cut_batches

        names = list(long_enough)
        found = {}
        most_samples = self.engine.batch_s * self.engine.sample_rate_hz
        for batch in cut_batches(dict(enumerate(long_enough.values())), lambda: most_samples):
            log_probs, frames = self.engine.log_probs([long_enough[names[place]] for place in batch])
            for place, matrix, count in zip(batch, log_probs, frames.tolist(), strict=True):
                picture = draw_posteriors(matrix[:count], self.engine.model.tokenizer, self.engine.frame_s)
                found[names[place]] = picture
        return found

    def _linked(self, details: UtteranceDetails) -> dict[str, Any]:
        """A link to the recording itself; ``k``: the utterance is a part of it."""
        link: dict[str, Any] = {"u": self._address(details.audio)}
        return link | ({"k": 1} if details.start_s or details.end_s is not None else {})

    def _write(self, names: Sequence[str], rows: list[dict[str, Any]], places: dict[str, int]) -> None:
        """Write sounds and pictures to the folder and link them."""
        folder = self.options.folder
        assert folder is not None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, opus, picture in self._made(names, f"writing to {folder}"):
                place = places[name]
                (folder / f"{place:06d}.opus").write_bytes(opus)
                rows[place]["u"] = self._address(folder / f"{place:06d}.opus")
                if picture is not None:
                    (folder / f"{place:06d}.png").write_bytes(picture.png)
                    rows[place]["v"] = [self._address(folder / f"{place:06d}.png"), picture.frame_s, picture.tokens]
        except OSError as error:
            raise AsrError(f"{folder}: cannot write: {error.strerror or error}") from error

    def _address(self, target: str | Path) -> str:
        """A file as seen from the page; every character that could begin another kind of address is escaped."""
        if is_url(target):
            return urllib.parse.quote(str(target), safe=":/?&=%")
        try:
            relative = os.path.relpath(target, self.page.absolute().parent)
        except ValueError:  # another drive
            return Path(target).absolute().as_uri()
        return "./" + urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))

    def _report_unreadable(self) -> None:
        if self._unreadable:
            count = len(self._unreadable)
            self.notes.append(f"{count} recordings could not be read and have no sound: {self._unreadable[0]}")


def _embedded(picture: PosteriorPicture | None) -> dict[str, Any]:
    if picture is None:
        return {}
    return {"picture": [data_uri(picture.png, "image/png"), picture.frame_s, picture.tokens]}
