"""Fuzz the command line with damaged arguments, files and settings: each must end with a status and a message.

    python tools/fuzz_cli.py --count 10000 --seed 1
    python tools/fuzz_cli.py --seed 1 --only 4711 --keep /tmp/mutant      # one of them once more, with its files

A mutant is a verb of ``asr`` with options drawn at random, in a folder of its own with recordings, manifests, texts,
tables, language models and a model directory. One of these is damaged: bytes changed, numbers replaced by infinities or
by thousands of digits, lines repeated, brackets nested, another encoding, a folder or a broken link instead.
A finding is anything but an exit status or an ``AsrError``, a process that dies, and no answer in ``--limit`` seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import string
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

RATE_HZ = 16000
MEMORY = 4 * 2**30
HEAVY = 0.02
"""Share of mutants that load a model, train or draw."""
CONFIG = "data: {train: m.jsonl, valid: m.jsonl, batch_s: 10}\nfeatures: {mel_bins: 16}\n" + (
    "model: {channels: 4, layers: 1, hidden: 8}\ntrain: {output: run, epochs: 1, threads: 1}\n"
)
LM_CONFIG = "data: {train: text.txt, batch: 4}\nmodel: {hidden: 8, embedding: 4}\ntrain: {output: lmrun, epochs: 1}\n"
SUBTITLES = "WEBVTT\n\n00:00.000 --> 00:00.500\n<v Ann>AB BA\n"
RECIPE = "title: T\nlanguage: English\nhours: 1\nlicence: CC0\nhomepage: x\nstatus: complete\ncontains: a.wav\n"

LIGHT_VERBS = """
recipes --folder recipes
init data --output out
init data --output out --language none
init kaldi --output out
export m.jsonl out --format kaldi
export m.jsonl out.jsonl --format nemo
check m.jsonl
check m.jsonl --config train.yaml
check m.jsonl --json out.json
check shards
check shards/00000.tar
shard m.jsonl out --size 10KB
shard m.jsonl out --seed none
score ref.txt hyp.txt
score ref.txt hyp.trn
score m.jsonl hyp.json --errors
score ref.txt hyp.txt --json out.json
compare hyp.json hyp.json
report hyp.json page.html
report hyp.json page.html --compare hyp.json --title T
report detailed.json page.html --model none --files linked
compare hyp.txt hyp.trn --reference ref.txt
train-ngram text.txt out.arpa
train-ngram text.txt out.gz --order 2
train-ngram text.txt out.safetensors --words 3 --size 0.1 --quantize --lmplz none
lm-convert words.arpa out.safetensors
lm-convert words.safetensors out.arpa
lm-convert words.safetensors out.safetensors --bits 8 --model model
perplexity words.safetensors text.txt
perplexity words.arpa text.txt
perplexity lm text.txt
perplexity words.arpa.gz text.txt
generate lm --length 3
synth text.txt out --voices data
info model
info
average model model --output out
train train.yaml model.layers=x
train-lm lm.yaml model.layers=x
transcribe nowhere.wav --model nomodel
serve --live-model nomodel --alias x=nomodel --wyoming 1 --model nomodel --learn data
plot run.jsonl --output no/where.png
"""
# What takes some milliseconds, and what loads models, trains or draws.
HEAVY_VERBS = """
warm-up
transcribe data/a.wav --model model
transcribe data --model model --format json --output-dir out
transcribe data --model model --output parts --resume
transcribe - --model model --raw-rate 16000
transcribe data/a.wav --model model --lm words.arpa
transcribe data/a.wav --model model --lm words.safetensors
transcribe data/a.wav --model model --lm lm
quantize model --output out
export model out --to onnx
export model out --to sherpa --utterance data/a.wav
export --verify out
transcribe data/a.wav --model model --phrases phrases.txt
transcribe data/a.wav --model model --phrases templates.txt
transcribe data/a.wav --model model --lexicon phrases.txt
stream data/a.wav --model model --chunk-s 0.5
stream - --rate 16000 --model model --chunk-s 0.5
align data/a.wav data/a.txt --model model
segment data/a.wav data/a.txt out.jsonl --model model
label data --output out.jsonl --model model
evaluate m.jsonl --model model --json out.json
evaluate m.jsonl --model model --html page.html
report detailed.json page.html --model model --embed 2
tune m.jsonl --model model --lm words.arpa
calibrate m.jsonl --model model
train train.yaml train.epochs=1 train.output=run model.layers=1 model.hidden=8 model.channels=4
train-lm lm.yaml train.epochs=1 train.output=lmrun model.hidden=8
train-readable text.txt out --seconds 1 --hidden 8
learn model m.jsonl --output learnt --dry-run
learn model data --output learnt --rehearse m.jsonl
learn --rollback data
plot run.jsonl --output out.png
check m.jsonl --plot out.png
"""

NUMBERS = [
    "0", "1", "2", "-1", "0.5", "-0", "1e3", "-inf", "inf", "nan", "1e999", "-1e-1", "none", "²", "٣", "1_0",
    "0x10", "1,2", "--", "", " 1", "9" * 19, "1" * 400, "9" * 4301,
]  # fmt: skip
WORDS = [
    "", "-", "none", "é", "\x1b[31m", "a b", "\udcff", "x" * 300, "%s", "{0}", "a=b", "model.layers=1e999",
    "'", "\u2028",
]  # fmt: skip
PIECES = [
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b"\t", b"\x1b[2J", b"\xed\xa0\x80",
    b"[" * 3000, b"{" * 3000, b"- " * 3000, b"&a [*a, *a]", b'"', b"'", b":", b"|", b"null", b"NaN",
    b"-Infinity", b"true", b"[]", b"{}", b'"\\ud800"', b"../../etc", b"<s>", b"</s>", b"-->", b"\\data\\",
    b"!!python/x", b"%", b"\xe2\x80\xa8",
]  # fmt: skip
REPLACEMENTS = [
    b"0", b"-1", b"1e999", b"NaN", b"1e308", b"-0.0", b"null", b'"x"', b"[1]", b"9" * 400, b"9" * 4301, b"2.5",
]  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A command line and the damage to one file; ``Mutant.of(seed, number)`` is always the same."""

    seed: int
    number: int

    def prepare(self, good: Path, folder: Path, heavy: float = HEAVY) -> tuple[list[str], str]:
        """Lay out the folder; the arguments, and what is wrong with the files."""
        rng = random.Random(f"{self.seed} {self.number}")
        shutil.copytree(good, folder, copy_function=os.link)
        template = rng.choice((HEAVY_VERBS if rng.random() < heavy else LIGHT_VERBS).split("\n")[1:-1])
        argv = template.split()
        damage = ""
        if rng.random() < 0.75:
            damage = _damage(rng, _concerned(rng, argv, folder))
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
            _add_option(rng, argv)
        if rng.random() < 0.1:
            _spoil_arguments(rng, argv)
        return argv, damage


