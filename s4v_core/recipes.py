"""Named, complete jobs. The only home of the paper's numbers and of our defaults beside them."""

from s4v_core.captioning.job import CaptionJob
from s4v_core.demo.shipped import CAPTIONER as DEMO_CAPTIONER
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.evaluation.job import EvalJob
from s4v_core.training.stage import NEW_DEMO, Expected, Learning, Optimiser, Saving, TrainStage

CAPTION: dict[str, CaptionJob] = {
    # The 1.2M pass (Sec. 3.3). The original drew with 3 beams at temperature 1.0 and repetition
    # penalty 1.5, unseeded, which no batching engine does. We draw near-greedy, seeded per image.
    "paper": CaptionJob(
        input=("$S4V_ROOT/images",),
        output="$S4V_ROOT/captions",
        model="$S4V_ROOT/models/share-captioner",
        sampling=SamplingConfig(max_tokens=512, temperature=0.2, top_p=0.7),
        # An A100-80GB holds 163 sequences of 626 + 200 tokens beside a 7B model in bf16; vLLM
        # admits the rest as others end. Lengths and steps follow from the model's own pictures.
        settings=EngineSettings(
            dtype="auto",
            max_num_seqs=256,
            gpu_memory_utilization=0.9,
        ),
    ),
    "demo": CaptionJob(
        input=("out/demo/scenes",),
        output="out/demo/captions",
        model=str(DEMO_CAPTIONER),
        demo_scenes=64,
        sampling=SamplingConfig(max_tokens=96, temperature=0.0),
        settings=EngineSettings(device="cpu", max_num_seqs=32),
    ),
}

# The paper's and the original scripts' numbers (scripts/sharegpt4v/slurm_*_7b.sh): AdamW without
# decay, 2e-5 for all parts, one epoch. 16 A100-80G with 16 (pretraining) or 8 samples each.
_PAPER = {
    "optimiser": Optimiser(learning_rate=2e-5, warmup_ratio=0.03),
    "workers": 16,
    "device": "cuda",
    "accelerator": "A100-80G",
    "loader_workers": 4,
}
_DEMO = {
    "demo_scenes": 4000,
    "expected": Expected(samples=4000, tokens=80, learnt=20),
    "images": ("out/demo/lessons_4000",),
    "device": "cpu",
    "max_tokens": 512,
    "activation_checkpointing": False,
    "loader_workers": 1,
    "saving": Saving(every_min=3.0),
}

CAPTIONER: dict[str, TrainStage] = {
    # The recipe was never released; data, instruction and base model are known (Sec. 3.3). We use
    # the SFT's numbers on the 100K captions of GPT4-Vision.
    "paper": TrainStage(
        stage="captioner",
        data=("$S4V_ROOT/data/sharegpt4v_instruct_gpt4-vision_cap100k.json",),
        image_root="$S4V_ROOT/data",
        model="$S4V_ROOT/models/llava-v1.5-7b",
        output="$S4V_ROOT/train/captioner",
        template="vicuna_v1",
        image_mode="pad",
        learning=Learning(),
        batch_size=128,
        device_batch_size=8,
        expected=Expected(samples=102_025, tokens=876, learnt=260),
        **_PAPER,
    ),
    # Trained from scratch, so every part learns: 2,252 steps, a quarter of an hour on two cores.
    "demo": TrainStage(
        stage="captioner",
        data=("out/demo/lessons_18000/captions.json",),
        model=NEW_DEMO,
        output="out/demo/captioner",
        template="vicuna_v1",
        image_mode="pad",
        learning=Learning(vision_from=0, vision_stem=True),
        batch_size=32,
        device_batch_size=32,
        epochs=4,
        optimiser=Optimiser(learning_rate=1e-3, beta2=0.98),
        **_DEMO
        | {
            "demo_scenes": 18_000,
            "images": ("out/demo/lessons_18000",),
            "expected": Expected(samples=18_000, tokens=95, learnt=34),
        },
    ),
}

