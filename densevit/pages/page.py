"""Writing a page: one HTML file that opens offline, with its style, its script and its pictures inside."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from ..evaluation.tables import write_text

__all__ = ['Card', 'Column', 'environment', 'write_page']

_FOLDER = Path(__file__).parent


class Column(NamedTuple):
    """A column of a page's table.

    Attributes:
        key: of the value in a row's dictionary.
        title: what stands above it.
        digits: decimals of a number; None: the value is text.
        help: what the numbers are, where the title does not say it; shown where the pointer or the focus is.
    """

    key: str
    title: str
    digits: int | None = None
    help: str = ''


class Card(NamedTuple):
    """A picture, or several of one thing side by side, in a page's gallery.

    Attributes:
        title: what is shown, such as a file's name.
        pictures: small ones, :class:`densevit.pages.thumbnails.Picture`; each has its own caption.
        text: a line below the title.
        large: larger ones for the full view; without them it shows ``pictures``.
        words: what the filter box finds it by, beside title and text.
        order: numbers by which the gallery can be ordered, by name; None counts as unknown and stands last.
    """

    title: str
    pictures: Sequence[Any]
    text: str = ''
    large: Sequence[Any] = ()
    words: str = ''
    order: dict[str, float | None] = {}


def write_page(path: str | Path, template: str, *, title: str, plots: bool = False, **data: Any) -> Path:
    """Write a page, whole or not at all; return its path.

    Args:
        path: the file; its folder is made.
        template: a file in ``densevit/pages/templates`` that extends ``base.html.j2``.
        title: heading of the page.
        plots: the page has plots, so plotly's script travels in it: 4.8 MB.
        data: what the template asks for. Every page knows ``subtitle``, ``conditions``, rows of ``name``, ``value``
            and ``unusual`` that stand below it, and ``sections``, pairs of a section's id and its name in the
            navigation. Text is escaped.
    """
    page = (
        environment()
        .get_template(template)
        .render(
            title=title, plotly=_plotly() if plots else None, style=_asset('base.css'), script=_asset('base.js'), **data
        )
    )
    write_text(path, page)
    return Path(path)


@cache
def environment() -> jinja2.Environment:
    """Jinja2 with the package's templates. Everything is escaped; an unknown name is an error."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / 'templates'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals['column'] = Column
    env.filters.update(number=number, inline_json=inline_json, known=_known)
    return env


def number(value: float | None, digits: int | None = None) -> str:
    """A number as text; a dash for what is not known."""
    if not _known(value):
        return '–'
    return str(value) if digits is None or isinstance(value, str) else f'{value:,.{digits}f}'


def inline_json(value: Any) -> Markup:
    """A value as JSON, or a text that already is JSON, such that it can stand in a script element."""
    text = value if isinstance(value, str) else json.dumps(value, allow_nan=False, separators=(',', ':'))
    return Markup(text.replace('<', '\\u003c').replace('\u2028', '\\u2028').replace('\u2029', '\\u2029'))


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _asset(name: str) -> Markup:
    return Markup((_FOLDER / name).read_text(encoding='utf-8'))


@cache
def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs  # imports numpy and reads 5 MB

    return Markup(get_plotlyjs())
