"""The command that writes shards to train on: asr shard."""

from __future__ import annotations

import argparse
from typing import Any

from asr.cli import printing
from asr.cli.shared_options import OK, add_force
from asr.config.arguments import byte_count, whole_or_none


def add_shard_command(commands: Any) -> None:
    """Add the command to the parser's subparsers."""
    shard = commands.add_parser(
        "shard",
        help="pack the utterances of a manifest into large files (WebDataset shards), to train on",
        description="Writes OUT/00000.tar, OUT/00001.tar, … with an index beside each. Train on them with data.train="
        "OUT. The same command continues an interrupted run, and gives the same files. Exit status: 0 all "
        "utterances written, 1 some left out, 2 nothing done.",
    )
    shard.add_argument("manifest", metavar="MANIFEST", help="JSONL manifest")
    shard.add_argument("output", metavar="OUT", help="folder for the shards")
    shard.add_argument(
        "--size",
        type=byte_count(10_000),
        default=10**9,
        metavar="BYTES",
        help="size of a shard, such as 200MB (default: 1GB)",
    )
    shard.add_argument(
        "--seed", type=whole_or_none(0), default=1, metavar="N",
        help="seed of the random order of utterances (default: 1; none: the order of the manifest)",
    )  # fmt: skip
    add_force(shard)
    shard.set_defaults(run=_shard, awake=True)


def _shard(args: argparse.Namespace) -> int:
    from asr.data.shard_writer import write_shards

    written = write_shards(args.manifest, args.output, args.size, args.seed, force=args.force)
    printing.show(f"{args.output}: {len(written.paths)} shards, {written.utterances} utterances")
    failures = [f"{name}: left out: {reason}" for name, reason in written.failures.items()]
    return printing.report_failures(failures) if failures else OK
