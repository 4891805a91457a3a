"""`report.html` of a training run: curves, speed, lost samples, and samples as the model sees
them."""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from s4v_core.errors import StorageError
from s4v_core.images.guard import GuardedDecoder
from s4v_core.inputs.image_bytes import read_images
from s4v_core.pages.charts import curves, escaped
from s4v_core.pages.frame import build_page
from s4v_core.pages.thumbnails import make_thumbnail, open_thumbnail_decoder
from s4v_core.runs.derived_files import write_derived
from s4v_core.training.evaluation_records import Evaluation
from s4v_core.training.outcome import Outcome
from s4v_core.training.stage import TrainStage
from s4v_core.training.worker.step_metrics import StepMetrics

_NAMES = ("report.html", "training-report.html")
_SHOWN_SAMPLES = 12
_MOST_POINTS = 300
_LONGEST_TEXT = 1500
"""Characters of a sample that the page shows."""

_CURVES: tuple[tuple[str, Callable[[StepMetrics], float]], ...] = (
    ("Gradient norm before clipping", lambda m: m.grad_norm),
    ("Learning rate", lambda m: m.learning_rate),
    ("Tokens a second", lambda m: m.tokens_per_s),
    ("Learnt tokens of a step", lambda m: m.learnt_tokens),
    ("Share of a step that waits for data", lambda m: m.data_wait_s / max(m.step_s, 1e-9)),
)


def write_report(job: TrainStage, outcome: Outcome, samples: str, tokenizer: Any) -> str | None:
    """Write the page. It is derived, and may be written again at any time. A page of that name that
    is a user's stays as it is.

    Args:
        samples: Local path of the table of samples.
        tokenizer: The run's tokenizer.

    Returns:
        URI of the page; None if its names are taken by files that are not ours.
    """
    left = outcome.steps - outcome.done
    notice = f"{left:,} of {outcome.steps:,} steps are missing." if left else ""
    sections = [
        _summarise(job, outcome),
        _draw_curves(outcome.metrics, outcome.evaluations),
        _list_reasons("Left out before the run", outcome.skipped),
        _list_reasons("Images that could not be read during the run", outcome.audit.skipped),
        _show_samples(samples, tokenizer),
        f"<details><summary>Settings</summary><pre>{escaped(job.model_dump_json(indent=2))}</pre>"
        "</details>",
    ]
    page = build_page(f"Training: {job.stage}", job.model, "".join(sections), notice)
    return write_derived(outcome.output, _NAMES, page.encode())


def _summarise(job: TrainStage, outcome: Outcome) -> str:
    metrics = outcome.metrics
    seconds = sum(m.step_s for m in metrics) or 1e-9
    workers = max(job.workers, 1)
    known = [m.mfu for m in metrics if m.mfu is not None]
    numbers = {
        "steps": f"{outcome.done:,}",
        "samples of an epoch": f"{outcome.samples:,}",
        "left out": f"{sum(outcome.skipped.values()):,}",
        "loss at first": f"{metrics[0].loss:.3f}" if metrics else "",
        "loss at the end": f"{_average_last(metrics):.3f}" if metrics else "",
        "tokens a second": f"{sum(m.tokens for m in metrics) / seconds:,.0f}",
        "images a second": f"{sum(m.images for m in metrics) / seconds:,.1f}",
        "waiting for data": f"{sum(m.data_wait_s for m in metrics) / seconds:.1%}",
        "MFU": f"{sum(known) / len(known):.1%}" if known else "",
        "hours of a worker" if workers == 1 else f"hours of {workers} workers together":
            f"{seconds / 3600 * workers:.2f}",
    }  # fmt: skip
    items = "".join(f"<li><b>{escaped(v)}</b>{escaped(k)}</li>" for k, v in numbers.items() if v)
    return f'<ul class="figures">{items}</ul>'


def _average_last(metrics: Sequence[StepMetrics]) -> float:
    last = metrics[-20:]
    return sum(m.loss for m in last) / len(last)


