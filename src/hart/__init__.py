"""HART: text to image with a hybrid tokenizer, a scale-by-scale transformer and residual diffusion.

    from hart import HartPipeline
    HartPipeline.from_pretrained("emoji")("a red apple").images[0].save("apple.png")

Names are imported on first use, so that `import hart` does not wait for PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.config import HartConfig, SamplingConfig
    from hart.errors import HartError
    from hart.generation.outputs import HartOutput
    from hart.pipeline import HartPipeline

__version__ = "0.1.0"
__all__ = ["HartConfig", "HartError", "HartOutput", "HartPipeline", "SamplingConfig", "__version__"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "hart.config": "HartConfig SamplingConfig",
        "hart.errors": "HartError",
        "hart.generation.outputs": "HartOutput",
        "hart.pipeline": "HartPipeline",
    },
)
