"""Write `src/hart/text_encoder/emoji_names.txt`: what the compact text encoder reads in place of an emoji.

    python benchmarks/emoji_names.py

The names are those of the captions of `hart data emoji`, from the same package (emojibase-data, MIT; names by Unicode).
"""

from __future__ import annotations

import re
from pathlib import Path

from hart.data.emoji.build import NAMES as PACKAGE
from hart.data.emoji.captions import readable_name
from hart.data.emoji.npm import fetch_package, read_json
from hart.files import atomic_write, default_cache

COMPONENTS = 2
"""Group of hair, skin tones and the single letters of flags."""
MARKS = re.compile("[\ufe0f\U0001f3fb-\U0001f3ff]")
NAMES = Path(__file__).parent.parent / "src" / "hart" / "text_encoder" / "emoji_names.txt"


def main() -> None:
    (entries,) = read_json(fetch_package(PACKAGE, default_cache()), "en/data.json")
    names: dict[str, str] = {}
    for entry in sorted(entries, key=lambda entry: entry.get("order", 0)):
        if entry.get("group", COMPONENTS) != COMPONENTS:
            # some couples with skin tones are made of other characters than the one without
            for emoji in (entry["emoji"], *(skin["emoji"] for skin in entry.get("skins", ()))):
                names.setdefault(MARKS.sub("", emoji), readable_name(entry["label"]))
    text = "".join(f"{emoji}\t{name}\n" for emoji, name in names.items())
    atomic_write(NAMES, lambda file: file.write(text.encode()))


if __name__ == "__main__":
    main()
