"""`report.html` of an evaluation: our figures beside the paper's, errors by kind of question, and
examples with their pictures."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from s4v_core.errors import StorageError
from s4v_core.evaluation.benchmark import Figure, Marked
from s4v_core.evaluation.catalogue import BENCHMARKS
from s4v_core.evaluation.scoring import Score
from s4v_core.images.guard import GuardedDecoder
from s4v_core.inputs.image_bytes import read_images
from s4v_core.pages.charts import escaped
from s4v_core.pages.frame import build_page
from s4v_core.pages.thumbnails import make_thumbnail, open_thumbnail_decoder
from s4v_core.records.plan import PlanHead
from s4v_core.records.planned_rows import read_new_rows
from s4v_core.runs.derived_files import write_derived

_NAMES = ("report.html", "evaluation-report.html")
_WRONG, _RIGHT = 6, 3
"""Examples of each benchmark that the page shows."""

_LONGEST_TEXT = 600
_WARNING = (
    "The paper's scores are the aim, not a promise: its released 7B model, run again with its own "
    "code, came to MME 1494.2 / 335.35, MMBench 66.5, MMBench-CN 58.4, SEED-Bench 64.8, VizWiz "
    "53.0 and ScienceQA 67.7 (ShareGPT4V, issue 19). MME moves by about 20 points by chance."
)


def write_report(
    output: str, scores: Sequence[Score], head: PlanHead, notice: str = ""
) -> str | None:
    """Write the page. It is derived, and may be written again at any time. A page of that name that
    is a user's stays as it is.

    Args:
        head: The plan of the run, which says where the images are.
        notice: A sentence shown above everything else.

    Returns:
        URI of the page; None if its names are taken by files that are not ours.
    """
    settings = escaped(json.dumps(head.settings, indent=2, ensure_ascii=False))
    sections = [
        _summarise(scores),
        _compare_with_paper(scores),
        *(_describe_benchmark(score) for score in scores),
        _show_examples(scores, head),
        f"<details><summary>Settings</summary><pre>{settings}</pre></details>",
    ]
    model = str(head.settings["model"])
    page = build_page("Evaluation", model, "".join(sections), notice)
    return write_derived(output, _NAMES, page.encode())


def _summarise(scores: Sequence[Score]) -> str:
    numbers = {
        "questions": sum(score.n for score in scores),
        "answered": sum(score.n - len(score.matched.missing) for score in scores),
        "without an answer": sum(len(score.matched.missing) for score in scores),
        "answers without a verdict": sum(len(score.unparsed) for score in scores),
    }
    items = "".join(f"<li><b>{value:,}</b>{escaped(name)}</li>" for name, value in numbers.items())
    return f'<ul class="figures">{items}</ul>'


_COLUMNS = (
    *("benchmark", "official", "lenient", "ShareGPT4V-7B", "ShareGPT4V-13B", "LLaVA-1.5-13B"),
    *("questions", "missing", "unparsed", "images", "judge"),
)
_FIRST_NUMBER, _LAST_NUMBER = 1, 8


def _compare_with_paper(scores: Sequence[Score]) -> str:
    """Our columns beside the paper's Table 3, as it orders them."""
    order = list(BENCHMARKS)
    ordered = sorted(scores, key=lambda score: order.index(score.benchmark.name))
    rows = "".join(_build_row(cells) for score in ordered for cells in _list_columns(score))
    head = "".join(f"<th{_align(at)}>{escaped(name)}</th>" for at, name in enumerate(_COLUMNS))
    return (
        "<h2>Beside the paper's Table 3</h2>"
        f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div><p>{escaped(_WARNING)}</p>'
    )


def _list_columns(score: Score) -> Iterator[list[str]]:
    """A row for each of the paper's figures, or for the headline if it has none."""
    names = list(score.benchmark.published) or [next(iter(score.official), "")]
    judge = ", ".join(score.judges) or ("not judged" if score.benchmark.is_judged else "none")
    framing = score.asked.get("framing") or "none"
    for name in names:
        known = score.benchmark.published.get(name)
        targets = (known.share_7b, known.share_13b, known.llava_13b) if known else ()
        yield [
            ", ".join(filter(None, (score.benchmark.title, name))) + f"\n{score.benchmark.scorer}",
            _format(score.official.get(name)),
            _format(score.lenient.get(name)),
            *(f"{target}" for target in targets or ("", "", "")),
            f"{score.n:,}",
            f"{len(score.matched.missing):,}",
            f"{len(score.unparsed):,}",
            f"{framing}\n({score.asked.get('image_mode')})",
            judge,
        ]


def _format(figure: Figure | None) -> str:
    return f"{figure.value:.2f}" if figure and figure.n else "none"


def _build_row(cells: Sequence[str]) -> str:
    row = "".join(f"<td{_align(at)}>{_break(cell)}</td>" for at, cell in enumerate(cells))
    return f"<tr>{row}</tr>"


def _break(cell: str) -> str:
    """A cell whose second line, if it has one, is small."""
    first, _, second = cell.partition("\n")
    return escaped(first) + (f"<br><small>{escaped(second)}</small>" if second else "")


def _align(at: int) -> str:
    return " class=number" if _FIRST_NUMBER <= at <= _LAST_NUMBER else ""


