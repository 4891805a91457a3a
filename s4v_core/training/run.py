"""A training run from job to outcome: check everything, prepare the samples, train, export.

Ray is started only if steps are missing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from s4v_core import storage
from s4v_core.checkpoints import SETTINGS, WEIGHTS, locate_checkpoint
from s4v_core.interrupts import drain_on_interrupt, save_at_sigterm
from s4v_core.training.adapter_files import ADAPTER, ADAPTER_CONFIG, write_adapter
from s4v_core.training.card import write_adapter_card, write_card
from s4v_core.training.checks import CheckedStage, check_stage
from s4v_core.training.data.samples import SampleCounts, fetch_samples
from s4v_core.training.evaluation_records import DueSteps, read_evaluations
from s4v_core.training.evaluations import CheckpointEvaluations, Evaluator
from s4v_core.training.export import MODEL, export_model, read_checkpoint
from s4v_core.training.outcome import Outcome
from s4v_core.training.preparation import make_demo_world, prepare_run
from s4v_core.training.report import write_report
from s4v_core.training.run_spec import RunSpec
from s4v_core.training.stage import TrainStage
from s4v_core.training.step_bar import StepBar
from s4v_core.training.worker.checkpoints import Manifest, checkpoint_uri, list_checkpoints
from s4v_core.training.worker.components import open_trackers
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.sample_log import audit_samples
from s4v_core.training.worker.session import SAVING, LocalSession
from s4v_core.training.worker.step_metrics import StepMetrics, add_late_scores, read_metrics
from s4v_core.training.worker.world import open_local_world


def run_stage(job: TrainStage, evaluate: Evaluator | None = None) -> Outcome:
    """Train the steps that are missing, then export the model.

    Args:
        evaluate: Evaluates checkpoints as the job's `evaluation` says.

    Raises:
        ConfigError, InputError: The job cannot be run; nothing was trained.
        StorageError, TrainingError: Training was cut off; what is saved stays saved.
    """
    job = job.replace(output=storage.absolute(job.output))
    checked = check_stage(job)
    if job.demo_scenes:
        make_demo_world(job)
    counts, spec = prepare_run(checked)
    newest = _find_newest(job.output)
    done = newest.step if newest else 0
    if evaluate and job.evaluation.is_on:
        spec = replace(spec, due=DueSteps(job.output, job.evaluation.every_steps, spec.steps))
    with _open_evaluations(checked, counts, spec, evaluate):
        if done < spec.steps:
            _train_missing_steps(spec, done)
    if spec.due:
        add_late_scores(job.output, lambda: open_trackers(spec))
    newest = _find_newest(job.output)
    done = newest.step if newest else 0
    is_finished = newest is not None and done == spec.steps
    target = _find_export(job)
    if newest and is_finished and not storage.exists(target):
        _export(checked, counts, newest)
    outcome = Outcome(
        output=job.output,
        done=done,
        steps=spec.steps,
        samples=counts.samples,
        skipped=counts.skipped,
        allowed_share=job.max_missing_share,
        audit=audit_samples(
            job.output, spec.order.samples_per_epoch, spec.order.steps_per_epoch, done
        ),
        metrics=[m for m in read_metrics(job.output) if m.step <= done],
        model=storage.parent(target) if is_finished else None,
    )
    samples = fetch_samples(spec.samples, spec.samples_sha256)
    outcome = replace(outcome, evaluations=read_evaluations(job.output))
    report = write_report(job, outcome, samples, checked.tokenizer)
    return replace(outcome, report=report)


def _find_newest(output: str) -> Manifest | None:
    found = list_checkpoints(output)
    return found[-1] if found else None


def _find_export(job: TrainStage) -> str:
    """The file of the export that is written last."""
    if job.lora.rank and not job.lora.merge:
        return storage.join(job.output, ADAPTER, ADAPTER_CONFIG)
    return storage.join(job.output, MODEL, "config.json")


def _open_evaluations(
    checked: CheckedStage, counts: SampleCounts, spec: RunSpec, evaluate: Evaluator | None
) -> AbstractContextManager[object]:
    """The evaluator of checkpoints while the run trains; nothing unless the job asks for it."""
    job = checked.job
    if evaluate is None or spec.due is None:
        return nullcontext()

    def export(manifest: Manifest, target: str) -> str:
        names = (*SETTINGS, *WEIGHTS) if job.lora.rank else SETTINGS
        folder, _ = locate_checkpoint(checked.model, names)
        card = write_card(job, read_metrics(job.output), counts)
        return export_model(job.output, manifest, folder, checked.family, job, card, target)

    wait_s = 60 * job.evaluation.wait_min
    return CheckpointEvaluations(spec.due, job.saving.keep, evaluate, export, wait_s)


def _export(checked: CheckedStage, counts: SampleCounts, newest: Manifest) -> None:
    job = checked.job
    lora = job.lora
    # An adapter's export adds to the start model's weights, which other exports do not need.
    names = (*SETTINGS, *WEIGHTS) if lora.rank else SETTINGS
    folder, _ = locate_checkpoint(checked.model, names)
    metrics = read_metrics(job.output)
    card = write_card(job, metrics, counts)
    if lora.rank:
        tensors = dict(read_checkpoint(checkpoint_uri(job.output, newest.step)))
        about = write_adapter_card(job, metrics, counts)
        write_adapter(job.output, tensors, lora, checked.model, about)
    if not lora.rank or lora.merge:
        export_model(job.output, newest, folder, checked.family, job, card)


def _train_missing_steps(spec: RunSpec, done: int) -> None:
    with StepBar(f"{spec.job.stage}", spec.steps, done) as bar:
        if spec.job.workers:
            from s4v_core.training.cluster import train_on_ray

            train_on_ray(spec, bar.show_step)
        else:
            _train_in_this_process(spec, bar.show_step)


def _train_in_this_process(spec: RunSpec, on_step: Callable[[StepMetrics], None]) -> None:
    session = LocalSession(on_step)
    with (
        drain_on_interrupt(session.request_stop, SAVING),
        save_at_sigterm(session.request_stop, SAVING, spec.job.saving.grace_s),
        open_local_world(spec.job.device) as world,
    ):
        train(spec, world, session)
