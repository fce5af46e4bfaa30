"""Draws a manifest of so many hours from others: a fixed budget of speech, to compare sources at the same cost.

    python recipes/english/draw_hours.py OUT HOURS SHARE:MANIFEST… [--seed N]

Of each manifest utterances are drawn without putting them back, until it has given its share of the hours. One that has
been used up is drawn from again; ``-2`` is added to an id that comes a second time. One epoch of OUT is the budget.
"""

import argparse
import dataclasses
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from asr.config.arguments import number, whole
from asr.data import manifest
from asr.data.manifest import Utterance
from asr.errors import AsrError, ConfigError
from asr.files import check_output


def draw(utterances: Sequence[Utterance], seconds: float, rng: random.Random) -> list[Utterance]:
    """Utterances of together ``seconds`` or a little more, in random order."""
    order = list(utterances)
    rng.shuffle(order)
    drawn: list[Utterance] = []
    while seconds > 1e-6:
        turn, place = divmod(len(drawn), len(order))
        found = order[place]
        drawn.append(dataclasses.replace(found, id=f"{found.id}-{turn + 1}") if turn else found)
        seconds -= found.duration_s
    return drawn


def read_share(text: str) -> tuple[float, str]:
    """``SHARE:MANIFEST``."""
    share, _, path = text.partition(":")
    if not path:
        raise argparse.ArgumentTypeError(f"expected SHARE:MANIFEST, such as 0.5:train.jsonl, got {text!r}")
    value = number(0, 1, above=True)(share)
    assert value is not None
    return value, path


def main(argv: Sequence[str] | None = None) -> int:
    """Write the manifest; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("hours", type=number(0, 1e6, above=True))
    parser.add_argument("sources", type=read_share, nargs="+", metavar="SHARE:MANIFEST")
    parser.add_argument("--seed", type=whole(0), default=1)
    parser.add_argument("--force", action="store_true", help="write over OUT")
    args = parser.parse_args(argv)
    check_output(args.out, force=args.force)
    total = sum(share for share, _ in args.sources)
    if abs(total - 1) > 0.001:
        raise ConfigError(f"expected shares that add up to 1, got {total:g}")
    rng = random.Random(args.seed)
    drawn = [
        utterance
        for share, path in args.sources
        for utterance in draw(manifest.read_manifest(path), share * args.hours * 3600, rng)
    ]
    rng.shuffle(drawn)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_manifest(args.out, drawn)
    print(f"{args.out}: {len(drawn)} utterances, {sum(u.duration_s for u in drawn) / 3600:.2f} h")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AsrError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
