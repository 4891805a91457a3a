"""report.html of a study, from its stored scores alone."""

from collections.abc import Sequence

from s4v_core import storage
from s4v_core.pages.charts import escaped
from s4v_core.pages.frame import build_page
from s4v_core.reproduction.effects import FEWEST_SEEDS, SHOWN_BELOW
from s4v_core.reproduction.findings import Findings, find_all
from s4v_core.reproduction.gallery import show_captions
from s4v_core.reproduction.intervals import draw_intervals
from s4v_core.reproduction.published import PublishedTable
from s4v_core.reproduction.records import StudyFolder
from s4v_core.reproduction.study import Study
from s4v_core.reproduction.world import DemoWorld
from s4v_core.runs.derived_files import write_derived

REPORT = "report.html"
_SUBJECT = (
    "The paper's studies in miniature: a drawn world, small models, and the whole chain from "
    "captions to scores."
)
_METHOD = (
    "Every arm has the same seeds, and every difference is paired by seed and question. Intervals "
    "(95 %) draw seeds and questions again. p over questions: changes of sign of the differences "
    "of questions, each averaged over the seeds. p over seeds: all changes of sign of the "
    "differences of seeds. A claim held if its interval is above zero and p over questions is "
    f"below {SHOWN_BELOW}; fewer than {FEWEST_SEEDS} seeds have no verdict."
)


def write_report(folder: StudyFolder, studies: Sequence[Study], world: DemoWorld) -> str:
    """Write the report of what is done; returns its URI.

    The same scores always give the same page.
    """
    parts = [f"<p>{escaped(_METHOD)}</p>", show_captions(folder, world)]
    parts += [_show_study(find_all(folder, study)) for study in studies]
    page = build_page("Reproduction", _SUBJECT, "".join(parts), _note_gaps(folder, studies))
    written = write_derived(folder.output, (REPORT, "reproduction.html"), page.encode())
    return written or storage.join(folder.output, REPORT)


def _note_gaps(folder: StudyFolder, studies: Sequence[Study]) -> str:
    done = folder.list_done()
    gaps = [study.name for study in studies if any(one.key not in done for one in study.wanted)]
    return f"Unfinished: {', '.join(gaps)}; what is missing is left out." if gaps else ""


def _show_study(found: Findings) -> str:
    study = found.study
    parts = [f"<h2>{escaped(study.title)}</h2><p>{escaped(study.note)}</p>"]
    if found.preference:
        parts.append(_show_preference(found))
    if found.arms:
        parts.append(_show_arms(found))
        charts = [draw_intervals(found, number) for number in range(len(study.measures))]
        parts.append(f'<div class="charts">{"".join(charts)}</div>')
    parts.append(_show_published(study.published))
    if found.claims:
        parts.append(_show_claims(found))
    if found.arms:
        parts.append(_show_kinds(found))
        parts.append(_show_costs(found))
    return "".join(parts)


def _build_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> str:
    def build(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if at >= numbers_from else ''}>{escaped(cell)}</{tag}>"
            for at, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{build(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{build(head, 'th')}</tr>{body}</table>"


def _show_arms(found: Findings) -> str:
    """Ours: the mean over seeds of each arm, with its interval."""
    head = [*found.study.head, *(measure.title for measure in found.study.measures), "seeds"]
    rows = [
        [
            *one.arm.name,
            *(_write_interval(*figure, one.seeds) for figure in one.figures),
            f"{one.seeds}",
        ]
        for one in found.arms
    ]
    return "<h3>Ours</h3>" + _build_table(head, rows, len(found.study.head))


def _write_interval(mean: float, low: float, high: float, seeds: int) -> str:
    """One seed has no interval."""
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]" if seeds > 1 else f"{mean:.1f}"


def _show_published(table: PublishedTable) -> str:
    title = f"<h3>The paper's ({escaped(table.source)})</h3>"
    names = sum(
        not any(cell[:1].isdigit() for cell in column) for column in zip(*table.rows, strict=True)
    )
    return title + _build_table(table.head, table.rows, names)


def _show_claims(found: Findings) -> str:
    """The table of claims that held and that did not, by measure."""
    rows = []
    for claim, effects in found.claims:
        for measure, effect in zip(found.study.measures, effects, strict=True):
            rows.append(
                [
                    claim.text,
                    measure.title,
                    f"{effect.mean:+.2f} [{effect.low:+.2f}, {effect.high:+.2f}]",
                    f"{effect.p_questions:.2g}",
                    f"{effect.p_seeds:.2g}",
                    effect.judge(),
                ]
            )
    head = ("claim", "measure", "difference", "p over questions", "p over seeds", "verdict")
    return "<h3>What held, and what did not</h3>" + _build_table(head, rows, 2)


def _show_kinds(found: Findings) -> str:
    """Where a difference comes from: the figures of each kind of question, arm by arm."""
    parts = ["<summary>By kind of question, mean over seeds</summary>"]
    for number, measure in enumerate(found.study.measures):
        names = dict.fromkeys(name for one in found.arms for name in one.kinds[number])
        rows = []
        for name in names:
            known = [one.kinds[number].get(name) for one in found.arms]
            count = next(figure[1] for figure in known if figure)
            rows.append(
                [name, f"{count:,}", *(f"{figure[0]:.1f}" if figure else "" for figure in known)]
            )
        head = (measure.title, "questions", *(one.arm.title for one in found.arms))
        parts.append(f'<div class="wide">{_build_table(head, rows, 1)}</div>')
    return f"<details>{''.join(parts)}</details>"


def _show_preference(found: Findings) -> str:
    one = found.preference
    assert one, "a study of captions has a preference"
    share = 100 / max(one.total, 1)
    row = (
        f"{one.first * share:.1f} %",
        f"{one.second * share:.1f} %",
        f"{one.comparable * share:.1f} %",
        f"{100 * one.right / max(one.said, 1):.1f} %",
        f"{100 * one.right / max(one.true, 1):.1f} %",
    )
    head = (
        "teacher preferred",
        "Share-Captioner preferred",
        "comparable",
        "of its sentences right",
        "of all facts said",
    )
    return f"<h3>Ours, over {one.total:,} pictures</h3>" + _build_table(head, [row], 0)


def _show_costs(found: Findings) -> str:
    rows = [
        [
            one.arm.title,
            f"{one.samples:,}",
            f"{one.tokens:,}",
            f"{one.seconds:,.0f}",
            f"{one.shared_seconds:,.0f}",
        ]
        for one in found.arms
    ]
    head = ("arm", "samples learned", "tokens learned", "seconds of its own", "seconds shared")
    note = "<p>Shared is what other arms of the study need, too; it was spent once.</p>"
    return "<h3>Cost of each arm</h3>" + note + _build_table(head, rows, 1)
