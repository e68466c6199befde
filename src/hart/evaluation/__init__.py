"""Evaluation: what suites are declared with and built from, in this package and in others.

`metrics` computes figures, `judges` look at images with networks, `suites` combine both, one file each.
"""

from typing import TYPE_CHECKING

from hart.exports import lazy

if TYPE_CHECKING:
    from hart.benchmark.parts import quiet_prompts
    from hart.checkpoint.folders import SCORER_FILE
    from hart.evaluation.cache import IMAGES, TENSORS, Cache, records
    from hart.evaluation.generated_images import GeneratedImages, evenly_chosen
    from hart.evaluation.image_sets import ImageSet, features_of_set
    from hart.evaluation.judges.scores import REFERENCE_SIZE, write_references
    from hart.evaluation.metrics.distances import all_figures, ssim
    from hart.evaluation.metrics.features import (
        DEFAULT_FEATURES,
        EfficientNetLite,
        FeatureExtractor,
        Features,
        open_extractor,
    )
    from hart.evaluation.metrics.figures import Figure, bootstrap, bootstrap_mean, few_images_warning
    from hart.evaluation.report import Result, extractor_facts, write_result
    from hart.evaluation.reranking import best_of, open_scorer
    from hart.evaluation.suites.base import (
        LEAST_IMAGES,
        Context,
        ImageSetOptions,
        Progress,
        SamplingOptions,
        Suite,
        SuiteOptions,
    )
    from hart.evaluation.suites.tokenizer import reconstruct
    from hart.generation.contact_sheet import contact_sheet
    from hart.generation.outputs import psnr
    from hart.strict import counted

# fmt: off
__all__ = [
    "DEFAULT_FEATURES", "IMAGES", "LEAST_IMAGES", "REFERENCE_SIZE", "SCORER_FILE", "TENSORS", "Cache", "Context",
    "EfficientNetLite", "FeatureExtractor", "Features", "Figure", "GeneratedImages", "ImageSet", "ImageSetOptions",
    "Progress", "Result", "SamplingOptions", "Suite", "SuiteOptions", "all_figures", "best_of", "bootstrap",
    "bootstrap_mean", "contact_sheet", "counted", "evenly_chosen", "extractor_facts", "features_of_set",
    "few_images_warning", "open_extractor", "open_scorer", "psnr", "quiet_prompts", "reconstruct", "records", "ssim",
    "write_references", "write_result",
]
# fmt: on
__getattr__, __dir__ = lazy(__name__)
