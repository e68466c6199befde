"""How a set is encoded. Separate from `encoding`, so that the command line has its options without torch."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from hart.data.kinds import StoredType
from hart.strict import Config, require


class EncodeOptions(Config):
    """How `hart data encode` stores a set."""

    dtype: StoredType = "float16"
    """Type of residuals and text features."""
    residual: bool = True
    """Store the residual, which hybrid models need besides the codes."""
    shard_size: Annotated[int, Field(ge=1)] = 1024
    """Images per shard; each unit of a stream becomes one shard."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Images encoded together."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that decode images."""
    part: Annotated[str, Field(json_schema_extra={"metavar": "I/N"})] = "1/1"
    """Write only every N-th shard, as one of N processes."""
    max_damaged: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest share of damaged images."""

    def __post_init__(self) -> None:
        require(re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", self.part) is not None, "part: give it as I/N, such as 1/4")
        number, parts = self.place
        require(0 <= number < parts, f"part {number + 1} of {parts}: parts count from 1 to their number")

    @property
    def place(self) -> tuple[int, int]:
        """Return the number of this part, from 0, and the number of parts."""
        number, parts = map(int, self.part.split("/"))
        return number - 1, parts
