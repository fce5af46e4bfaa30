"""Shards for tests: made of the corpus of tones, or by hand as other programs make them."""

import io
import tarfile
from pathlib import Path

from asr.data.shard_writer import write_shards


def make_shards(folder: Path, manifest: Path, size: int = 60_000, seed: int | None = 1) -> Path:
    """Shards of a manifest in ``folder``."""
    write_shards(str(manifest), str(folder), size, seed)
    return folder


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A tar file as other programs write it, with times and owners."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uname = len(content), 1_700_000_000, "somebody"
            tar.addfile(member, io.BytesIO(content))
    return path


def read_tar(path: Path) -> dict[str, bytes]:
    """The members of a tar file in their order."""
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}
