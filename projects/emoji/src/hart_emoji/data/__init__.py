"""Builder of the emoji data set: `build` renders and writes it; the other modules choose icons and captions."""

from hart_emoji.data.build import STYLES, EmojiSummary, build_emoji

__all__ = ["STYLES", "EmojiSummary", "build_emoji"]
