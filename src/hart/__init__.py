"""HART: text to image with a hybrid tokenizer, a scale-by-scale transformer and residual diffusion.

    from hart import HartPipeline
    HartPipeline.from_pretrained("emoji")("a red apple").images[0].save("apple.png")

Names are imported on first use, so that `import hart` does not wait for PyTorch. The library logs to the logger "hart"
and prints nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.config import HartConfig, SamplingConfig
    from hart.errors import AdapterWarning, HartError, PromptWarning
    from hart.generation.edits import Edit, PromptMix
    from hart.generation.outputs import HartOutput, Reconstruction, ScalePreview
    from hart.generation.requests import ImageRequest
    from hart.model import Hart
    from hart.pipeline import HartPipeline
    from hart.types import ClassContext, TextContext

__version__ = "0.1.0"
__all__ = [
    "AdapterWarning",
    "ClassContext",
    "Edit",
    "Hart",
    "HartConfig",
    "HartError",
    "HartOutput",
    "HartPipeline",
    "ImageRequest",
    "PromptMix",
    "PromptWarning",
    "Reconstruction",
    "SamplingConfig",
    "ScalePreview",
    "TextContext",
    "__version__",
]

__getattr__, __dir__ = lazy(__name__)
