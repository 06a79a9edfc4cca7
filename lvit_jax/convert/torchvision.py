"""timm and transformers beside a torchvision whose compiled part does not fit the installed PyTorch."""

import importlib.util
from pathlib import Path


def admit_torchvision() -> None:
    """Makes torchvision importable where its wheel was built for another PyTorch (CUDA beside CPU, mostly).

    It then fails at import for want of the schemas of two ops that neither our comparisons nor its own transforms
    call. Call this before importing timm, transformers or torchvision; where all fits, or PyTorch or torchvision is
    missing, it does nothing.
    """
    found = [importlib.util.find_spec(name) for name in ("torch", "torchvision")]
    if None in found or hasattr(admit_torchvision, "library"):
        return
    import torch

    for file in Path(found[1].origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(file))
            return  # a wheel that fits brings the ops
        except OSError:
            continue
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    admit_torchvision.library = library  # the schemas live only as long as this object
