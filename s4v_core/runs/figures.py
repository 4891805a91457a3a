"""How fast a run is, where its time goes, and what to change to make it faster."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from s4v_core.engines.engine_load import EngineLoad, add_loads
from s4v_core.flow.spec import COMMIT_CPUS, STAGES, UnitDone
from s4v_core.records.contract import Words
from s4v_core.runs.engine_figures import describe_load
from s4v_core.runs.engine_limits import advise_engine

_IDLE_SHARE = 0.1
"""Share of engine time that may be idle before another stage is called the bottleneck."""

CHANGES = {
    "engine": "more --engines, or a larger --settings.max-num-seqs if their memory allows",
    "decode": "more CPUs in the cluster, where --decode.reduced-jpeg is on already",
    "read": "a nearer store, more CPUs to wait for it, or a larger --unit-size for a new --output",
    "write": "a nearer store for --output, or a larger --unit-size for a new one",
}
"""Advice that makes a run faster, by the stage that sets its pace. Where an engine's limit is
known, `advise_engine` knows better."""

_ENGINE_CHANGES = {
    "openai": "a larger --settings.max-concurrent-requests or more --engines, as far as the "
    "endpoint's quota and hardware allow",
    "transformers": "more --engines, or a larger --settings.batch-size if their memory allows",
}
"""Advice for engines that have other knobs than vLLM, when they set the pace."""


@dataclass(slots=True)
class Times:
    """Seconds of work by stage, and load of the engines, summed over the units of this process's
    run."""

    rows: int = 0
    read_s: float = 0.0
    decode_s: float = 0.0
    generate_s: float = 0.0
    idle_s: float = 0.0
    queued_s: float = 0.0
    commit_s: float = 0.0
    load: EngineLoad | None = None

    def add(self, done: UnitDone) -> None:
        self.rows += done.generated
        self.load = add_loads(self.load, done.load)
        for name in (*STAGES.values(), "queued_s"):
            setattr(self, name, getattr(self, name) + getattr(done, name))

    def ms_per_row(self) -> dict[str, float]:
        """Milliseconds of work per row in each stage; `idle` is the engine's waiting time."""
        return {
            stage: round(1000 * getattr(self, name) / max(self.rows, 1), 3)
            for stage, name in STAGES.items()
        }

    def find_bottleneck(self, wall_s: float, engines: int) -> str:
        """The stage that sets the pace.

        It is the engine, unless engines were idle for more than _IDLE_SHARE of the time, or units
        queued for their commit: for longer than commits take and, at any moment, at least one unit
        per engine. Then it is the stage that holds most of the CPUs that reading, decoding and
        writing share. In a run so small that most rows were generated before the first unit was
        done, the figures do not tell, and the answer is the engine.

        Args:
            wall_s: Seconds since the first unit was done.
        """
        is_idle = self.idle_s > _IDLE_SHARE * wall_s * engines
        is_queued = self.queued_s > max(self.commit_s, wall_s * engines)
        is_small = self.generate_s > 2 * wall_s * engines
        if not self.rows or is_small or not (is_idle or is_queued):
            return "engine"
        held = {"read": self.read_s, "decode": self.decode_s, "write": COMMIT_CPUS * self.commit_s}
        return max(held, key=lambda stage: held[stage])


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Figures of one process's run, finished or not.

    Attributes:
        made: Rows that it wrote; `made_ok` of them are ok.
        attempts: Answers that it generated, rejected ones included.
        wasted: Rows that it generated although another run had just committed them.
        engine_starts: Engines that were started to replace dead ones.
        wall_s: Duration of the flow in seconds, engine start included.
        engine: Name of the engine, whose settings the advice names.
        engine_load: Figures of the engines (`summarise_load`); None if they do not tell.
    """

    made: int
    made_ok: int
    attempts: int
    wasted: int
    engine_starts: int
    wall_s: float
    ms_per_row: dict[str, float]
    bound_by: str
    engine: str | None = None
    engine_load: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The figures as stats.json holds them."""
        return {
            "rows_by_this_run": self.made,
            "wasted": self.wasted,
            "wall_s": round(self.wall_s, 3),
            "rows_per_s": self._rate(self.made),
            "ok_rows_per_s": self._rate(self.made_ok),
            "attempts_per_s": self._rate(self.attempts),
            "engine_restarts": self.engine_starts,
            "ms_per_row": self.ms_per_row,
            "bound_by": self.bound_by,
            "engine": self.engine,
            **({"engine_load": self.engine_load} if self.engine_load else {}),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _rate(self, count: int) -> float:
        return round(count / self.wall_s, 3) if self.made else 0.0


def describe_figures(figures: dict[str, Any], words: Words) -> str:
    """Lines for people about what RunFigures.as_dict holds."""
    wasted = figures["wasted"]
    rivals = f"{wasted} {words.made} in vain: another run was quicker\n" if wasted else ""
    limit = find_limit_words(figures)
    load = figures.get("engine_load")
    return (
        f"{rivals}{figures['rows_by_this_run']} {words.made} in {figures['wall_s']:.1f} s, "
        f"engine start included ({figures['rows_per_s']:g} {words.rows}/s, "
        f"{figures['ok_rows_per_s']:g} good {words.answers}/s of {figures['attempts_per_s']:g} "
        "generated)\n"
        f"bound by {figures['bound_by']} ({f'{limit}; ' if limit else ''}"
        f"{describe_stages(figures['ms_per_row'], words)}); faster with {choose_advice(figures)}"
        + (f"\n{describe_load(load)}" if load else "")
    )


def find_limit_words(figures: dict[str, Any]) -> str | None:
    """The limit of the engines, for people, if they set the pace and tell it.

    Args:
        figures: What RunFigures.as_dict gives, of this version or an earlier one.
    """
    load = figures.get("engine_load")
    limit: str | None = load["limited_by"] if load else None
    return limit if figures["bound_by"] == "engine" else None


def name_bound(figures: dict[str, Any]) -> str:
    """The stage that sets the pace, and the engines' limit if it is known: engine (prefill)."""
    limit = find_limit_words(figures)
    return f"{figures['bound_by']} ({limit})" if limit else str(figures["bound_by"])


def choose_advice(figures: dict[str, Any]) -> str:
    """The change that makes a run faster, from what RunFigures.as_dict gives."""
    stage, load = figures["bound_by"], figures.get("engine_load")
    known = advise_engine(load) if load and stage == "engine" else None
    own = _ENGINE_CHANGES.get(figures.get("engine") or "") if stage == "engine" else None
    return known or own or CHANGES[stage]


def describe_stages(ms_per_row: dict[str, float], words: Words) -> str:
    """One line for people about what Times.ms_per_row gives."""
    stages = ", ".join(f"{name} {ms:g}" for name, ms in ms_per_row.items())
    return f"ms per {words.rows.removesuffix('s')}: {stages}"
