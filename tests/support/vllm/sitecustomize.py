"""Lets vLLM's CPU wheel, and lmms-eval, start beside the torch audio and vision packages that they drag in.

Those are built for CUDA: their compiled parts find no CUDA in this torch. The ones for sound and film raise at import,
and nothing here needs them. The one for pictures imports if the two operators that it expects have been declared.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import PackageNotFoundError, version


class DeclareOperators(MetaPathFinder):
    """Declares the operators of torchvision just before it is first looked for; finds nothing itself."""

    library = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and self.library is None:
            import torch

            if torch.version.cuda is None:
                type(self).library = torch.library.Library("torchvision", "DEF")
                self.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                self.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


try:
    built_for_cpu = "+cpu" in version("torchvision")
except PackageNotFoundError:
    built_for_cpu = True
if not built_for_cpu and not any(type(finder).__name__ == "DeclareOperators" for finder in sys.meta_path):
    sys.modules["torchaudio"] = sys.modules["torchcodec"] = None
    sys.meta_path.insert(0, DeclareOperators())


class Active:
    """The driver of a Triton backend, as far as vLLM asks."""

    @staticmethod
    def is_active():
        return True


# vLLM's second runner needs Triton, which has no backend for CPUs; its interpreter needs none, but vLLM counts.
if os.environ.get("TRITON_INTERPRET") == "1":
    from triton.backends import backends

    backends.setdefault("cpu", type("Backend", (), {"driver": Active}))