def make_good(folder: Path) -> None:
    """Write the files that every mutant begins with."""
    rng = np.random.default_rng(1)
    (folder / "data").mkdir(parents=True)
    utterances = []
    for name, text in (("a", "AB BA"), ("b", "CAB"), ("c", "A")):
        sound = (
            np.repeat(rng.uniform(0, 0.3, 16), 600)[: RATE_HZ // 2]
            * rng.normal(size=RATE_HZ // 2 + 1600)[:9600][: RATE_HZ // 2]
        )
        soundfile.write(folder / "data" / f"{name}.wav", sound, RATE_HZ)
        (folder / "data" / f"{name}.txt").write_text(text + "\n")
        utterance = {"id": name, "audio": f"data/{name}.wav", "text": text, "duration_s": 0.5, "speaker": name}
        utterances.append(utterance)
    texts = {u["id"]: u["text"] for u in utterances}
    wrong = texts | {"b": "CAD A"}
    (folder / "kaldi").mkdir()
    (folder / "recipes" / "r").mkdir(parents=True)
    files = {
        "m.jsonl": "".join(json.dumps(u) + "\n" for u in utterances),
        "ref.txt": "".join(f"{name} {text}\n" for name, text in texts.items()),
        "hyp.txt": "".join(f"{name} {text}\n" for name, text in wrong.items()),
        "hyp.trn": "".join(f"{text} ({name})\n" for name, text in wrong.items()),
        "text.txt": "AB BA\nCAB\nA CAB BA\nAB\n" * 5,
        "phrases.txt": "AB BA\nCAB\nA\n",
        "templates.txt": "A {AB|C {s}}\n{s} {number 1-3}\n{s} = CAB | BA | {t}\n{t} = @phrases.txt\n",
        "data/a.vtt": SUBTITLES,
        "kaldi/text": "".join(f"{name} {text}\n" for name, text in texts.items()),
        "kaldi/wav.scp": "".join(f"{name} {folder.name}/data/{name}.wav\n" for name in texts),
        "kaldi/utt2spk": "".join(f"{name} {name}\n" for name in texts),
        "train.yaml": CONFIG,
        "lm.yaml": LM_CONFIG,
        "run.jsonl": "".join(
            json.dumps({"step": s, "epoch": s // 10, "loss": 3.0 / s, "valid_wer": 0.5}) + "\n"
            for s in range(10, 60, 10)
        ),
        "recipes/r/corpus.yaml": RECIPE,
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    _make_models(folder)


def _make_models(folder: Path) -> None:
    """A model directory, a recurrent language model, an ARPA file and a scored hypothesis."""
    import torch

    from asr.cli.main import run_verb
    from asr.config.language import LanguageConfig, NetworkConfig
    from asr.config.sections import Config, FeatureConfig, ModelConfig
    from asr.lm import lm_directory
    from asr.lm.recurrent import LanguageNetwork
    from asr.models import model_directory
    from asr.models.acoustic import AcousticModel
    from asr.models.description import FeatureStats
    from asr.text.tokenizer import BLANK_SYMBOL, CharTokenizer

    torch.manual_seed(1)
    config = Config(features=FeatureConfig(mel_bins=16), model=ModelConfig(channels=4, layers=1, hidden=8))
    tokenizer = CharTokenizer([BLANK_SYMBOL, " ", "A", "B", "C"], config.text)
    stats = FeatureStats((-9.0,) * 16, (4.0,) * 16, 100)
    network = AcousticModel(config.model, 16, tokenizer.vocab_size)
    model_directory.save_model_description(folder / "model", config, tokenizer, stats)
    model_directory.save_weights(folder / "model", network, {"name": "tiny", "data": "none"})
    (folder / "model" / "decoding.yaml").write_text("beam: 4\nunknown_penalty: -2.0\n")
    language = LanguageConfig(model=NetworkConfig(hidden=8, embedding=4))
    lm_directory.save_lm_description(folder / "lm", language, tokenizer)
    model_directory.save_weights(folder / "lm", LanguageNetwork(language.model, tokenizer.vocab_size), {"data": "none"})
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.chdir(folder):
        run_verb(["train-ngram", "text.txt", "words.arpa", "--order", "2"])
        run_verb(["train-ngram", "text.txt", "words.arpa.gz", "--order", "1"])
        run_verb(["lm-convert", "words.arpa", "words.safetensors", "--bits", "8", "--model", "model"])
        run_verb(["score", "ref.txt", "hyp.txt", "--json", "hyp.json"])
        run_verb(["shard", "m.jsonl", "shards", "--size", "20KB"])
    evaluation = json.loads((folder / "hyp.json").read_text())
    for utterance in evaluation["utterances"]:
        words = [
            {"text": word, "start_s": 0.1, "end_s": 0.2, "confidence": 0.5} for word in utterance["hypothesis"].split()
        ]
        utterance |= {
            "audio": f"data/{utterance['id']}.wav",
            "duration_s": 0.5,
            "snr_db": 10.0,
            "hypothesis_words": words,
        }
    (folder / "detailed.json").write_text(json.dumps(evaluation | {"format": 2, "model": "model"}))


def _concerned(rng: random.Random, argv: list[str], folder: Path) -> Path:
    """One of the files that the command line names, or of those in a folder that it names."""
    named = [folder / word for word in argv[1:] if os.path.exists(folder / word)]
    files = [
        path for place in named for path in (sorted(place.rglob("*")) if place.is_dir() else [place]) if path.is_file()
    ]
    return rng.choice(files or sorted(path for path in folder.rglob("*") if path.is_file()))


def _damage(rng: random.Random, path: Path) -> str:
    """Damage one file; returns what was done to which. A link to the good file is replaced, not followed."""
    data = path.read_bytes()
    path.unlink()
    kind = rng.choice(("number", "number", "piece", "piece", "bytes", "bytes", "lines", "cut", "name", "special"))
    if kind == "special":
        kind = rng.choice(("empty", "folder", "loop", "utf16", "latin1"))
        if kind == "folder":
            path.mkdir()
            return f"{path.name}: a folder"
        if kind == "loop":
            path.symlink_to(path.name)
            return f"{path.name}: a link to itself"
        text = data.decode("utf-8", "replace")
        data = {"empty": b"", "utf16": text.encode("utf-16"), "latin1": (text + "é").encode("latin-1", "replace")}[kind]
    else:
        data = DAMAGES[kind](rng, data)
    path.write_bytes(data)
    return f"{path.name}: {kind}"


def _change_number(rng: random.Random, data: bytes) -> bytes:
    places = list(re.finditer(rb"-?\d+(\.\d+)?(e[+-]?\d+)?", data))
    if not places:
        return data + rng.choice(REPLACEMENTS)
    place = rng.choice(places)
    return data[: place.start()] + rng.choice(REPLACEMENTS) + data[place.end() :]


def _change_piece(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(PIECES) + data[at + rng.choice((0, 0, 1, 5, 30)) :]


def _change_bytes(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20)) if changed else 0):
        changed[rng.randrange(len(changed))] = rng.choice((0, 10, 32, 127, 255, rng.randrange(256)))
    return bytes(changed)


def _change_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.choice(("drop", "repeat", "swap", "join", "many"))
    if kind == "drop":
        del lines[at]
    elif kind == "repeat":
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind == "swap":
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "many":
        lines[at:at] = [lines[at]] * 300
    return (b" " if kind == "join" else b"\n").join(lines)


def _change_name(rng: random.Random, data: bytes) -> bytes:
    """Replace a word: a key, a value, a token."""
    places = list(re.finditer(rb"[A-Za-z_]{2,}", data))
    if not places:
        return data
    place = rng.choice(places)
    word = rng.choice((b"x", b"null", b"1", b"[]", b"", rng.choice(places)[0], b"audio", "é".encode()))
    return data[: place.start()] + word + data[place.end() :]


DAMAGES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "number": _change_number,
    "piece": _change_piece,
    "bytes": _change_bytes,
    "lines": _change_lines,
    "cut": lambda rng, data: data[: rng.randrange(len(data) + 1)],
    "name": _change_name,
}


@functools.cache
def _options(verb: str) -> list[argparse.Action]:
    from asr.cli.main import build_parser

    parser = build_parser()
    (verbs,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [a for a in verbs.choices[verb]._actions if a.option_strings and a.dest != "help"]


def _add_option(rng: random.Random, argv: list[str]) -> None:
    """Append an option of the verb with a value that is right or wrong; what would take long is left at its default."""
    names = (
        "ref.txt",
        "m.jsonl",
        "model",
        "lm",
        "words.arpa",
        "data",
        "train.yaml",
        "nowhere",
        "x" * 300,
        "/dev/null",
        ".",
    )
    options = [a for a in _options(argv[0]) if a.dest not in ("length", "count", "jobs", "workers", "realtime")]
    if not options:
        return
    option = rng.choice(options)
    argv.append(rng.choice(option.option_strings))
    if option.nargs == 0:
        return
    if option.choices and rng.random() < 0.8:
        argv.append(str(rng.choice(list(option.choices))))
    elif option.dest in ("output", "output_dir", "json", "plot", "save_to"):
        argv.append(
            rng.choice(("out", "out.json", "model", "ref.txt", "data", ".", "x" * 300, "no/where", "/dev/null", "é"))
        )
    else:
        argv.append(rng.choice(rng.choice((NUMBERS, names, WORDS, ["A:5", "AB:-inf", "A:nan", "0.9,1", "1,nan"]))))


def _spoil_arguments(rng: random.Random, argv: list[str]) -> None:
    """Drop, repeat, exchange or replace one of the arguments; paths stay within the mutant's folder."""
    at = rng.randrange(len(argv))
    kind = rng.choice(("drop", "repeat", "replace", "swap"))
    if kind == "drop":
        del argv[at]
    elif kind == "repeat":
        argv.insert(at, argv[rng.randrange(len(argv))])
    elif kind == "swap":
        other = rng.randrange(len(argv))
        argv[at], argv[other] = argv[other], argv[at]
    else:
        argv[at] = rng.choice(WORDS + NUMBERS + rng.sample(string.printable.replace("/", ""), 3))


def execute(argv: list[str], folder: Path) -> tuple[str, str]:
    """What becomes of a command line, run in ``folder`` within this process: outcome and message or traceback."""
    from asr.cli.main import run_verb
    from asr.errors import AsrError

    said, standard = io.StringIO(), (sys.stdin, os.environ.get("RANK"))
    sys.stdin = io.TextIOWrapper(
        io.BytesIO((Path(folder) / "data" / "a.wav").read_bytes() if (folder / "data" / "a.wav").is_file() else b"")
    )
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            status = run_verb(argv)
        results = (0, 1, 2) if argv[0] == "learn" else (0, 1)  # 2: it refuses, with a report
        return ("done" if status in results else "raised"), f"status {status}"
    except AsrError as error:
        return "refused", str(error)
    except SystemExit as stop:
        return ("refused" if stop.code in (0, 2) else "raised"), said.getvalue()[-300:]
    except BaseException:  # what this tool looks for
        return "raised", traceback.format_exc()
    finally:
        sys.stdin = standard[0]


def work(pipe: Connection, good: str, heavy: float) -> None:
    """Run the mutants that come through the pipe; answers are outcome, message, arguments, damage."""
    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    if not (Path(good) / "hyp.json").exists():
        make_good(Path(good))
    pipe.send("ready")
    while wanted := pipe.recv():
        seed, number, folder = wanted
        argv, damage = Mutant(seed, number).prepare(Path(good), Path(folder), heavy)
        pipe.send(("begun", "", argv, damage))
        pipe.send((*execute(argv, Path(folder)), argv, damage))


class Worker:
    """A process that runs mutants; replaced when it dies or hangs."""

    def __init__(self, good: Path, heavy: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, str(good), heavy), daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()

    def ask(self, seed: int, number: int, folder: Path, limit_s: float) -> tuple[str, str, list[str], str]:
        """What became of a mutant: outcome, message, arguments, damage."""
        answer: tuple[str, str, list[str], str] = ("begun", "", [], "")
        self.pipe.send((seed, number, str(folder)))
        while answer[0] == "begun":
            if not self.pipe.poll(limit_s):
                self.process.kill()
                return ("hung", f"no answer in {limit_s:g} s", *answer[2:])
            try:
                answer = self.pipe.recv()
            except EOFError:
                self.process.join()
                return ("crashed", f"the process died with status {self.process.exitcode}", *answer[2:])
        return answer

    def close(self) -> None:
        """End the process."""
        if self.process.is_alive():
            self.pipe.send(None)
            self.process.join(10)
        self.process.kill()


def check(
    numbers: Iterable[int], seed: int, *, limit_s: float = 120.0, heavy: float = HEAVY, keep: Path | None = None
) -> Iterator[tuple[int, str, str, list[str], str]]:
    """Run the mutants; of each its number, outcome, message, arguments and what was done to which file."""
    with tempfile.TemporaryDirectory() as scratch:
        good = Path(scratch) / "good"
        worker = Worker(good, heavy)
        try:
            for number in numbers:
                folder = keep or Path(scratch) / "mutant"
                outcome, *rest = worker.ask(seed, number, folder, limit_s)
                if outcome in ("hung", "crashed"):
                    worker = Worker(good, heavy)
                if keep is None:
                    shutil.rmtree(folder, ignore_errors=True)
                yield (number, outcome, *rest)  # type: ignore[misc]
        finally:
            worker.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="N", help="run mutant N alone")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder for the files of --only, which stay")
    parser.add_argument("--limit", type=float, default=120.0, metavar="S", help="seconds a mutant may take")
    parser.add_argument("--heavy", type=float, default=0.2, metavar="P", help="share that loads models (default: 0.2)")
    args = parser.parse_args()
    numbers: Any = range(args.count) if args.only is None else [args.only]
    counts: Counter[str] = Counter()
    places: Counter[str] = Counter()
    ran = check(numbers, args.seed, limit_s=args.limit, heavy=args.heavy, keep=args.keep)
    for number, outcome, message, argv, damage in tqdm(ran, total=len(numbers), disable=None):
        counts[outcome] += 1
        if outcome not in ("done", "refused"):
            place = "\n".join(message.strip().splitlines()[-6:])
            places[place] += 1
            if places[place] == 1 or args.only is not None:
                print(f"\n{number}: {outcome}: asr {' '.join(map(repr, argv))[:500]}\n{damage}\n{place[:1500]}")
                again = f"--seed {args.seed} --heavy {args.heavy} --only {number} --keep DIR"
                print(f"again: python tools/fuzz_cli.py {again}", flush=True)
        elif args.only is not None:
            print(f"{outcome}: asr {' '.join(map(repr, argv))}\n{damage}\n{message}")
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    return int(any(outcome not in ("done", "refused") for outcome in counts))


if __name__ == "__main__":
    sys.exit(main())