def _draw_curves(metrics: Sequence[StepMetrics], evaluations: Sequence[Evaluation]) -> str:
    if not metrics:
        return ""
    ends = (f"step {metrics[0].step}", f"step {metrics[-1].step}")
    charts = [_draw_loss(metrics, ends)]
    charts += [
        curves(title, [(title, "s0", _thin_out([(m.step, read(m)) for m in metrics]))], ends)
        for title, read in _CURVES
    ]
    charts += [
        curves(f"Evaluation: {name}", [(name, "s2", points)], ends)
        for name, points in _list_scores(evaluations).items()
    ]
    return f'<div class="charts">{"".join(charts)}</div>'


def _list_scores(evaluations: Sequence[Evaluation]) -> dict[str, list[tuple[float, float]]]:
    """Step and value of every score, by its name."""
    found: dict[str, list[tuple[float, float]]] = {}
    for one in evaluations:
        for name, value in one.scores.items():
            found.setdefault(name, []).append((one.step, value))
    return found


def _draw_loss(metrics: Sequence[StepMetrics], ends: tuple[str, str]) -> str:
    series = [("training", "s0", _thin_out([(m.step, m.loss) for m in metrics]))]
    held_out = [(m.step, m.validation_loss) for m in metrics if m.validation_loss is not None]
    if held_out:
        series.append(("held-out samples", "s1", _thin_out(held_out)))
    return curves("Loss", series, ends)


def _thin_out(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most _MOST_POINTS points, each the mean of as many neighbours."""
    wide = -(-len(points) // _MOST_POINTS)
    parts = [points[start : start + wide] for start in range(0, len(points), wide)]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts
    ]


def _list_reasons(title: str, reasons: Mapping[str, int]) -> str:
    if not reasons:
        return ""
    most = max(reasons.values())
    rows = "".join(
        f"<tr><td>{escaped(reason)}</td><td class=number>{number:,}</td>"
        f'<td class="bar"><i style="width:{100 * number / most:.1f}%"></i></td></tr>'
        for reason, number in sorted(reasons.items(), key=lambda item: -item[1])
    )
    return f"<h2>{escaped(title)}</h2><table>{rows}</table>"


def _show_samples(samples: str, tokenizer: Any) -> str:
    with pa.memory_map(samples) as file:
        rows = pa.ipc.open_file(file).read_all().slice(0, _SHOWN_SAMPLES).to_pylist()
    decoder = open_thumbnail_decoder()
    cards = "".join(_build_card(row, tokenizer, decoder) for row in rows)
    decoder.close()
    title = "<h2>The first samples as the model sees them</h2>"
    words = '<p>What it learns is <span class="learnt">marked</span>.</p>'
    return f'{title}{words}<div class="cards">{cards}</div>'


def _build_card(row: dict[str, Any], tokenizer: Any, decoder: GuardedDecoder) -> str:
    pictures = [make_thumbnail(decoder, _read_image(place)) for place in row["images"]]
    image = "".join(f'<img src="{data}" alt="" loading="lazy">' for data in pictures if data)
    learnt = sum(row["learnt"])
    return (
        f'<article>{image}<div class="text"><p class="tokens">{_mark_learnt(row, tokenizer)}</p>'
        f"<small>{escaped(row['sample_id'])}<br>{row['tokens']} tokens, {learnt} learnt</small>"
        "</div></article>"
    )


def _read_image(place: dict[str, Any]) -> object:
    try:
        return read_images([place | {"problem": None}])[0]
    except StorageError:
        return None


def _mark_learnt(row: dict[str, Any], tokenizer: Any) -> str:
    """The text of a sample; runs of learnt tokens are marked."""
    parts, start, left = [], 0, _LONGEST_TEXT
    ids, learnt = row["ids"], row["learnt"]
    for end in range(1, len(ids) + 1):
        if end < len(ids) and learnt[end] == learnt[start]:
            continue
        text = tokenizer.decode(ids[start:end])[:left]
        left -= len(text)
        shown = html.escape(text)
        parts.append(f'<span class="learnt">{shown}</span>' if learnt[start] else shown)
        start = end
    return "".join(parts) + ("" if left else "\u2026")
