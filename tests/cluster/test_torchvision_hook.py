"""The hook that makes a CUDA build of torchvision importable with a CPU build of torch."""

import subprocess
import sys
from pathlib import Path

HOOK = Path(__file__).resolve().parents[2] / "cluster" / "cpu" / "s4v_torchvision_cpu.py"


def _run_python(code: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_hook_is_active_in_a_new_process_and_imports_nothing() -> None:
    code = "import sys; print(sorted({'torch', 'torchvision'} & set(sys.modules)))"
    assert _run_python(code) == "[]"
    assert "TorchvisionFinder" in _run_python("import sys; print(sys.meta_path)")


def test_torchvision_and_vllms_transforms_can_be_imported() -> None:
    code = "import torchvision.transforms.v2, sys; print('TorchvisionFinder' in str(sys.meta_path))"
    assert _run_python(code) == "False"


def test_a_loadable_extension_needs_no_stand_ins(tmp_path: Path) -> None:
    # A library that any torch can load takes the place of a matching torchvision build.
    code = f"""
import ctypes.util, importlib.util, shutil, torch
spec = importlib.util.spec_from_file_location("hook", {str(HOOK)!r})
hook = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hook)
from pathlib import Path
hook.define_absent_operators(Path(torch.__file__).parent / "lib" / "libtorch.so")
print(hook._library)
"""
    assert _run_python(code) == "None"


def test_the_hook_is_silent_without_torchvision() -> None:
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "try:\n    import torchvision\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    )
    assert _run_python(code) == "torchvision"
