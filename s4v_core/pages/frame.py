"""The frame of every page that this project writes: self-contained, and it loads nothing."""

import base64
import hashlib
from importlib import resources

from s4v_core.pages.charts import escaped


def build_page(
    title: str,
    subject: str,
    body: str,
    notice: str = "",
    script: str = "",
    style: str = "",
    asks_server: bool = False,
) -> str:
    """A whole page as HTML.

    Args:
        title, subject: Its heading, and the line below.
        body: HTML; every text of others in it must be escaped.
        notice: A sentence shown above everything else.
        script: JavaScript; nothing else of the page may run.
        style: Further rules of CSS.
        asks_server: Whether it may send requests to the server that it came from.
    """
    warning = f'<p class="notice">{escaped(notice)}</p>' if notice else ""
    look = resources.files(__package__).joinpath("page.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    runs = f"; script-src 'sha256-{digest}'" if script else ""
    server = " 'self'; connect-src 'self'" if asks_server else ""
    ending = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Captions are untrusted text: nothing of them may run or load.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"img-src data:{server}; style-src 'unsafe-inline'{runs}\">"
        f"<title>{escaped(title)}: {escaped(subject)}</title><style>{look}{style}</style></head>"
        f"<body><h1>{escaped(title)}</h1><p>{escaped(subject)}</p>{warning}{body}{ending}</body></html>"
    )
