"""Run recipes from archive to results table, by their ``steps.yaml``; finished steps are skipped.

    python tools/run_recipes.py [RECIPE …] [--data DIR] [--list]

``recipes/<name>/steps.yaml`` is a list of steps: ``run`` is a command line, ``row`` (optional) makes its result a row
of the table. In a command ``{data}`` is the folder of local corpora and ``{json}`` the file that a row's ``asr
evaluate`` writes. Commands that train go on from their checkpoints. A step is done when its command has ended well
once; a changed command is run again. Logs and results are in ``exp/<name>/table/``. Exit status: 0 all done, 1 a step
failed (the recipe's other steps are not run, other recipes are).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Step:
    """One command of a recipe, and the files of its log and result."""

    recipe: str
    template: str
    row: str

    @property
    def stem(self) -> Path:
        key = hashlib.sha256(self.template.encode()).hexdigest()[:12]
        return ROOT / "exp" / self.recipe / "table" / key

    @property
    def result(self) -> Path:
        return self.stem.with_suffix(".json")

    @property
    def done(self) -> bool:
        return self.stem.with_suffix(".done").exists()

    def command(self, data: str) -> list[str]:
        return shlex.split(self.template.replace("{data}", data).replace("{json}", str(self.result)))


def steps(recipe: str) -> Iterator[Step]:
    """The steps of a recipe in order."""
    path = ROOT / "recipes" / recipe / "steps.yaml"
    for number, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")), start=1):
        if not isinstance(entry, dict) or not {"run"} <= entry.keys() <= {"run", "row"}:
            raise SystemExit(f"{path}: step {number}: expected the keys run and perhaps row, got {entry!r}")
        if "row" in entry and "{json}" not in entry["run"]:
            raise SystemExit(f"{path}: step {number}: a row needs --json {{json}} in its command")
        yield Step(recipe, entry["run"], entry.get("row", ""))


def run(step: Step, data: str) -> bool:
    """Run a step's command; whether it ended well."""
    step.stem.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    log = step.stem.with_suffix(".log")
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        ended = subprocess.run(step.command(data), cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    seconds = time.monotonic() - started
    # Preparing a part of a corpus ends with 1: something was left out, the rest is there.
    well = ended.returncode == 0 or (ended.returncode == 1 and "prepare.py" in step.template)
    if well:
        step.stem.with_suffix(".done").write_text(f"{seconds:.0f}\n")
    print(f"  {'done' if well else f'failed with {ended.returncode}, see {log}'}, {seconds:.0f} s", flush=True)
    return well


def table(recipe: str) -> Iterator[str]:
    """The rows whose results are there, in Markdown."""
    yield "| what | WER | errors | S / D / I | 95 % interval | CER | command |"
    yield "|---|---|---|---|---|---|---|"
    for step in steps(recipe):
        if not step.row or not step.done:
            continue
        report = json.loads(step.result.read_text(encoding="utf-8"))
        low, high = report["ci95"]
        command = step.template.replace(" --json {json}", "")
        yield (
            f"| {step.row} | {100 * report['wer']:.2f} % | {report['errors']}/{report['words']} | "
            f"{report['substitutions']} / {report['deletions']} / {report['insertions']} | "
            f"{100 * low:.1f} to {100 * high:.1f} | {100 * report['cer']:.2f} % | `{command}` |"
        )


def main() -> int:
    known = sorted(path.parent.name for path in ROOT.glob("recipes/*/steps.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"default: all of {', '.join(known)}")
    parser.add_argument("--data", default=os.environ.get("ASR_DATA", "../shared/data"), help="folder of local corpora")
    parser.add_argument("--list", action="store_true", help="show the steps and whether they are done")
    args = parser.parse_args()
    unknown = set(args.recipes) - set(known)
    if unknown:
        parser.error(f"no recipe with a steps.yaml: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    failed = False
    for recipe in args.recipes or known:
        print(f"{recipe}", flush=True)
        for step in steps(recipe):
            print(f"{'x' if step.done else ' '} {step.template}", flush=True)
            if not args.list and not step.done and not run(step, args.data):
                failed = True
                break
        if not args.list:
            print("\n".join(table(recipe)), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
