"""Names of formats and choices, without torch; `hart.data.opening.FORMATS` opens the formats of image sets."""

from typing import Literal

Kind = Literal["folder", "classes", "jsonl", "shards", "stream", "parquet", "huggingface"]
"""folder: images with captions beside them. classes: a folder per class. jsonl: an image on each line.
shards: local WebDataset shards, read at random. stream: WebDataset shards in order, local or from URLs.
parquet: files with an image column. huggingface: anything that the library `datasets` loads."""
Condition = Literal["none", "caption", "label"]
"""What an image must come with."""
StoredType = Literal["float16", "bfloat16", "float32"]
"""Types of residuals and text features in an encoded set."""