def _describe_benchmark(score: Score) -> str:
    """Every figure of a benchmark, warnings, and why questions have no answer."""
    notes = [*([score.unscored] if score.unscored else []), *score.warnings]
    notes += [f"no answer: {number:,} {reason}" for reason, number in score.reasons.items()]
    listed = "".join(f'<p class="notice">{escaped(note)}</p>' for note in notes)
    return f"<h2>{escaped(score.benchmark.title)}</h2>{listed}{_list_figures(score)}"


def _list_figures(score: Score) -> str:
    if not score.official:
        return ""
    errors = _count_errors(score)
    rows = []
    for name, figure in score.official.items():
        if not figure.n:
            continue
        lenient = _format(score.lenient.get(name))
        rows.append(
            f"<tr><td>{escaped(name)}</td><td class=number>{figure.value:.2f}</td>"
            f"<td class=number>{lenient}</td><td class=number>{figure.n:,}</td></tr>"
        )
    head = "<tr><th>figure<th class=number>official<th class=number>lenient<th class=number>n</tr>"
    return f"<table>{head}{''.join(rows)}</table>{errors}"


def _count_errors(score: Score) -> str:
    """Wrong answers by the labels of their questions."""
    found: dict[str, list[int]] = {}
    for one in score.matched.marked:
        for name, value in one.question.labels.items():
            if value:
                counts = found.setdefault(f"{name}: {value}", [0, 0])
                counts[0] += is_wrong(one)
                counts[1] += 1
    rows = "".join(
        f"<tr><td>{escaped(name)}</td><td class=number>{wrong:,} of {n:,}</td>"
        f'<td class="bar"><i style="width:{100 * wrong / n:.1f}%"></i></td></tr>'
        for name, (wrong, n) in sorted(found.items(), key=lambda item: -item[1][0] / item[1][1])
    )
    return f"<h3>Wrong, by kind of question</h3><table>{rows}</table>" if rows else ""


def is_wrong(one: Marked) -> bool:
    """Whether an answer has less than the whole official credit."""
    return one.mark.official < one.mark.against


def _show_examples(scores: Sequence[Score], head: PlanHead) -> str:
    picked = [(score, one) for score in scores for one in pick_examples(score)]
    wanted = {f"{score.benchmark.name}/{one.question.key}" for score, one in picked}
    places = _find_places(head, wanted)
    decoder = open_thumbnail_decoder()
    cards = [
        _build_card(score, one, _read_thumbnail(decoder, places, score, one))
        for score, one in picked
    ]
    decoder.close()
    title = "<h2>Examples, wrong ones first</h2>"
    return f'{title}<div class="cards">{"".join(cards)}</div>' if cards else ""


def pick_examples(score: Score) -> list[Marked]:
    """Wrong and right answers at even distances over the questions; all count as wrong while
    nothing is scored."""
    marked = score.matched.marked
    if score.unscored:
        return _spread(marked, _WRONG)
    wrong = [one for one in marked if is_wrong(one)]
    right = [one for one in marked if not is_wrong(one)]
    return _spread(wrong, _WRONG) + _spread(right, _RIGHT)


def _spread(marked: Sequence[Marked], count: int) -> list[Marked]:
    count = min(count, len(marked))
    return [marked[at * len(marked) // count] for at in range(count)]


def _find_places(head: PlanHead, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Planned rows by answer_id."""
    tables = (table for part in head.parts for _, table in read_new_rows(part))
    rows = (row for table in tables for row in table.to_pylist())
    return {row["answer_id"]: row for row in rows if row["answer_id"] in wanted}


def _read_thumbnail(
    decoder: GuardedDecoder, places: Mapping[str, dict[str, Any]], score: Score, one: Marked
) -> str:
    place = places.get(f"{score.benchmark.name}/{one.question.key}")
    if place is None or place["container"] is None:
        return ""
    try:
        return make_thumbnail(decoder, read_images([place])[0])
    except StorageError:
        return ""


def _build_card(score: Score, one: Marked, picture: str) -> str:
    image = (
        f'<img src="{picture}" alt="" loading="lazy">' if picture else '<div class="none"></div>'
    )
    return (
        f'<article>{image}<div class="text">{_describe_verdict(score, one)}'
        f'<p class="tokens">{escaped(_cut(one.question.prompt))}</p>'
        f"<p><b>{escaped(_cut(one.text) if one.text is not None else 'no answer')}</b></p>"
        f"<small>{escaped(score.benchmark.title)}<br>{escaped(_cut(one.question.key))}"
        f"{_describe_gold(one)}</small></div></article>"
    )


def _describe_verdict(score: Score, one: Marked) -> str:
    if score.unscored:
        return "<b>not scored</b>"
    kind, word = ("rejected", "wrong") if is_wrong(one) else ("ok", "right")
    partly = f", credit {one.mark.official:.2f}" if 0 < one.mark.official < one.mark.against else ""
    return f'<b class="{kind}">{word}{partly}</b>'


def _describe_gold(one: Marked) -> str:
    """The right answer, and the text of its option."""
    gold = one.question.gold or ", ".join(dict.fromkeys(one.question.humans))
    option = one.question.options.get(gold, "")
    shown = f"{gold}. {option}" if option else gold
    return f"<br>right: {escaped(_cut(shown))}" if gold else ""


def _cut(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "\u2026"
