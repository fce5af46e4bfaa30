"""One HTML page of data, without network: style, scripts and data stand in the page itself.

Texts and ids may be anybody's. They are embedded as JSON, in which no ``<`` is left, and the page shows them as text
only. Its content security policy allows the one script and the one style sheet that are made here, by their checksums.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

MARK = '<meta name="generator" content="asr report">'
"""By which a page is known as one of ours."""
SCRIPTS = ("filter.js", "lists.js", "detail.js", "page.js")
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def build_page(data: Mapping[str, Any], media: Mapping[int, Mapping[str, Any]]) -> str:
    """The page.

    Args:
        data: what ``asr/assets/report/page.js`` reads; plain values, all numbers finite.
        media: sound and picture of utterances by their place in ``data["utterances"]``; read when first shown.
    """
    style = _asset("page.css")
    script = "(() => {\n'use strict';\n" + "\n".join(map(_asset, SCRIPTS)) + "\n})();"
    blocks = [f'<script type="application/json" id="data">{as_json(data)}</script>']
    blocks += [
        f'<script type="application/json" id="media-{index}">{as_json(found)}</script>'
        for index, found in media.items()
    ]
    policy = (
        f"default-src 'none'; script-src '{_checksum(script)}'; style-src '{_checksum(style)}'; "
        "img-src data: file: 'self'; media-src data: file: 'self'; base-uri 'none'; form-action 'none'"
    )
    # One part after the other: what data hold is never searched for places.
    parts = {
        "POLICY": f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n{MARK}',
        "STYLE": f"<style>{style}</style>",
        "DATA": "\n".join(blocks),
        "SCRIPT": f"<script>{script}</script>",
    }
    rest, page = _asset("page.html"), []
    for name, part in parts.items():
        before, rest = rest.split(f"<!-- {name} -->")
        page += [before, part]
    return "".join([*page, rest])


def as_json(tree: Any) -> str:
    """JSON that can stand in a script element: ASCII, without ``<``, ``>`` and ``&``."""
    return json.dumps(tree, ensure_ascii=True, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a ``data:`` address of a media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def is_report_page(path: Path) -> bool:
    """Whether a file is a page of ours, which a new one may replace."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return MARK.encode() in file.read(4096)


def _asset(name: str) -> str:
    return (resources("asr") / "assets" / "report" / name).read_text(encoding="utf-8")


def _checksum(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
