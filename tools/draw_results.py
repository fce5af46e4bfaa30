"""Draw the README's chart of results: one panel of bars for each section of a YAML file of figures.

python tools/draw_results.py docs/results.yaml docs/results.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

import asr
from asr import plotting

COLOURS = {"asr": "#1f77b4", "peer": "#b8bec6"}


def draw(axis: Any, section: dict[str, Any]) -> None:
    """Horizontal bars with their values, best on top, over a logarithmic axis where the values span more than 20."""
    kinds, labels, values = zip(*section["bars"], strict=True)
    places = range(len(values), 0, -1)
    bars = axis.barh(list(places), values, color=[COLOURS[kind] for kind in kinds], height=0.72)
    axis.bar_label(bars, [f"{value:g}" for value in values], padding=3, fontsize=8)
    axis.set_yticks(list(places), labels, fontsize=8)
    axis.set_title(section["title"], fontsize=9, loc="left")
    if max(values) > 20 * min(values):
        axis.set_xscale("log")
        axis.set_xlim(0.8 * min(values), 2 * max(values))
    else:
        axis.set_xlim(0, 1.1 * max(values))
    axis.xaxis.set_visible(False)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    axis.tick_params(left=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, metavar="YAML")
    parser.add_argument("output", type=Path, metavar="PNG")
    args = parser.parse_args()
    sections = list(yaml.safe_load(args.figures.read_text(encoding="utf-8")).values())
    try:
        figure, axes = plotting.page(1, len(sections))
        figure.set_size_inches(10, 2.9)
        for axis, section in zip(axes, sections, strict=True):
            draw(axis, section)
        plotting.save_page(figure, args.output)
    except asr.AsrError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
