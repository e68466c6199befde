"""HART: text to image with a hybrid tokenizer, a scale-by-scale transformer and residual diffusion.

    from hart import HartPipeline
    HartPipeline.from_pretrained("emoji")("a red apple").images[0].save("apple.png")

Names are imported on first use, so that `import hart` does not wait for PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hart.config import HartConfig, SamplingConfig
    from hart.errors import HartError
    from hart.outputs import HartOutput
    from hart.pipeline import HartPipeline

__version__ = "0.1.0"
__all__ = ["HartConfig", "HartError", "HartOutput", "HartPipeline", "SamplingConfig", "__version__"]

_HOMES = {
    "HartConfig": "hart.config",
    "HartError": "hart.errors",
    "HartOutput": "hart.outputs",
    "HartPipeline": "hart.pipeline",
    "SamplingConfig": "hart.config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hart' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
