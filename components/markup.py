"""The few pieces of HTML that a report is made of; whatever text goes in is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

STYLE = """
:root { --ink: #22303c; --soft: #5d6b79; --line: #dfe4ea; --accent: #0b6e75; --paper: #a3195b; --bad: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.5rem 4rem; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .5rem; padding-top: .9rem; border-top: 2px solid var(--line); }
p { margin: .5rem 0; } .soft, caption, figcaption { color: var(--soft); font-size: .88rem; }
.lead { font-size: 1.08rem; } ul { margin: .4rem 0; padding-left: 1.2rem; }
.notice { border-left: 4px solid var(--paper); background: #fbf3f7; padding: .6rem .9rem; margin: 1rem 0; }
.failure { border-left-color: var(--bad); background: #fdf3f2; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; margin: .7rem 0; font-size: .92rem; }
caption { caption-side: bottom; text-align: left; padding-top: .5rem; }
th, td { padding: .38rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; border-bottom: 2px solid var(--ink); } td.number, th.number { text-align: right;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
tr.published td { color: var(--paper); } tr.group td { font-weight: 600; background: #f5f7f9; }
tr.failed td { color: var(--bad); } .interval, .spread { color: var(--soft); font-size: .85em; }
.tag { display: inline-block; padding: 0 .4rem; border: 1px solid currentColor; border-radius: .6rem; font-size: .76rem;
  white-space: nowrap; } .tag.recalled, .tag.test { border-style: dashed; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; } details { margin: .8rem 0; }
summary { cursor: pointer; font-weight: 600; } code { font-size: .88em; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; } .told { min-width: 17rem; }
pre { overflow-x: auto; font-size: .85rem; }
@media (max-width: 40rem) { body { padding: 1.2rem .9rem 3rem; } h1 { font-size: 1.5rem; } dl { gap: .25rem .8rem; } }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


class Html(str):
    """Text that is markup already; any other text is escaped where it is put in."""

    __slots__ = ()


def text(value: object) -> Html:
    return value if isinstance(value, Html) else Html(escape(str(value)))


def joined(parts: Iterable[object]) -> Html:
    return Html("".join(text(part) for part in parts))


def element(name: str, *parts: object, kind: str = "") -> Html:
    attribute = f' class="{escape(kind)}"' if kind else ""
    return Html(f"<{name}{attribute}>{joined(parts)}</{name}>")


def section(title: str, *parts: object, name: str) -> Html:
    return Html(f'<section id="{escape(name)}">{element("h2", title)}{joined(parts)}</section>\n')


def table(head: Sequence[object], rows: Iterable[tuple[str, Sequence[object]]], *, caption: object = "") -> Html:
    """A table; a row is its class and its cells, or one cell over all columns. A head that begins with `#` is that of
    a column of numbers."""
    is_number = [str(cell).startswith("#") for cell in head]
    names = [cell if isinstance(cell, Html) else str(cell).removeprefix("#") for cell in head]
    top = joined(
        element("th", name, kind="number" if number else "") for name, number in zip(names, is_number, strict=True)
    )
    body = joined(_row(kind, cells, is_number) for kind, cells in rows)
    foot = element("caption", caption) if caption else ""
    inner = f"{foot}<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    # Whoever has no pointer scrolls a wide table by the keyboard.
    return Html(f'<div class="scroll" tabindex="0"><table>{inner}</table></div>\n')


def picture(address: str, *, alt: str, caption: object) -> Html:
    image = Html(f'<img src="{escape(address)}" alt="{escape(alt)}">')
    return element("figure", image, element("figcaption", caption))


def facts(pairs: Mapping[str, object]) -> Html:
    return element(
        "dl", *(part for name, value in pairs.items() for part in (element("dt", name), element("dd", value)))
    )


def details(title: str, *parts: object, is_open: bool = False) -> Html:
    return Html(f"<details{' open' if is_open else ''}><summary>{text(title)}</summary>{joined(parts)}</details>\n")


def page(title: str, *parts: object) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body><main>{joined(parts)}</main></body></html>\n"
    )


def _row(kind: str, cells: Sequence[object], is_number: Sequence[bool]) -> Html:
    if len(cells) == 1:
        return element("tr", Html(f'<td colspan="{len(is_number)}">{text(cells[0])}</td>'), kind=kind)
    inner = joined(
        element("td", cell, kind="number" if number else "") for cell, number in zip(cells, is_number, strict=True)
    )
    return element("tr", inner, kind=kind)
