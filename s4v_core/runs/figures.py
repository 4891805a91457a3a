"""How fast a run is, where its time goes, and what to change to make it faster."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from s4v_core.flow.spec import COMMIT_CPUS, STAGES, UnitDone

IDLE_SHARE = 0.1
"""Of the engines' time: less of it without work is no reason to change anything."""

CHANGES = {
    "engine": "more --engines, or a larger --settings.max-num-seqs if their memory allows",
    "decode": "more CPUs in the cluster, where --decode.reduced-jpeg is on already",
    "read": "a nearer store, more CPUs to wait for it, or a larger --unit-size for a new --output",
    "write": "a nearer store for --output, or a larger --unit-size for a new one",
}
"""What makes a run faster, by what sets its pace."""


@dataclass(slots=True)
class Times:
    """Seconds of work by stage, summed over the units of this process's run."""

    images: int = 0
    read_s: float = 0.0
    decode_s: float = 0.0
    generate_s: float = 0.0
    idle_s: float = 0.0
    queued_s: float = 0.0
    commit_s: float = 0.0

    def add(self, done: UnitDone) -> None:
        self.images += done.generated
        for name in (*STAGES.values(), "queued_s"):
            setattr(self, name, getattr(self, name) + getattr(done, name))

    def ms_per_image(self) -> dict[str, float]:
        """Work per image in each stage, milliseconds; `idle` is the engine waiting."""
        return {
            stage: round(1000 * getattr(self, name) / max(self.images, 1), 3)
            for stage, name in STAGES.items()
        }

    def bound_by(self, wall_s: float, engines: int) -> str:
        """What sets the pace.

        The engine, unless it was idle for more than IDLE_SHARE of the time, or units waited for
        their commit: longer than commits take and, at any moment, one for each engine or more.
        Then it is what holds the CPUs that reading, decoding and writing share. Of a run so small
        that most was generated before its first unit was done, nothing else can be said.

        Args:
            wall_s: From the first unit's end.
        """
        is_idle = self.idle_s > IDLE_SHARE * wall_s * engines
        is_queued = self.queued_s > max(self.commit_s, wall_s * engines)
        is_small = self.generate_s > 2 * wall_s * engines
        if not self.images or is_small or not (is_idle or is_queued):
            return "engine"
        held = {"read": self.read_s, "decode": self.decode_s, "write": COMMIT_CPUS * self.commit_s}
        return max(held, key=lambda stage: held[stage])


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Of one process's run, finished or not.

    Attributes:
        captioned: Images whose rows it wrote; of these `captioned_ok` have a caption.
        attempted: Captions that it generated, rejected ones included.
        wasted: Images that it generated although somebody else had just committed them.
        engine_starts: Engines that were started to replace dead ones.
        wall_s: Time of the flow, engine start included.
    """

    captioned: int
    captioned_ok: int
    attempted: int
    wasted: int
    engine_starts: int
    wall_s: float
    ms_per_image: dict[str, float]
    bound_by: str

    def as_dict(self) -> dict[str, Any]:
        """For stats.json."""
        return {
            "captioned_by_this_run": self.captioned,
            "wasted": self.wasted,
            "wall_s": round(self.wall_s, 3),
            "images_per_s": self._rate(self.captioned),
            "goodput_per_s": self._rate(self.captioned_ok),
            "attempts_per_s": self._rate(self.attempted),
            "engine_restarts": self.engine_starts,
            "ms_per_image": self.ms_per_image,
            "bound_by": self.bound_by,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _rate(self, count: int) -> float:
        return round(count / self.wall_s, 3) if self.captioned else 0.0


def figures_text(figures: dict[str, Any]) -> str:
    """For people: what RunFigures.as_dict holds."""
    wasted = figures["wasted"]
    rivals = f"{wasted} captioned in vain: another run was quicker\n" if wasted else ""
    return (
        f"{rivals}{figures['captioned_by_this_run']} captioned in {figures['wall_s']:.1f} s, "
        f"engine start included ({figures['images_per_s']:g} images/s, "
        f"{figures['goodput_per_s']:g} good captions/s of {figures['attempts_per_s']:g} "
        "generated)\n"
        f"bound by {figures['bound_by']} ({stages_text(figures['ms_per_image'])}); faster with "
        f"{CHANGES[figures['bound_by']]}"
    )


def stages_text(ms_per_image: dict[str, float]) -> str:
    """For people: what Times.ms_per_image gives."""
    stages = ", ".join(f"{name} {ms:g}" for name, ms in ms_per_image.items())
    return f"ms per image: {stages}"
