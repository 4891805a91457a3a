"""Lets a CUDA build of torchvision be imported beside a CPU build of torch.

vLLM's LLaVA module imports torchvision (for `transforms.v2`, nothing compiled). Where a package
index offers only the CUDA build, its extension cannot load next to CPU torch, and `import
torchvision` dies with "operator torchvision::nms does not exist", because it registers fake kernels
for operators that were never defined. This module defines the absent operators, without an
implementation, before torchvision runs; calling one raises.

A `.pth` line imports it at interpreter start. Until torchvision is imported it only waits in
`sys.meta_path`, and wherever the extension loads (a real CPU build, a matching CUDA build) it does
nothing at all.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

# Names and schemas: torchvision/csrc/ops, release 0.28.0. These two are what its import asks for.
OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_library = None  # definitions vanish with the Library object, so it is kept


class TorchvisionFinder:
    """Steps in at the first `import torchvision`, then is gone."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.origin and importlib.util.find_spec("torch"):
            define_absent_operators(Path(spec.origin).parent / "_C.so")
        return spec


def define_absent_operators(extension: Path) -> None:
    """Define torchvision's operators without kernels, unless `extension` brings its own."""
    global _library
    import torch

    try:
        torch.ops.load_library(str(extension))
        return
    except OSError:  # built for another torch
        pass
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            _library.define(schema)


sys.meta_path.insert(0, TorchvisionFinder())
