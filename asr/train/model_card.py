"""What the cards of trained models begin with, and checksums of training data."""

from __future__ import annotations

import datetime
import hashlib
import json
import secrets
from typing import Any

from torch import nn

import asr


def new_origin() -> str:
    """A random id for weights that were just drawn; not from the generators that training draws from."""
    return secrets.token_hex(8)


def card_head(origin: str, network: nn.Module) -> dict[str, Any]:
    """The first keys of every model card; models with the same ``origin`` started from the same weights."""
    head = {
        "format": 1,
        "package": f"asr {asr.__version__}",
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "origin": origin,
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    return {name: value for name, value in head.items() if value != ""}


def training_checksum(items: Any) -> str:
    """SHA-256 of plain values: a task's ``data_key``."""
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()
