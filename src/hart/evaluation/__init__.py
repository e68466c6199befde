"""Evaluation: what suites are declared with and made of, also for suites of other packages.

`metrics` computes figures, `judges` look at images with networks, `suites` put both together, a file each.
"""

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.evaluation.cache import IMAGES, TENSORS, Cache, records
    from hart.evaluation.drawing import DrawnPictures, quiet_prompts, spread
    from hart.evaluation.metrics.distances import LEAST_PICTURES, all_figures, distances
    from hart.evaluation.metrics.features import (
        DEFAULT_FEATURES,
        EfficientNetLite0,
        FeatureExtractor,
        Features,
        open_extractor,
    )
    from hart.evaluation.metrics.figures import Figure, bootstrap, bootstrap_mean, few_pictures_warning
    from hart.evaluation.metrics.images import psnr, ssim
    from hart.evaluation.pictures import Pictures, features_of_set
    from hart.evaluation.report import Result, extractor_facts, pictures_text, write_result
    from hart.evaluation.suites.base import (
        Context,
        ImageSetOptions,
        Progress,
        SamplingOptions,
        Suite,
        SuiteOptions,
    )
    from hart.evaluation.suites.tokenizer import reconstruct
    from hart.generation.contact_sheet import contact_sheet

__all__ = [
    "DEFAULT_FEATURES",
    "IMAGES",
    "LEAST_PICTURES",
    "TENSORS",
    "Cache",
    "Context",
    "DrawnPictures",
    "EfficientNetLite0",
    "FeatureExtractor",
    "Features",
    "Figure",
    "ImageSetOptions",
    "Pictures",
    "Progress",
    "Result",
    "SamplingOptions",
    "Suite",
    "SuiteOptions",
    "all_figures",
    "bootstrap",
    "bootstrap_mean",
    "contact_sheet",
    "distances",
    "extractor_facts",
    "features_of_set",
    "few_pictures_warning",
    "open_extractor",
    "pictures_text",
    "psnr",
    "quiet_prompts",
    "reconstruct",
    "records",
    "spread",
    "ssim",
    "write_result",
]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "hart.evaluation.cache": "IMAGES TENSORS Cache records",
        "hart.evaluation.drawing": "DrawnPictures quiet_prompts spread",
        "hart.evaluation.metrics.distances": "LEAST_PICTURES all_figures distances",
        "hart.evaluation.metrics.features": "DEFAULT_FEATURES EfficientNetLite0 FeatureExtractor Features "
        "open_extractor",
        "hart.evaluation.metrics.figures": "Figure bootstrap bootstrap_mean few_pictures_warning",
        "hart.evaluation.metrics.images": "psnr ssim",
        "hart.evaluation.pictures": "Pictures features_of_set",
        "hart.evaluation.report": "Result extractor_facts pictures_text write_result",
        "hart.evaluation.suites.base": "Context ImageSetOptions Progress SamplingOptions Suite SuiteOptions",
        "hart.evaluation.suites.tokenizer": "reconstruct",
        "hart.generation.contact_sheet": "contact_sheet",
    },
)
