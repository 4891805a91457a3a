"""Pictures with the captions of every source side by side."""

import base64
import io
import tarfile

from s4v_core import storage
from s4v_core.demo.world.captions import SOURCES
from s4v_core.pages.charts import escaped
from s4v_core.reproduction.exactness import read_captions, split_sentences
from s4v_core.reproduction.records import StudyFolder
from s4v_core.reproduction.world import DemoWorld

_PICTURES = 6
_CAPTIONER = "Share-Captioner"


def show_captions(folder: StudyFolder, world: DemoWorld) -> str:
    """The first pictures of pretraining; empty until they are drawn."""
    drawing, exported = world.draw("pretrain"), world.export_captions()
    done = folder.list_done()
    if drawing.key not in done:
        return ""
    told = {
        name: read_captions(folder.read_json(drawing, f"pretrain/{name}.json")) for name in SOURCES
    }
    if exported.key in done:
        told[_CAPTIONER] = read_captions(folder.read_json(exported, "captions.json"))
    shard = storage.join(drawing.locate(folder.runs), "pretrain", "pretrain-00000.tar")
    pictures = _read_pictures(storage.read(shard))
    cards = [
        _build_card(picture, {name: texts.get(key, "") for name, texts in told.items()})
        for key, picture in pictures.items()
    ]
    title = "<h2>The same pictures, captioned by every source</h2>"
    lengths = ", ".join(
        f"{name} {sum(map(len, texts.values())) / max(len(texts), 1):.0f}"
        for name, texts in told.items()
    )
    note = f"<p>Mean characters: {escaped(lengths)}. Sentences that are not so are marked.</p>"
    return f'{title}{note}<div class="cards">{"".join(cards)}</div>'


def _read_pictures(shard: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(shard)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file and len(found) < _PICTURES:
                found[f"pretrain-00000/{member.name.rpartition('.')[0]}"] = file.read()
    return found


def _build_card(picture: bytes, captions: dict[str, str]) -> str:
    image = base64.b64encode(picture).decode()
    exact = split_sentences(captions["teacher"])
    lines = []
    for name, caption in captions.items():
        is_detailed = name in ("imagined", _CAPTIONER)
        text = _mark_wrong(caption, exact) if is_detailed else escaped(caption)
        lines.append(f"<small>{escaped(name)}</small><p>{text or 'none'}</p>")
    return (
        f'<article><img src="data:image/jpeg;base64,{image}" alt=""><div class="text">'
        f"{''.join(lines)}</div></article>"
    )


def _mark_wrong(caption: str, exact: set[str]) -> str:
    """The caption with the sentences that are not so marked."""
    parts = [part.strip() for part in caption.split(".") if part.strip()]
    return " ".join(
        f"{escaped(part)}." if part in exact else f'<b class="error">{escaped(part)}.</b>'
        for part in parts
    )
