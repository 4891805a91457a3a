"""The results of a study: Table 2's percentages, intervals, and how far raters agree."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from s4v_core.analysis.preference.judging import JudgeRows
from s4v_core.analysis.preference.question import ANSWERS, COMPARABLE
from s4v_core.annotation.agreement import (
    Ratings,
    compare_raters,
    draw_share_intervals,
    find_cohen_kappa,
    find_fleiss_kappa,
    find_majority,
    find_wilson_interval,
)
from s4v_core.annotation.questions import Item
from s4v_core.annotation.vote_store import Vote
from s4v_core.terminal import printable

_SIDES = ("left", "right")


def describe_results(
    names: Mapping[str, str],
    items: Sequence[Item],
    votes: Sequence[Vote],
    judges: Iterable[JudgeRows] = (),
) -> dict[str, Any]:
    """All figures of a study, as JSON.

    Args:
        names: What the sets are called, by answer.
    """
    ratings = _sort_votes(votes)
    majority = {item: find_majority(list(one.values())) for item, one in ratings.items()}
    answers = [vote.answer for vote in votes]
    numbers = {item.item_id: number for number, item in enumerate(items)}
    pairs = compare_raters(ratings)
    kappas = [one.kappa for one in pairs if one.kappa is not None]
    return {
        "names": dict(names),
        "images": len(items),
        "images_with_votes": len(ratings),
        "votes": len(votes),
        "shares": _describe_shares(answers, ratings),
        "majority": {answer: list(majority.values()).count(answer) for answer in ANSWERS}
        | {"split": list(majority.values()).count(None)},
        "raters": {name: _describe_rater(votes, name) for name in _list_raters(votes)},
        "agreement": {
            "fleiss_kappa": find_fleiss_kappa(ratings),
            "mean_cohen_kappa": sum(kappas) / len(kappas) if kappas else None,
            "pairs": [one._asdict() for one in pairs],
        },
        "judges": [_describe_judge(judge, numbers, majority) for judge in judges],
    }


def _sort_votes(votes: Sequence[Vote]) -> Ratings:
    ratings: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for vote in votes:
        ratings[vote.item][vote.rater] = vote.answer
    return ratings


def _list_raters(votes: Sequence[Vote]) -> list[str]:
    return sorted({vote.rater for vote in votes})


def _describe_shares(answers: Sequence[str], ratings: Ratings) -> dict[str, Any]:
    drawn = draw_share_intervals(ratings, ANSWERS)
    counts, total = Counter(answers), len(answers)
    return {
        answer: {
            "count": counts[answer],
            "share": counts[answer] / total if total else None,
            "interval_by_image": list(drawn[answer]),
            "wilson_interval": list(find_wilson_interval(counts[answer], total)),
        }
        for answer in ANSWERS
    }


def _describe_rater(votes: Sequence[Vote], name: str) -> dict[str, Any]:
    own = [vote for vote in votes if vote.rater == name]
    answers = Counter(vote.answer for vote in own)
    sides = [vote.choice for vote in own if vote.choice in _SIDES]
    return {
        "votes": len(own),
        **{answer: answers[answer] for answer in ANSWERS},
        "left_share": sides.count("left") / len(sides) if sides else None,
        "median_seconds": median(vote.seconds for vote in own),
    }


def _describe_judge(
    judge: JudgeRows, numbers: Mapping[str, int], majority: Mapping[int, str | None]
) -> dict[str, Any]:
    rows = {numbers[key]: row for key, row in judge.rows.items() if key in numbers}
    ok = {number: row for number, row in rows.items() if row["status"] == "ok"}
    verdicts: Ratings = {number: {judge.model: row["verdict"]} for number, row in ok.items()}
    agreed = [row for row in ok.values() if row["a_first"] == row["b_first"]]
    # Text 1 was a in the first order and b in the second.
    firsts = [row["a_first"] == "a" for row in ok.values() if row["a_first"] != COMPARABLE]
    firsts += [row["b_first"] == "b" for row in ok.values() if row["b_first"] != COMPARABLE]
    both = [(ok[n]["verdict"], people) for n, people in majority.items() if n in ok and people]
    return {
        "model": judge.model,
        "pairs": judge.pairs,
        "answered": len(ok),
        "reasons": dict(Counter(row["reason"] for row in rows.values() if row["status"] != "ok")),
        "shares": _describe_shares([row["verdict"] for row in ok.values()], verdicts),
        "same_in_both_orders": len(agreed) / len(ok) if ok else None,
        "text_1_share": sum(firsts) / len(firsts) if firsts else None,
        "with_majority": {
            "images": len(both),
            "observed": sum(a == b for a, b in both) / len(both) if both else None,
            "cohen_kappa": find_cohen_kappa(both),
        },
    }


def show_results(figures: Mapping[str, Any]) -> str:
    """The results as text for a terminal."""
    names = [printable(figures["names"][answer]) for answer in ANSWERS]
    width = max(12, *map(len, names)) + 2
    lines = [
        f"{figures['votes']:,} votes of {len(figures['raters'])} raters on "
        f"{figures['images_with_votes']:,} of {figures['images']:,} images",
        _line_up("Preference", names, width),
        *_show_shares("Percentage", figures["shares"], width),
    ]
    if figures["votes"]:
        most = figures["majority"]
        cells = [f"{most[answer]:,}" for answer in ANSWERS]
        split = f"  (split: {most['split']:,})" if most["split"] else ""
        lines.append(_line_up("most raters, images", cells, width) + split)
        agreement = figures["agreement"]
        lines.append(
            f"agreement: Fleiss' kappa {_kappa(agreement['fleiss_kappa'])}, mean of Cohen's kappa "
            f"over {len(agreement['pairs'])} pairs of raters "
            f"{_kappa(agreement['mean_cohen_kappa'])}"
        )
    for name, one in figures["raters"].items():
        lines.append(
            f"  {printable(name)}: {one['votes']:,} votes, {_percent(one['left_share'])} of the "
            f"preferences for the left text, {one['median_seconds']:.1f} s each"
        )
    for judge in figures["judges"]:
        lines += _show_judge(judge, width)
    return "\n".join(lines)


def _show_shares(label: str, shares: Mapping[str, Any], width: int) -> list[str]:
    cells = [_percent(shares[answer]["share"]) for answer in ANSWERS]
    ranges = [_range(shares[answer]["interval_by_image"]) for answer in ANSWERS]
    wilson = [_range(shares[answer]["wilson_interval"]) for answer in ANSWERS]
    rows = [_line_up(label, cells, width)]
    if shares[COMPARABLE]["share"] is not None:
        rows.append(_line_up("95 %, images redrawn", ranges, width))
        rows.append(_line_up("95 %, Wilson", wilson, width))
    return rows


def _show_judge(judge: Mapping[str, Any], width: int) -> list[str]:
    reasons = ", ".join(f"{printable(name)} {n:,}" for name, n in judge["reasons"].items())
    people = judge["with_majority"]
    lines = [
        f"judge {printable(judge['model'])}: {judge['answered']:,} of {judge['pairs']:,} pairs"
        + (f" ({reasons})" if reasons else ""),
        *_show_shares("Percentage", judge["shares"], width),
        f"  the same in both orders: {_percent(judge['same_in_both_orders'])}; text 1 got "
        f"{_percent(judge['text_1_share'])} of the preferences",
    ]
    if people["images"]:
        lines.append(
            f"  as most raters on {_percent(people['observed'])} of {people['images']:,} images, "
            f"Cohen's kappa {_kappa(people['cohen_kappa'])}"
        )
    return lines


def _line_up(label: str, cells: Sequence[str], width: int) -> str:
    return f"{label:<22}" + "".join(f"{cell:>{width}}" for cell in cells)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _range(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}"


def _kappa(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
