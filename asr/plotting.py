"""Draws pages of plots with matplotlib (extra ``plot``)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from asr.errors import PlotError
from asr.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
PAGE_INCHES = (4.6, 3.6)
"""Width and height of one panel."""


def legend_below(axis: Axes, columns: int = 2) -> None:
    """A legend under the axis and its label, where it covers no curve; the page grows by its height."""
    from matplotlib.transforms import ScaledTranslation

    figure = axis.get_figure(root=True)
    assert figure is not None
    lines = len(axis.get_legend_handles_labels()[1])
    under = axis.transAxes + ScaledTranslation(0, -30 / 72, figure.dpi_scale_trans)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=under, fontsize=8,
                ncols=min(columns, lines), frameon=False)  # fmt: skip
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.16 * math.ceil(lines / columns))


def page(rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure of ``rows`` times ``columns`` panels, without a window and without pyplot's global state."""
    require()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * PAGE_INCHES[0], rows * PAGE_INCHES[1]), dpi=120, layout="constrained")
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(rows * columns)]


def require() -> None:
    """Raise ``PlotError``, saying what to install, where matplotlib is missing; cheap enough to come before work."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PlotError(f"plots need matplotlib ({error}): pip install matplotlib, or the extra plot") from error


def save_page(figure: Figure, path: str | Path) -> None:
    """Write ``figure`` as PNG, whole or not at all; the suffix of ``path`` does not matter. Raises ``PlotError``."""
    path = Path(path)
    try:
        with atomic(path) as temporary:
            figure.savefig(temporary, format="png")
    except OSError as error:
        raise PlotError(f"{path}: cannot write the plot: {error.strerror or error}") from error


def readable_log_scale(axis: Axes) -> None:
    """A logarithmic y axis whose ticks are plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_yscale("log", nonpositive="mask")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def plain(words: str) -> str:
    """``words`` as matplotlib shows them literally: a pair of dollars would be mathematics."""
    return words.replace("$", r"\$")
