"""Word lists for the captions: everyday names, names that take no article, keywords that say nothing."""

from __future__ import annotations

import re

EVERYDAY: dict[str, tuple[str, ...]] = {
    "airplane": ("plane", "aeroplane"),
    "american-football": ("football",),
    "automobile": ("car", "red car"),
    "baby-chick": ("chick",),
    "bento-box": ("bento",),
    "bicycle": ("bike",),
    "boar": ("wild boar",),
    "briefcase": ("leather bag",),
    "camel": ("dromedary",),
    "cloud-with-lightning": ("thundercloud",),
    "cloud-with-rain": ("rain cloud",),
    "cloud-with-snow": ("snow cloud",),
    "clapper-board": ("clapperboard",),
    "computer-mouse": ("mouse of a computer",),
    "cooked-rice": ("bowl of rice",),
    "deciduous-tree": ("tree", "green tree"),
    "desktop-computer": ("computer",),
    "doughnut": ("donut",),
    "ear-of-corn": ("corn", "maize"),
    "eggplant": ("aubergine",),
    "evergreen-tree": ("fir tree", "pine tree"),
    "ewe": ("sheep",),
    "face-screaming-in-fear": ("scared face", "screaming face"),
    "face-with-tears-of-joy": ("laughing face", "face crying with laughter"),
    "film-frames": ("film strip",),
    "flashlight": ("torch",),
    "french-fries": ("fries", "chips"),
    "gem-stone": ("diamond", "gem"),
    "glass-of-milk": ("milk",),
    "globe-showing-americas": ("earth", "planet earth"),
    "globe-showing-asia-australia": ("earth", "planet earth"),
    "globe-showing-europe-africa": ("earth", "planet earth"),
    "hamburger": ("burger",),
    "headphone": ("headphones",),
    "high-heeled-shoe": ("high heel",),
    "high-voltage": ("lightning bolt", "lightning"),
    "hot-beverage": ("cup of coffee", "coffee", "cup of tea"),
    "hot-dog": ("hotdog",),
    "hot-pepper": ("chili", "red chili pepper"),
    "hourglass-done": ("hourglass",),
    "house-with-garden": ("house with a tree",),
    "kitchen-knife": ("knife",),
    "laptop": ("notebook computer", "laptop computer"),
    "last-quarter-moon": ("half moon",),
    "locked": ("padlock", "closed lock"),
    "locomotive": ("steam train", "steam engine"),
    "magnifying-glass-tilted-left": ("magnifying glass",),
    "magnifying-glass-tilted-right": ("magnifying glass",),
    "meat-on-bone": ("piece of meat",),
    "mobile-phone": ("phone", "smartphone", "cell phone"),
    "motorcycle": ("motorbike",),
    "pile-of-poo": ("poop", "pile of poop"),
    "police-car-light": ("siren",),
    "pool-8-ball": ("eight ball", "billiard ball"),
    "racing-car": ("race car",),
    "red-heart": ("heart", "love heart"),
    "red-paper-lantern": ("red lantern",),
    "red-apple": ("apple",),
    "rolled-up-newspaper": ("folded newspaper",),
    "sauropod": ("dinosaur", "brontosaurus"),
    "sailboat": ("sailing boat",),
    "see-no-evil-monkey": ("monkey covering its eyes",),
    "pizza": ("slice of pizza",),
    "smiling-face-with-sunglasses": ("cool face", "face with sunglasses"),
    "smiling-face-with-heart-eyes": ("face with heart eyes",),
    "soccer-ball": ("football", "soccer football"),
    "soft-ice-cream": ("ice cream cone", "ice cream"),
    "speak-no-evil-monkey": ("monkey covering its mouth",),
    "spouting-whale": ("whale spouting water",),
    "sport-utility-vehicle": ("blue car", "jeep"),
    "steaming-bowl": ("bowl of ramen", "bowl of noodles"),
    "t-rex": ("tyrannosaurus", "dinosaur"),
    "t-shirt": ("tee shirt", "shirt"),
    "taxi": ("cab", "yellow taxi"),
    "television": ("tv", "television set"),
    "thumbs-up": ("thumb up",),
    "unlocked": ("open padlock", "open lock"),
    "video-game": ("game controller", "gamepad"),
    "waffle": ("belgian waffle",),
    "wrapped-gift": ("gift", "present", "gift box"),
}
"""Concept -> other names that many people say first; used like the name itself; several concepts may share one."""

_NO_ARTICLE = """\
badminton, bowling, breast-feeding, butter, camping, canned food, chart decreasing, chart increasing,
children crossing, construction, cooking, copyright, coral, dashing away, divide, dizzy, dna, fire, ginger root,
hundred points, infinity, information, leaf fluttering in wind, left, left luggage, litter in bin sign, locked,
locked with key, locked with pen, minus, mobile phone off, money with wings, mount fuji, multiply, no entry,
no littering, no one under eighteen, no smoking, non-potable water, om, passport control, ping pong, plus,
popcorn, potable water, pouring liquid, prohibited, radioactive, registered, right,
rolling on the floor laughing, skis, soap, star-struck, trade mark, unlocked, vibration mode, warning, wireless,
wood, yarn, zzz"""
NO_ARTICLE = frozenset(re.split(r",\s", _NO_ARTICLE))
"""Names, in lower case, that read wrong after "a"."""

_UNCOUNTABLE = """
aries taurus gemini cancer leo virgo libra scorpio sagittarius capricorn aquarius pisces ophiuchus sushi bread rice
fire bacon salt butter honey ice sake spaghetti tempura oden tea milk fog mahjong medicine luggage falafel money
broccoli garlic dango mate clothing tennis curling skiing snowboarding fencing badminton lacrosse volleyball
"""
UNCOUNTABLE = frozenset(_UNCOUNTABLE.split())
"""Last words of a name that take no article."""

PROPER = frozenset({"Mrs.", "Mx", "Mount", "Tokyo", "Saturn", "Santa"})
"""First words of names of their own."""

_VAGUE = """
about all also and another any are back bad big both bring but can did does don't done down doing for from get gets
give giving good got great has have having her here him his how into isn't its just less let like little made make
making many maybe more most much must nah near never new nice nope not now off omg one other our out over own please
put really say see sent she should small some take that the them then there these they thing things this three time
too two under very want was way well went what when whatever where which who why will with won't word yeah yes yet
you your seriously lol lmao bro bruh fyi tbh idk ikr smh rofl wtf ugh meh literally totally emoji emojis character
symbol sign icon shape object person people human face button jew man woman men women male female boy girl body
unded post unspecified gender generic unisex
"""
VAGUE = frozenset(_VAGUE.split())
"""Keywords that are never used."""
