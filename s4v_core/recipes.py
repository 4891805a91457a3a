"""Named, complete jobs. The only home of the paper's numbers and of our defaults beside them."""

from s4v_core.captioning.job import CaptionJob
from s4v_core.generation.requests import EngineSettings, SamplingConfig

CAPTION: dict[str, CaptionJob] = {
    # The 1.2M pass (Sec. 3.3). The original drew with 3 beams at temperature 1.0 and repetition
    # penalty 1.5, unseeded; no batching engine does that. Ours: near-greedy, seeded per image.
    "paper": CaptionJob(
        input=("$S4V_ROOT/images",),
        output="$S4V_ROOT/captions",
        model="$S4V_ROOT/models/share-captioner",
        sampling=SamplingConfig(max_tokens=512, temperature=0.2, top_p=0.7),
        # An A100-80GB holds 163 sequences of 626 + 200 tokens beside a 7B model in bf16; vLLM
        # admits the rest as others end. 8192 tokens a step: 13 prompts, so that decoding goes on.
        settings=EngineSettings(
            dtype="auto",
            max_model_len=2048,
            max_num_seqs=256,
            max_num_batched_tokens=8192,
            gpu_memory_utilization=0.9,
        ),
    ),
    "demo": CaptionJob(
        input=("out/demo/scenes",),
        output="out/demo/captions",
        model="out/demo/captioner",
        demo_scenes=64,
        sampling=SamplingConfig(max_tokens=32),
        settings=EngineSettings(device="cpu", max_num_seqs=32),
    ),
}
