"""Pages of ours that need no other file (HTML)."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL import Image

from vesearch.photos.ours import GENERATOR
from vesearch.system.printable import printable

_STYLE = """
:root { color-scheme: light dark; --quiet: #68707a }
body { font: 16px/1.45 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem;
  max-width: 1400px }
h1 { font-size: 1.3rem; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin-top: 2rem }
.query { max-width: min(100%, 640px); height: auto; border-radius: 10px }
ol { list-style: none; padding: 0; display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)) }
li img { width: 100%; height: auto; border-radius: 10px; display: block; margin-bottom: .4rem }
li, li a { overflow-wrap: anywhere; color: inherit }
small { color: var(--quiet); display: block }
@media (prefers-color-scheme: dark) { :root { --quiet: #9aa3ad } }
"""


def document(title: str, body: str) -> str:
    """Return a page, light and dark; title and body: HTML."""
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n{GENERATOR.decode()}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>\n{body}\n</html>\n"
    )


def told(name: str) -> str:
    """Return a text as HTML shows it, controls escaped."""
    return escape(printable(name))


def embedded(picture: Image.Image) -> str:
    """Return a picture as a URL that holds it (RFC 2397)."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
