"""Names in place of emoji, as the compact text encoder reads them: `text_encoder/emoji_names.txt` of hart.

They are those of the captions, from the same package (emojibase-data, MIT; names by Unicode).
"""

from __future__ import annotations

import re
from pathlib import Path

from hart.files import atomic_write, default_cache
from hart_emoji.data.build import NAMES as PACKAGE
from hart_emoji.data.captions import readable_name
from hart_emoji.data.npm import fetch_package, read_json

COMPONENTS = 2
"""Group of hair, skin tones and the single letters of flags."""
MARKS = re.compile("[\ufe0f\U0001f3fb-\U0001f3ff]")


def write_names(file: Path) -> None:
    """A line for every emoji: it without skin tone, a tab, its name."""
    (entries,) = read_json(fetch_package(PACKAGE, default_cache()), "en/data.json")
    names: dict[str, str] = {}
    for entry in sorted(entries, key=lambda entry: entry.get("order", 0)):
        if entry.get("group", COMPONENTS) != COMPONENTS:
            # some couples with skin tones are made of other characters than the one without
            for emoji in (entry["emoji"], *(skin["emoji"] for skin in entry.get("skins", ()))):
                names.setdefault(MARKS.sub("", emoji), readable_name(entry["label"]))
    text = "".join(f"{emoji}\t{name}\n" for emoji, name in names.items())
    atomic_write(file, lambda stream: stream.write(text.encode()))
