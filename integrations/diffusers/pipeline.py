"""For `DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline="integrations/diffusers")`; see README.md."""

from hart.integrations.diffusers import HartDiffusionPipeline

__all__ = ["HartDiffusionPipeline"]
