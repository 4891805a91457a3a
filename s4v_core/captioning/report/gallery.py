"""Cards, each with a picture and its caption."""

from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from s4v_core.captioning.field_rows import read_account
from s4v_core.captioning.first_captions import describe_row
from s4v_core.captioning.report.survey import Pick, Survey, check_row, read_picks
from s4v_core.errors import StorageError
from s4v_core.inputs.image_bytes import read_images
from s4v_core.pages.charts import escaped
from s4v_core.pages.thumbnails import make_thumbnail, open_thumbnail_decoder

_READS = 16


def build_cards(output: str, survey: Survey, settings: Mapping[str, Any]) -> str:
    """HTML of all picked rows; a row of several kinds is shown once.

    Args:
        settings: Settings of the run's plan.
    """
    kinds: dict[Pick, list[str]] = defaultdict(list)
    for kind, picks in survey.picks.items():
        for pick in picks:
            kinds[pick].append(kind)
    found = list(read_picks(output, list(kinds), settings))
    with ThreadPoolExecutor(_READS) as pool:
        images = list(pool.map(_read_image, (planned for _, _, planned in found)))
    decoder = open_thumbnail_decoder()
    shown = {
        pick: _build_card(row, kinds[pick], make_thumbnail(decoder, image))
        for (pick, row, _), image in zip(found, images, strict=True)
    }
    decoder.close()
    return "".join(shown[pick] for pick in kinds)  # in the order of the kinds


def _read_image(planned: dict[str, Any]) -> bytes | str:
    try:
        return read_images([planned])[0]
    except StorageError:
        return "unreadable"


def _build_card(row: dict[str, Any], kinds: list[str], picture: str) -> str:
    image = (
        f'<img src="{picture}" alt="" loading="lazy">' if picture else '<div class="none"></div>'
    )
    reason = (
        ""
        if row["status"] == "ok"
        else f'<b class="{row["status"]}">{escaped(describe_row(row))}</b>'
    )
    facts = [row["source"], f"{row['output_tokens'] or 0} tokens"]
    facts += [f"{row['attempts']} attempts"] if row["attempts"] > 1 else []
    facts += [f"quality {row['quality']:.3f}"] if row["quality"] is not None else []
    flag = check_row(row)
    flagged = f'<b class="rejected">{escaped(flag.as_text())}</b>' if flag else ""
    return (
        f'<article data-kinds="{" ".join(kinds)}" data-source="{escaped(row["source"])}">{image}'
        f'<div class="text">{reason}{flagged}{_list_texts(row)}'
        f"<small>{escaped(row['image_id'])}<br>{escaped(' · '.join(facts))}</small></div></article>"
    )


def _list_texts(row: dict[str, Any]) -> str:
    """The caption; or every field by its name, with the reason where it is not ok."""
    account = read_account(row)
    if not account:
        return f"<p>{escaped(row['caption'] or '')}</p>"
    lines = {
        name: row[name] if one["status"] == "ok" else f"{one['status']}: {one['reason']}"
        for name, one in account.items()
    }
    return "".join(f"<p><b>{escaped(k)}</b> {escaped(v)}</p>" for k, v in lines.items())
