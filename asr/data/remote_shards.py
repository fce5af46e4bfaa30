"""Shards at URLs: copies in the local cache, and their indices, which lie beside them."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

from asr.cloud.addresses import without_secrets
from asr.errors import CloudError

_THREADS = 16


@functools.lru_cache(maxsize=1 << 16)
def remote_stamp(url: str) -> tuple[int, int]:
    """Size in bytes of a shard, and a number of its version; asked for once in a run. Raises ``CloudError``."""
    from asr.cloud.inputs import input_version

    version = input_version(url)
    digest = hashlib.sha256(f"{version.tag} {version.size}".encode()).digest()
    return version.size, int.from_bytes(digest[:7], "little") + 1


def ask_for_shards(urls: Sequence[str]) -> None:
    """Have ``remote_stamp`` of many shards at hand, asked for together; what fails is named by who uses it."""

    def ask(url: str) -> None:
        try:
            remote_stamp(url)
        except CloudError:
            return

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(ask, urls))


def open_remote_shard(url: str) -> BinaryIO:
    """A shard from the local cache, fetched if it is not there. Raises ``CloudError``."""
    from asr.cloud.input_cache import TRAINING_GB, open_cached

    return open_cached(url, TRAINING_GB)


def remote_index(url: str) -> io.BytesIO | None:
    """The bytes of the index at ``url``; None where there is none."""
    from asr.cloud.inputs import read_whole

    try:
        return io.BytesIO(read_whole(url))
    except CloudError:
        return None


def listed_shards(folder: str, suffix: str) -> list[str]:
    """URLs of the shards directly in a folder. Raises ``CloudError``."""
    from asr.cloud.inputs import list_inputs

    return sorted(file.url for file in list_inputs(folder) if file.path.endswith(suffix) and "/" not in file.path)


def shown_shard(path: Any) -> str:
    """The name of a shard in messages."""
    return without_secrets(str(path))
