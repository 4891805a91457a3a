"""`report.html`: one self-contained page with counts, and captions beside their pictures."""

import base64
import html
import io
import json
import random
from typing import Any

from PIL import Image

from s4v_core import storage
from s4v_core.captioning.statistics import RunCounts
from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Decoded, Framing
from s4v_core.records import plan, units
from s4v_core.records.reading import read_images

REPORT_NAME = "report.html"
SHOWN_ROWS = 96
SHOWN_UNITS = 12
THUMBNAIL_PX = 192

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}
h1{font-size:1.5rem} table{border-collapse:collapse;width:100%}
td,th{padding:.5rem .75rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
td.picture{width:200px} img{max-width:192px;max-height:192px;display:block}
.id{color:#666;font-size:.85rem;overflow-wrap:anywhere} .caption{overflow-wrap:anywhere}
.error{color:#a40000} .rejected{color:#8a5a00} .notice{background:#fff4d6;padding:.75rem 1rem}
.figures{display:flex;flex-wrap:wrap;gap:1.5rem;padding:0;list-style:none}
.figures b{display:block;font-size:1.4rem}
"""


def write_report(
    output: str, head: plan.PlanHead, counts: RunCounts, figures: dict[str, Any], notice: str = ""
) -> None:
    """Write the page; it is derived, and may be written again at any time.

    Args:
        notice: A sentence that stands above everything else.
    """
    shown = _sampled_rows(output, head)
    rows = [_row(row, picture) for row, picture in shown]
    page = _page(head, counts, figures, rows, notice)
    storage.replace(storage.join(output, REPORT_NAME), page.encode())


def first_captions(output: str, count: int) -> list[tuple[str, str]]:
    """Image id and caption (or reason) of the first rows that are done."""
    shown: list[tuple[str, str]] = []
    for unit in sorted(units.done_units(output)):
        rows = units.read_unit(output, unit).slice(0, count - len(shown)).to_pylist()
        shown += [(row["image_id"], _said(row)) for row in rows]
        if len(shown) == count:
            break
    return shown


def _said(row: dict[str, Any]) -> str:
    return str(row["caption"]) if row["status"] == "ok" else f"{row['status']}: {row['reason']}"


def _sampled_rows(output: str, head: plan.PlanHead) -> list[tuple[dict[str, Any], str]]:
    """Rows of some units, the same ones every time, each with its thumbnail as a data URI."""
    chance = random.Random(head.digest)
    done = sorted(units.done_units(output) & set(range(len(head.unit_rows))))
    chosen = sorted(chance.sample(done, min(SHOWN_UNITS, len(done))))
    decoder = GuardedDecoder(DecodeConfig(), Framing("fit", THUMBNAIL_PX))
    shown = []
    for unit in chosen:
        rows = units.read_unit(output, unit).to_pylist()
        places = chance.sample(range(len(rows)), min(-(-SHOWN_ROWS // len(chosen)), len(rows)))
        planned = plan.read_planned_unit(output, unit).take(sorted(places)).to_pylist()
        for at, image in zip(sorted(places), read_images(planned), strict=True):
            shown.append((rows[at], _thumbnail(decoder, image)))
    decoder.close()
    return shown


def _thumbnail(decoder: GuardedDecoder, image: bytes | str) -> str:
    decoded = decoder.decode(image) if isinstance(image, bytes) else None
    if not isinstance(decoded, Decoded):
        return ""
    size = (decoded.pixel_width, decoded.pixel_height)
    sink = io.BytesIO()
    Image.frombytes("RGB", size, decoded.pixels).save(sink, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def _row(row: dict[str, Any], picture: str) -> str:
    image = f'<img src="{picture}" alt="" loading="lazy">' if picture else "no picture"
    return (
        f'<tr><td class="picture">{image}</td><td><div class="caption {row["status"]}">'
        f'{_safe(_said(row))}</div><div class="id">{_safe(row["image_id"])}</div></td></tr>'
    )


def _page(
    head: plan.PlanHead, counts: RunCounts, figures: dict[str, Any], rows: list[str], notice: str
) -> str:
    numbers = {
        "images": counts.images,
        "captioned": counts.ok,
        "rejected": counts.rejected,
        "errors": counts.error,
        "images per second": figures["images_per_s"],
    }
    listed = "".join(f"<li><b>{_safe(v)}</b>{_safe(k)}</li>" for k, v in numbers.items())
    reasons = "".join(
        f"<tr><td>{_safe(r)}</td><td>{n}</td></tr>" for r, n in counts.reasons.items()
    )
    table = f"<h2>Reasons</h2><table>{reasons}</table>" if reasons else ""
    warning = f'<p class="notice">{_safe(notice)}</p>' if notice else ""
    settings = _safe(json.dumps(head.settings, indent=2, ensure_ascii=False))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Captions are untrusted text: nothing of them may run or load.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f"<title>Captions</title><style>{_STYLE}</style></head><body><h1>Captions</h1>"
        f"<p>{_safe(head.settings['model'])}</p>{warning}"
        f'<ul class="figures">{listed}</ul>{table}'
        f"<h2>{len(rows)} of {counts.images} images</h2><table>{''.join(rows)}</table>"
        f"<h2>Settings</h2><pre>{settings}</pre></body></html>"
    )


def _safe(value: object) -> str:
    return html.escape(str(value))
