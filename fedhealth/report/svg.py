"""A matplotlib figure as an SVG element that belongs to the page it stands in.

The figure takes the page's typeface and colours: text inherits the font, and each colour of
`COLOURS` is written as a CSS variable, so that one picture serves a light and a dark screen
and the printer. Same figure, same text: no date, and ids that hash the content.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from warnings import catch_warnings, filterwarnings
from xml.etree import ElementTree as ET

import matplotlib as mpl
import matplotlib.style
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Colour by role, Okabe and Ito's palette for the four models. A page sets `--<role>` to another
#: tone where its background asks for one.
COLOURS = {
    "local": "#d55e00",
    "federated": "#0072b2",
    "pooled": "#009e73",
    "oracle": "#6f7781",
    "ink": "#1b2026",
    "muted": "#5c6570",
    "rule": "#d9dee4",
    "paper": "#fefefe",
}

_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 12,
    "text.parse_math": False,
    "text.color": COLOURS["ink"],
    "axes.titlesize": 12,
    "axes.titleweight": "semibold",
    "axes.titlelocation": "left",
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "legend.frameon": True,
    "legend.facecolor": COLOURS["paper"],
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fancybox": False,
    "legend.handlelength": 1.8,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """An inline SVG with its words.

    Attributes:
        svg: the element, without XML declaration, namespaces or any address.
        width: the width in CSS pixels at which its text has the page's size.
    """

    svg: str
    width: int


@contextmanager
def house_style() -> Iterator[None]:
    """The look of every figure, whatever the machine's own matplotlibrc says."""
    with catch_warnings(), mpl.style.context(["default", _STYLE]):
        # The page's own fonts draw the text, so a glyph that matplotlib's lacks is no loss.
        filterwarnings("ignore", message="Glyph .* missing from")
        yield


def canvas(width: int, height: int, *, constrained: bool = True) -> Figure:
    """An empty figure of that many CSS pixels, 72 to matplotlib's inch."""
    return Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained" if constrained else None)


def picture(figure: Figure, *, name: str, title: str, description: str) -> Picture:
    """The figure as an element: `name` makes its ids unique in the page, the words are its alternative text."""
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    root = ET.fromstring(text.getvalue())  # noqa: S314 (written three lines above)
    for element in root.iter():
        _settle(element)
    for declared in [child for child in root if child.find("style") is not None]:
        root.remove(declared)
    width, height = (float(x) for x in root.attrib["viewBox"].split()[2:])
    root.attrib.clear()
    root.attrib.update(
        viewBox=f"0 0 {width:g} {height:g}", role="img", **{"aria-labelledby": f"{name}-title {name}-desc"}
    )
    for place, (tag, words) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(tag, id=f"{name}-{tag}")
        element.text = words
        root.insert(place, element)
    return Picture(svg=ET.tostring(root, encoding="unicode"), width=round(width))


def standalone(found: Picture) -> str:
    """The picture as an SVG file that takes nothing from a page: its own namespaces, size, font, colours and paper."""
    root = ET.fromstring(re.sub(r"var\(--(\w+)\)", lambda role: COLOURS[role[1]], found.svg))  # noqa: S314 (ours)
    for element in root.iter():
        if "href" in element.attrib:
            element.attrib["xlink:href"] = element.attrib.pop("href")
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib |= {"xmlns": "http://www.w3.org/2000/svg", "xmlns:xlink": "http://www.w3.org/1999/xlink",
                    "width": width, "height": height, "font-family": "Helvetica, Arial, DejaVu Sans, sans-serif"}  # fmt: skip
    title, description = root[:2]
    paper = ET.Element("rect", width=width, height=height, fill=COLOURS["paper"])
    root[:2] = [title, description, paper]
    return ET.tostring(root, encoding="unicode") + "\n"


#: The ids that something refers to: a type's letter, then ten hexadecimal digits.
_REFERRED = re.compile(r"[a-z][0-9a-f]{10}")
_ROLES = {colour: f"var(--{role})" for role, colour in COLOURS.items()}


def _settle(element: ET.Element) -> None:
    """Drop namespaces, ids that nobody refers to and the font; name the colours by role."""
    element.tag = element.tag.rpartition("}")[2]
    attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    if not _REFERRED.fullmatch(attributes.get("id", "")):
        attributes.pop("id", None)
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    if "style" in attributes:
        style = re.sub(r"font-family: [^;]*(; )?", "", attributes["style"])
        attributes["style"] = re.sub(r"#[0-9a-f]{6}", lambda found: _ROLES.get(found[0], found[0]), style)
    element.attrib.clear()
    element.attrib.update(attributes)
    element.text = element.text if (element.text or "").strip() else None
    element.tail = None
