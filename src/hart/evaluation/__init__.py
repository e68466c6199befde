"""Evaluation: what suites are declared with and made of, also for suites of other packages.

`metrics` computes figures, `judges` look at images with networks, `suites` put both together, a file each.
"""

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.evaluation.cache import IMAGES, TENSORS, VALUES, Cache
    from hart.evaluation.drawing import DrawnPictures, quiet_prompts
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
    from hart.evaluation.selection import spread
    from hart.evaluation.suites.base import (
        STRICT,
        Context,
        ImageSetOptions,
        Progress,
        SamplingOptions,
        Suite,
        SuiteOptions,
    )
    from hart.evaluation.suites.tokenizer import reconstruct

__all__ = [
    "DEFAULT_FEATURES",
    "IMAGES",
    "LEAST_PICTURES",
    "STRICT",
    "TENSORS",
    "VALUES",
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
    "distances",
    "extractor_facts",
    "features_of_set",
    "few_pictures_warning",
    "open_extractor",
    "pictures_text",
    "psnr",
    "quiet_prompts",
    "reconstruct",
    "spread",
    "ssim",
    "write_result",
]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "hart.evaluation.cache": "IMAGES TENSORS VALUES Cache",
        "hart.evaluation.drawing": "DrawnPictures quiet_prompts",
        "hart.evaluation.metrics.distances": "LEAST_PICTURES all_figures distances",
        "hart.evaluation.metrics.features": "DEFAULT_FEATURES EfficientNetLite0 FeatureExtractor Features "
        "open_extractor",
        "hart.evaluation.metrics.figures": "Figure bootstrap bootstrap_mean few_pictures_warning",
        "hart.evaluation.metrics.images": "psnr ssim",
        "hart.evaluation.pictures": "Pictures features_of_set",
        "hart.evaluation.report": "Result extractor_facts pictures_text write_result",
        "hart.evaluation.selection": "spread",
        "hart.evaluation.suites.base": "STRICT Context ImageSetOptions Progress SamplingOptions Suite SuiteOptions",
        "hart.evaluation.suites.tokenizer": "reconstruct",
    },
)
