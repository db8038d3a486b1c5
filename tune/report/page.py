"""A document as one HTML page that needs nothing else: no network, no server, no other file.

Everything that came from a study is escaped by the template; the only scripts that a browser may run are the two whose digests
stand in the page's own content policy (Plotly, and `page.js`), so that a name with markup in it cannot become code.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tune.report.document import Document
from tune.report.markdown import figure_id
from tune.report.theme import THEMES


def page(document: Document) -> str:
    """The whole page as text. Plotly (5 MB) is in it only if there is a plot."""
    from plotly.offline import get_plotlyjs

    figures = {figure_id(figure.name): figure.plot for section in document.sections for figure in section.figures}
    scripts = [get_plotlyjs(), _part("page.js")] if figures else []
    return _template().render(
        document=document,
        style=Markup(_part("page.css")),
        policy=Markup(
            "; ".join(
                (
                    "default-src 'none'",
                    "img-src data: blob:",
                    "style-src 'unsafe-inline'",
                    "script-src " + (" ".join(f"'{_digest(script)}'" for script in scripts) or "'none'"),
                )
            )
        ),
        data=Markup(_json({"figures": figures, "themes": THEMES})) if figures else None,
        scripts=[Markup(script) for script in scripts],
        figure_id=figure_id,
    )


def _json(value: Mapping[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", "\\u2028")


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _part(name: str) -> str:
    return resources.files("tune.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_part("page.html.j2"))
