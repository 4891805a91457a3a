"""The hook that lets a CUDA torchvision be imported beside CPU torch."""

import subprocess
import sys
from pathlib import Path

HOOK = Path(__file__).resolve().parents[2] / "cluster" / "cpu" / "s4v_torchvision_cpu.py"


def _python(code: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_is_active_in_a_new_process_and_imports_nothing_by_itself() -> None:
    code = "import sys; print(sorted({'torch', 'torchvision'} & set(sys.modules)))"
    assert _python(code) == "[]"
    assert "TorchvisionFinder" in _python("import sys; print(sys.meta_path)")


def test_torchvision_and_vllms_transforms_can_be_imported() -> None:
    code = "import torchvision.transforms.v2, sys; print('TorchvisionFinder' in str(sys.meta_path))"
    assert _python(code) == "False"


def test_where_the_extension_loads_nothing_is_defined(tmp_path: Path) -> None:
    # A library that any torch can load stands for a matching build.
    code = f"""
import ctypes.util, importlib.util, shutil, torch
spec = importlib.util.spec_from_file_location("hook", {str(HOOK)!r})
hook = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hook)
from pathlib import Path
hook.define_absent_operators(Path(torch.__file__).parent / "lib" / "libtorch.so")
print(hook._library)
"""
    assert _python(code) == "None"


def test_it_is_silent_where_there_is_no_torchvision() -> None:
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
        "try:\n    import torchvision\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    )
    assert _python(code) == "torchvision"
