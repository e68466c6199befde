"""Icons find their emoji whatever the set calls them."""

from __future__ import annotations

from typing import Any

from hart_emoji.data.catalogue import IconSet, catalogue, slugify

RED = {"body": '<path d="M0 0h16v16z" fill="red"/>'}
BLUE = {"body": '<path d="M0 0h16v16z" fill="blue"/>'}
ENTRIES: list[dict[str, Any]] = [
    {"label": "mobile phone", "hexcode": "1F4F1", "emoji": "📱", "group": 7},
    {
        "label": "raised fist",
        "hexcode": "270A-FE0F",
        "emoji": "✊",
        "group": 1,
        "skins": [
            {"label": "raised fist: light skin tone", "hexcode": "270A-1F3FB", "tone": 1},
            {"label": "raised fist: dark skin tone", "hexcode": "270A-1F3FF", "tone": 5},
        ],
    },
]


def icon_set(
    icons: dict[str, Any], aliases: dict[str, Any] | None = None, chars: dict[str, str] | None = None
) -> IconSet:
    return IconSet(icons, aliases or {}, chars or {}, {"width": 16, "height": 16})


def found(**sets: IconSet) -> set[tuple[str, str, str | None]]:
    icons = catalogue(sets, ENTRIES, {}, [{"1F4F1": ["iphone"]}])
    return {(icon.style, icon.concept.slug, icon.tone) for icon in icons}


def test_by_unicode_name_short_code_code_point_alias_and_known_spelling() -> None:
    names = found(
        a=icon_set({"mobile-phone": RED}),
        b=icon_set({"iphone": RED}),
        c=icon_set({"talker": RED}, chars={"1f4f1": "talker"}),
        d=icon_set({"hand-phone": RED}, aliases={"mobile-phone": {"parent": "hand-phone"}}),
        e=icon_set({"cellphone": RED}),
        f=icon_set({"mobilephone": RED}),
    )
    assert names == {(style, "mobile-phone", None) for style in "abcdef"}


def test_presentation_selector_makes_no_difference() -> None:
    assert found(a=icon_set({"fist": RED}, chars={"270a": "fist"})) == {("a", "raised-fist", None)}


def test_skin_tone_by_suffix() -> None:
    icons = {"raised-fist": RED, "raised-fist-light-skin-tone": BLUE, "raised-fist-dark": BLUE | {"width": 9}}
    assert found(a=icon_set(icons)) == {
        ("a", "raised-fist", None),
        ("a", "raised-fist", "light"),
        ("a", "raised-fist", "dark"),
    }


def test_skin_tone_that_is_drawn_like_the_plain_emoji_is_dropped() -> None:
    assert found(a=icon_set({"raised-fist": RED, "raised-fist-dark-skin-tone": RED})) == {("a", "raised-fist", None)}


def test_unknown_icon_is_a_concept_of_its_own_under_its_name() -> None:
    (icon,) = catalogue({"a": icon_set({"red-dragon-fruit": RED})}, ENTRIES, {})
    assert (icon.concept.label, icon.concept.group, icon.certain) == ("red dragon fruit", "other", True)


def test_unspaced_unknown_name_is_split_into_known_words() -> None:
    (icon,) = catalogue({"a": icon_set({"phonefist": RED})}, ENTRIES, {})
    assert (icon.concept.label, icon.certain) == ("phone fist", False)
    assert catalogue({"a": icon_set({"xyzzy": RED})}, ENTRIES, {}) == []


def test_mirrored_alias_is_drawn_mirrored() -> None:
    icons = catalogue(
        {"a": icon_set({"left-hook": RED}, {"right-hook": {"parent": "left-hook", "hFlip": True}})}, [], {}
    )
    svg = {icon.concept.slug: icon.svg for icon in icons}
    assert "scale(-1 1)" in svg["right-hook"]
    assert "scale" not in svg["left-hook"]


def test_slugs_are_plain_ascii() -> None:
    assert slugify("Piñata: “A” & B's") == "pinata-a-bs"
