"""Teachers: Whisper's texts as labels of speech without transcripts, and as a judge of synthetic speech.

    python recipes/english/teachers.py transcribe INPUT TEXTS --whisper FOLDER
    python recipes/english/teachers.py label OUT TEXTS TEXTS [--most-disagreement 0.1]
    python recipes/english/teachers.py judge MANIFEST OUT TEXTS… [--most-disagreement 0.25]

- ``transcribe`` runs a Whisper model on a manifest or a folder of audio, by ``faster-whisper`` (extra ``teacher``).
  FOLDER has its ``model.bin``, ``config.json`` and ``tokenizer.json``. TEXTS becomes a manifest with Whisper's texts,
  line by line; a run that was interrupted goes on there. TEXTS.model.json names the model: texts of another one are
  not mixed in.
- ``label`` writes a manifest of the recordings on which all teachers agree. Its texts are the first teacher's, spelled
  in the letters of the English models. Two models of different size make different errors: what both write is mostly
  right.
- ``judge`` writes those utterances of MANIFEST whose own text all teachers hear, and leaves their texts as they are.
  It drops synthetic utterances that were misspoken.

``--most-disagreement`` is a share of the characters. What is left out goes to OUT.left_out.txt, with the texts. The
exit status is 1 where some recordings failed, 2 where all failed or no utterance is left, and 130 after Ctrl-C.
"""

import argparse
import dataclasses
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from asr.audio.find import find_audio_files
from asr.audio.read import load_audio
from asr.config.arguments import number, whole
from asr.config.sections import TextConfig
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import AsrError, AudioError, ConfigError
from asr.files import check_output, file_sha256, hold_alone, read_object, remove_held, write_json, write_text
from asr.text.tokenizer import CharTokenizer
from asr.train.second_opinions import LabelSpeller, Opinion, compare_opinions