# Table 6: GB per GPU on 16 A100-80G, by the first vision block that learns. The utilisations follow
# from published hours: 12 h for 1,246,901 samples, and 10 h on 8 A100-40G for LLaVA-1.5's SFT.
PAPER_MEMORY_GB = {24: 49.6, 12: 56.7, 0: 63.6}
PUBLISHED_UTILISATION = {"the paper's own runs": 0.19, "LLaVA-1.5's SFT": 0.27}

PRETRAIN: dict[str, TrainStage] = {
    # Sec. 4.2: the latter half of the vision tower, the projector and the language model.
    "paper": TrainStage(
        stage="pretrain",
        data=("$S4V_ROOT/data/share-captioner_coco_lcs_sam_1246k_1107.json",),
        image_root="$S4V_ROOT/data",
        # ray_jobs/convert.py --language VICUNA --tower CLIP --projector FILE makes it
        model="$S4V_ROOT/models/vicuna-7b-clip-l-336",
        output="$S4V_ROOT/train/pretrain",
        template="plain",
        image_mode="crop",
        learning=Learning(vision_from=12),
        batch_size=256,
        device_batch_size=16,
        expected=Expected(samples=1_246_901, tokens=776, learnt=200),
        **_PAPER,
    ),
    "demo": TrainStage(
        stage="pretrain",
        data=("out/demo/lessons_4000/briefs.json",),
        model=str(DEMO_CAPTIONER),
        output="out/demo/pretrain",
        template="plain",
        image_mode="crop",
        learning=Learning(vision_from=2),
        batch_size=32,
        device_batch_size=32,
        optimiser=Optimiser(learning_rate=2e-4),
        **_DEMO,
    ),
}

FINETUNE: dict[str, TrainStage] = {
    # Sec. 4.3: projector and language model; the vision tower stays as pretraining left it.
    "paper": TrainStage(
        stage="finetune",
        data=("$S4V_ROOT/data/sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json",),
        image_root="$S4V_ROOT/data",
        model="$S4V_ROOT/train/pretrain/model",
        output="$S4V_ROOT/train/finetune",
        template="vicuna_v1",
        image_mode="pad",
        learning=Learning(),
        batch_size=128,
        device_batch_size=8,
        group_by_modality=True,
        expected=Expected(samples=665_058, tokens=876, learnt=200),
        **_PAPER,
    ),
    "demo": TrainStage(
        stage="finetune",
        data=("out/demo/lessons_4000/questions.json",),
        model=str(DEMO_CAPTIONER),
        output="out/demo/finetune",
        template="vicuna_v1",
        image_mode="pad",
        learning=Learning(),
        batch_size=32,
        device_batch_size=32,
        group_by_modality=True,
        optimiser=Optimiser(learning_rate=1e-3),
        **_DEMO | {"expected": Expected(samples=4000, tokens=238, learnt=20)},
    ),
}

MIX_QUOTAS = ("coco=9000", "lcs=3000", "sam=9000", "others=2000")
"""Captions by image source that replace the 23K detailed descriptions of LLaVA's mixture (Sec. 4.3,
and the name of the published file)."""

# Figure 2 tunes LLaVA-1.5-13B on the same mixture. Its start is joined by ray_jobs/convert.py.
FINETUNE["paper-13b"] = FINETUNE["paper"].replace(
    model="$S4V_ROOT/models/vicuna-13b-clip-l-336",
    output="$S4V_ROOT/train/finetune-13b",
    device_batch_size=4,
    expected=Expected(samples=665_058, tokens=876, learnt=200, language="13b"),
)

EVALUATE: dict[str, EvalJob] = {
    # Table 3: eleven columns, each with the image mode of its original script.
    "paper": EvalJob(
        model="$S4V_ROOT/train/finetune/model",
        benchmarks="llava-w,mme,mmbench,mmbench-cn,seed,mm-vet,qbench,scienceqa,vqav2,vizwiz",
        data="$S4V_ROOT/benchmarks",
        output="$S4V_ROOT/evaluation",
        image_mode="paper",
    ),
    "demo": EvalJob(
        model=str(DEMO_CAPTIONER),
        benchmarks="mme,mmbench",
        data="out/demo/benchmarks",
        output="out/demo/evaluation",
        demo_scenes=24,
        max_tokens=96,
        settings=EngineSettings(device="cpu", max_num_seqs=32),
    ),
}
