"""The look of figures that may stand in a paper: on light and on dark paper, as PNG and SVG, for all eyes."""

import io
from collections.abc import Callable

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Okabe and Ito's colours, which the colour-blind tell apart; all of these stand out on white and on near-black.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
SHADES = "viridis"  # of matrices: even in lightness, so that the colour-blind and grey prints keep the order
INK, PAPER = "#1a1a1a", "#ffffff"
COMMON = {"font.size": 9, "axes.titlesize": 9, "axes.grid": False, "image.interpolation": "nearest"}


def _style(ink: str, paper: str) -> dict[str, object]:
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    papered = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    return COMMON | dict.fromkeys(inked, ink) | dict.fromkeys(papered, paper)


STYLES = {"": _style(INK, PAPER), "_dark": _style("#e6e6e6", "#121212")}


def render(name: str, draw: Callable[[], plt.Figure]) -> dict[str, bytes]:
    """{file name: contents}: NAME.png and NAME.svg on white, NAME_dark.png and NAME_dark.svg on near-black.

    Args: draw: makes the figure; colours of text, lines and paper it leaves to the style.
    """
    files = {}
    for suffix, style in STYLES.items():
        with matplotlib.rc_context(style):
            figure = draw()
            for kind in ("png", "svg"):
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, dpi=200)
                files[f"{name}{suffix}.{kind}"] = buffer.getvalue()
            plt.close(figure)
    return files