SAMPLE_RATE_HZ = 16000
SPELLING = TextConfig(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ'")
"""The letters of the models of this recipe."""
NUMERALS = re.compile(r"[0-9%$£€]")
Whisper = Callable[[np.ndarray], str]
"""Text of samples ``(S,)`` at 16 kHz."""


def load_whisper(folder: Path, threads: int) -> Whisper:
    """A Whisper model in the format of CTranslate2, as ``faster-whisper`` runs it. Raises ``ConfigError``."""
    try:
        from faster_whisper import WhisperModel  # a teacher is needed by few
    except ImportError as error:
        raise ConfigError("teachers need faster-whisper: pip install 'recurrent-asr[teacher]'") from error
    missing = [name for name in ("model.bin", "config.json", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder}: expected a Whisper model for faster-whisper, {', '.join(missing)} is missing; "
            "the README beside this script names packages that have one"
        )
    try:
        model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{folder}: faster-whisper cannot load this model: {error}") from error

    silenced = [-1, *numeral_tokens(model.hf_tokenizer)]  # -1: what Whisper leaves out by default

    def text(samples: np.ndarray) -> str:
        # Without the text before: an error would be passed on from one utterance to the next.
        segments, _ = model.transcribe(
            samples,
            language="en",
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            suppress_tokens=silenced,
        )
        return " ".join(segment.text.strip() for segment in segments)

    return text


def numeral_tokens(tokenizer: Any) -> list[int]:
    """Tokens with digits or signs of currencies and shares. Without them Whisper writes numbers in words, as they were
    said: 315 may be THREE FIFTEEN or THREE HUNDRED AND FIFTEEN."""
    return sorted(id for token, id in tokenizer.get_vocab().items() if NUMERALS.search(token) and "<|" not in token)


def recordings(place: str, problems: list[str]) -> list[Utterance]:
    """The utterances of a manifest, or the audio files of a folder, whose lengths are not known yet.

    The id of a file is its path in the folder without the ending, which stays where it tells two files apart.
    """
    if place.endswith(".jsonl"):
        return manifest.read_manifest(place)
    if not os.path.isdir(place):
        raise ConfigError(f"{place}: expected a manifest (.jsonl) or a folder of audio")
    found = find_audio_files(place, problems)
    if not found:
        raise ConfigError(f"{place}: expected a folder of audio, got one without any")
    paths = [path.relative_to(place) for path in found]
    stems = Counter(path.with_suffix("") for path in paths)
    ids = [str(path if stems[path.with_suffix("")] > 1 else path.with_suffix("")) for path in paths]
    return [Utterance(id, str(path.absolute()), "", 1.0) for id, path in zip(ids, found, strict=True)]


def transcribe(place: str, texts: Path, whisper: Whisper, model_sha256: str = "") -> list[str]:
    """Append what ``whisper`` hears of each recording to the manifest ``texts``; returns what failed.

    A recording that cannot be read, or on which Whisper fails, does not lose the others; the next run tries it again.

    Args:
        model_sha256: of the model, to refuse ``texts`` of another one; empty does not check.

    Raises:
        ConfigError: no recording has a text, ``texts`` is of other recordings or of another model, or another process
            writes it.
    """
    failures: list[str] = []
    waiting = recordings(place, failures)
    try:
        texts.parent.mkdir(parents=True, exist_ok=True)
        with texts.open("a", encoding="utf-8") as file:
            hold_alone(file, f"{texts}: another process writes its texts there; wait for it, or give another file")
            _drop_torn_line(texts)
            done = {u.id for u in manifest.read_manifest(texts)} if texts.stat().st_size else set()
            if foreign := done - {u.id for u in waiting}:
                raise ConfigError(f"{texts}: has texts of other recordings, such as {min(foreign)}; give a new file")
            _settle_model(texts, model_sha256)
            new = [u for u in waiting if u.id not in done]
            for utterance in tqdm(new, desc=texts.name, disable=None, leave=False):
                try:
                    heard = _heard(utterance, whisper)
                except (AudioError, ConfigError) as error:
                    failures.append(f"{utterance.id}: {error}")
                    continue
                file.writelines(manifest.records(texts, [heard]))
                file.flush()
                done.add(utterance.id)
            if not done:
                remove_held(file)
    except OSError as error:
        raise ConfigError(f"{texts}: cannot write: {error}; the same command goes on where this one stopped") from error
    if not done:
        raise ConfigError(
            f"{texts}: none of {len(waiting)} recordings has a text; the first: {failures[0] if failures else 'none'}"
        )
    return failures


def _heard(utterance: Utterance, whisper: Whisper) -> Utterance:
    """The utterance with Whisper's text. Raises ``AudioError`` for its audio, ``ConfigError`` where Whisper fails."""
    part = {"start_s": utterance.start_s, "end_s": utterance.end_s, "channel": utterance.channel}
    samples = load_audio(utterance.audio, SAMPLE_RATE_HZ, **part)
    try:
        text = whisper(samples)
    except Exception as error:  # faster-whisper's exceptions have no common base
        raise ConfigError(f"Whisper failed: {type(error).__name__}: {str(error)[:200]}") from error
    return dataclasses.replace(utterance, text=text, duration_s=round(len(samples) / SAMPLE_RATE_HZ, 3))


def _settle_model(texts: Path, sha256: str) -> None:
    """Write down which model makes the texts. Raises ``ConfigError`` where it was another one."""
    path = Path(f"{texts}.model.json")
    if sha256 and os.path.exists(path) and texts.stat().st_size:
        if read_object(path, "the model of the texts").get("sha256") != sha256:
            raise ConfigError(f"{texts}: has texts of another Whisper model; give a new file for each model")
    elif sha256:
        write_json(path, {"sha256": sha256})


def _drop_torn_line(path: Path) -> None:
    """A run that was killed may have left the beginning of a line."""
    if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def choose(
    own: Sequence[Utterance], opinions: Sequence[Opinion], most: float, *, spell: bool
) -> tuple[list[Utterance], list[str]]:
    """The utterances whose text all opinions share up to ``most`` of its characters, and a line for each of the others.

    ``spell``: write their texts in the models' letters; those that cannot be written so are left out.
    Raises ``ConfigError`` for an opinion on other utterances.
    """
    speller = LabelSpeller(CharTokenizer.from_texts([], SPELLING), "en")
    agreement = compare_opinions({u.id: u.text for u in own}, opinions, speller, most)
    kept, left_out = [], []
    for utterance in own:
        text = speller.spell(utterance.text)
        if utterance.id in agreement.agreed and speller.learnable(text):
            kept.append(dataclasses.replace(utterance, text=text) if spell else utterance)
            continue
        said = [utterance.text, *(opinion.texts.get(utterance.id, "(no text)") for opinion in opinions)]
        left_out.append("\t".join([utterance.id, *said]))
    return kept, left_out


def write_chosen(out: Path, own: Sequence[Utterance], files: Sequence[Path], most: float, *, spell: bool) -> None:
    """Write the manifest of what ``choose`` keeps, and the list of the rest. Raises ``ConfigError`` for nothing."""
    opinions = [Opinion(str(path), {u.id: u.text for u in manifest.read_manifest(path)}) for path in files]
    kept, left_out = choose(own, opinions, most, spell=spell)
    if not kept:
        raise ConfigError(
            f"{out}: nothing is left of {len(own)} utterances: the texts differ by more than {100 * most:g} % of their "
            f"characters, or are empty; the first: {left_out[0] if left_out else 'none'}"
        )
    manifest.write_manifest(out, kept)
    write_text(f"{out}.left_out.txt", "".join(f"{line}\n" for line in left_out))
    hours = [sum(u.duration_s for u in group) / 3600 for group in (kept, own)]
    print(f"{out}: {len(kept)} of {len(own)} utterances, {hours[0]:.2f} of {hours[1]:.2f} h")


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("transcribe")
    verb.add_argument("input", help="a manifest, or a folder of audio")
    verb.add_argument("texts", type=Path, help="the manifest to write or to go on with")
    verb.add_argument("--whisper", type=Path, required=True, metavar="FOLDER", help="the model")
    verb.add_argument("--threads", type=whole(1), default=1, metavar="N", help="CPU threads (default: 1)")
    for name, most in (("label", 0.1), ("judge", 0.25)):
        verb = verbs.add_parser(name)
        if name == "judge":
            verb.add_argument("manifest", help="utterances with the texts that were to be spoken")
        verb.add_argument("out", type=Path, help="the manifest to write")
        verb.add_argument("texts", type=Path, nargs="+", help="manifests of transcribe")
        verb.add_argument("--most-disagreement", type=number(0, 1), default=most, metavar="SHARE")
        verb.add_argument("--force", action="store_true", help="write over OUT")
    args = parser.parse_args(argv)
    if args.verb == "label" and len(args.texts) < 2:
        parser.error("label: expected the texts of two teachers or more, got one; one alone agrees with itself")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the verbs; returns the exit status."""
    args = read_arguments(argv)
    if args.verb == "transcribe":
        whisper = load_whisper(args.whisper, args.threads)
        failures = transcribe(args.input, args.texts, whisper, file_sha256(args.whisper / "model.bin"))
        for failure in failures:
            print(f"error: {failure}", file=sys.stderr)
        return 1 if failures else 0
    check_output(args.out, force=args.force)
    own, *others = args.texts if args.verb == "label" else (args.manifest, *args.texts)
    write_chosen(args.out, manifest.read_manifest(own), others, args.most_disagreement, spell=args.verb == "label")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AsrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(130)
