"""The names that the compact text encoder reads in place of emoji: `text_encoder/emoji_names.txt` of hart.

They are the same as in the captions, from the same package (emojibase-data, MIT; names by Unicode).
"""

from __future__ import annotations

import re
from pathlib import Path

from hart.files import default_cache, write_text
from hart_emoji.data.build import NAMES as PACKAGE
from hart_emoji.data.captions import readable_name
from hart_emoji.data.npm import fetch_package, read_json

COMPONENTS = 2
"""Group of hair, skin tones and the single letters of flags."""
MARKS = re.compile("[\ufe0f\U0001f3fb-\U0001f3ff]")


def write_names(file: Path) -> None:
    """Write a line for every emoji: the emoji without skin tone, a tab, its name."""
    (entries,) = read_json(fetch_package(PACKAGE, default_cache()), "en/data.json")
    names: dict[str, str] = {}
    for entry in sorted(entries, key=lambda entry: entry.get("order", 0)):
        if entry.get("group", COMPONENTS) != COMPONENTS:
            # some couples with skin tones consist of different characters than the couple without
            for emoji in (entry["emoji"], *(skin["emoji"] for skin in entry.get("skins", ()))):
                names.setdefault(MARKS.sub("", emoji), readable_name(entry["label"]))
    write_text(file, "".join(f"{emoji}\t{name}\n" for emoji, name in names.items()))
