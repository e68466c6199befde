"""Builder of the emoji data set: `build` draws and writes; the rest says what is drawn and what it is called."""

from hart_emoji.data.build import STYLES, EmojiSummary, build_emoji

__all__ = ["STYLES", "EmojiSummary", "build_emoji"]
