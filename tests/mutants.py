"""Damage for files of any kind: a byte, a number or a word in another's place, or a piece that is gone."""

import random
import re

PIECES = [
    b"NaN", b"-Infinity", b"1e308", b"1" + b"0" * 308, b"9" * 5000, b"-1", b"0", b"1000000000", b"null", b"true",
    b"[" * 9, b"{}", b"'", b"&a", b"*a", b"\xff", b"\x00", b"../x", b"/etc/passwd", b"F16", b"I64", b"\xe2\x80\xa8",
]  # fmt: skip


def mutant(data: bytes, rng: random.Random, length: int) -> bytes:
    """``data`` with one to three faults in its first ``length`` bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, kind = rng.randrange(min(length, len(changed)) + 1), rng.random()
        if kind < 0.2 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif kind < 0.35:
            del changed[at : at + rng.randrange(1, 40)]
        else:
            words = list(re.finditer(rb"-?[0-9][0-9.e+-]*|[A-Za-z_]+", bytes(changed[:length])))
            place = rng.choice(words).span() if words and kind < 0.85 else (at, at)
            changed[place[0] : place[1]] = rng.choice(PIECES)
    return bytes(changed)


def mutant_tensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with faults in its header, whose length is put right."""
    size = int.from_bytes(data[:8], "little")
    header = mutant(data[8 : 8 + size], rng, size)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]
