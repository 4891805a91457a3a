"""What a training run came to, in words."""

from dataclasses import dataclass

from s4v_core.training.worker.seen import Audit
from s4v_core.training.worker.step_metrics import StepMetrics


@dataclass(frozen=True, slots=True)
class Outcome:
    """Attributes:
    done, steps: Steps that are durable, and all there are.
    model: Where the exported model lies; None while steps are missing.
    skipped: Samples that were left out before the run, by reason.
    """

    output: str
    done: int
    steps: int
    samples: int
    skipped: dict[str, int]
    audit: Audit
    metrics: list[StepMetrics]
    model: str | None

    @property
    def exit_code(self) -> int:
        """0 only if everything that was asked for is durable."""
        return 0 if self.model and not self.audit.twice and not self.audit.left_out else 1

    def as_text(self) -> str:
        lines = [f"{self.output}: {self.done} of {self.steps} steps done"]
        lines += self._speed()
        seen, audit = self.audit.seen, self.audit
        lines.append(
            f"samples: {self.samples}; {seen} seen, {audit.twice} twice in an epoch, "
            f"{audit.left_out} left out"
        )
        if self.skipped:
            lines.append(f"  not usable: {_listed(self.skipped)} (skipped.jsonl)")
        if audit.skipped:
            lines.append(f"  images that could not be read: {_listed(audit.skipped)} (seen/)")
        if self.model:
            lines.append(f"model: {self.model}")
        else:
            lines.append("run the same command again to resume")
        return "\n".join(lines)

    def _speed(self) -> list[str]:
        if not self.metrics:
            return []
        last = self.metrics[-20:]
        seconds = sum(m.step_s for m in self.metrics)
        tokens, waited = (
            sum(getattr(m, n) for m in self.metrics) for n in ("tokens", "data_wait_s")
        )
        images = sum(m.images for m in self.metrics)
        padding = 1 - tokens / sum(m.tokens / (1 - m.padding_share) for m in self.metrics)
        known = [m.mfu for m in self.metrics if m.mfu is not None]
        utilisation = f", MFU {sum(known) / len(known):.1%}" if known else ""
        return [
            f"loss: {self.metrics[0].loss:.4f} at first, "
            f"{sum(m.loss for m in last) / len(last):.4f} over the last {len(last)} steps",
            f"speed: {images / seconds:.1f} images/s, {tokens / seconds:.0f} tokens/s in "
            f"{seconds:.0f} s{utilisation}; {padding:.1%} padding, "
            f"{waited / seconds:.1%} waiting for data",
        ]


def _listed(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
