"""The README of an exported model: what the model is, and how it was trained."""

from s4v_core.training.data.samples import SampleCounts
from s4v_core.training.stage import TrainStage
from s4v_core.training.worker.step_metrics import StepMetrics


def write_card(job: TrainStage, metrics: list[StepMetrics], counts: SampleCounts) -> str:
    """Write the card as Markdown, with the front matter that model hubs read."""
    last = metrics[-20:]
    seconds = sum(m.step_s for m in metrics)
    loss = sum(m.loss for m in last) / len(last) if last else float("nan")
    demo = "A demo, not for use: it knows drawn scenes only.\n\n" if job.demo_scenes else ""
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, sharegpt4v, {job.stage}]
---
# {job.stage}

{demo}LLaVA-1.5 architecture, bf16 weights. Loads in transformers (`LlavaForConditionalGeneration`)
and vLLM. Template `{job.template}`, images framed by `{job.image_mode}`.

| | |
|---|---|
| started from | `{job.model}` |
| samples | {counts.samples}, {sum(counts.skipped.values())} left out |
| steps | {len(metrics)} of {job.batch_size} samples, seed {job.seed} |
| learning rate | {job.optimiser.learning_rate}, warm-up {job.optimiser.warmup_ratio}, cosine |
| learnt | vision blocks from {job.learning.vision_from}, stem {job.learning.vision_stem}, \
projector {job.learning.projector}, language model {job.learning.language} |
| loss at the end | {loss:.4f} (mean of the last {len(last)} steps) |
| time in steps | {seconds / 60:.1f} min |

Made by `python ray_jobs/{_SCRIPTS[job.stage]}`. The licences of the start model and of the data
apply.
"""


_SCRIPTS = {
    "captioner": "train_captioner.py",
    "pretrain": "pretrain.py",
    "finetune": "finetune.py",
}
