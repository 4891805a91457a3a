"""The result of a training run, as text and as an exit code."""

from dataclasses import dataclass, field

from s4v_core.training.data.collation import LEFT_OUT
from s4v_core.training.evaluation_records import Evaluation
from s4v_core.training.worker.sample_log import SampleAudit
from s4v_core.training.worker.step_metrics import StepMetrics


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a training run.

    Attributes:
        output: Absolute URI of the run's folder.
        done: Number of steps that are durable.
        steps: Number of steps of the whole run.
        samples: Number of samples of an epoch.
        skipped: Number of samples that were left out before the run, by reason.
        allowed_share: Largest share of samples that the run may lose.
        audit: What the sample log proves.
        metrics: Metrics of all durable steps.
        model: URI of the exported model; None while steps are missing.
        report: URI of the page for readers; None if its name is taken.
        evaluations: Scores of checkpoints, by step, or why they have none.
    """

    output: str
    done: int
    steps: int
    samples: int
    skipped: dict[str, int]
    allowed_share: float
    audit: SampleAudit
    metrics: list[StepMetrics]
    model: str | None
    report: str | None = None
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 if the model is exported, every sample was used once per epoch, and no more of them
        were lost than allowed; otherwise 1."""
        is_whole = not self.audit.twice and not self.audit.left_out
        is_learnt = self.lost <= self.allowed_share * self.audit.seen
        return 0 if self.model and is_whole and is_learnt else 1

    @property
    def lost(self) -> int:
        """Number of samples that taught nothing, because their image could not be read."""
        return sum(self.audit.skipped.values()) - self.audit.skipped.get(LEFT_OUT, 0)

    def as_text(self) -> str:
        audit = self.audit
        lines = [f"{self.output}: {self.done} of {self.steps} steps done", *self._describe_speed()]
        lines.append(
            f"samples: {self.samples}; {audit.seen} seen, {audit.twice} twice in an epoch, "
            f"{audit.left_out} left out"
        )
        if self.skipped:
            lines.append(f"  not usable: {_format_reasons(self.skipped)} (skipped.jsonl)")
        if self.lost:
            reasons = {n: c for n, c in audit.skipped.items() if n != LEFT_OUT}
            lines.append(
                f"  lost, because their image could not be read: {_format_reasons(reasons)}, "
                f"{self.lost / audit.seen:.2%}, allowed {self.allowed_share:.2%} (seen/)"
            )
        if LEFT_OUT in audit.skipped:
            lines.append(f"  without those of --leave-out: {audit.skipped[LEFT_OUT]}")
        for one in self.evaluations:
            lines.append(f"evaluation at step {one.step}: {one.as_text()}")
        if self.model:
            lines.append(f"model: {self.model}")
        else:
            lines.append("run the same command again to resume")
        if self.report:
            lines.append(f"report: {self.report}")
        return "\n".join(lines)

    def _describe_speed(self) -> list[str]:
        if not self.metrics:
            return []
        last = self.metrics[-20:]
        seconds = sum(m.step_s - m.validation_s for m in self.metrics)
        tokens = sum(m.tokens for m in self.metrics)
        waited_s = sum(m.data_wait_s for m in self.metrics)
        images = sum(m.images for m in self.metrics)
        padding = 1 - tokens / sum(m.tokens / (1 - m.padding_share) for m in self.metrics)
        known = [m.mfu for m in self.metrics if m.mfu is not None]
        utilisation = f", MFU {sum(known) / len(known):.1%}" if known else ""
        held_out = [m.validation_loss for m in self.metrics if m.validation_loss is not None]
        measured = (
            [f"held-out loss: {held_out[0]:.4f} at first, {held_out[-1]:.4f} at the end"]
            if held_out
            else []
        )
        return [
            f"loss: {self.metrics[0].loss:.4f} at first, "
            f"{sum(m.loss for m in last) / len(last):.4f} over the last {len(last)} steps",
            *measured,
            f"speed: {images / seconds:.1f} images/s, {tokens / seconds:.0f} tokens/s in "
            f"{seconds:.0f} s{utilisation}; {padding:.1%} padding, "
            f"{waited_s / seconds:.1%} waiting for data",
        ]


def _format_reasons(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
