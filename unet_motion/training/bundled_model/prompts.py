"""Prompts for drawn clips: many phrasings of the same three facts, and the vocabulary that they use."""

import numpy as np

from ...bundled.text import Tokenizer
from .drawn_clips import COLOUR_NAMES, MOTIONS, ClipBatch
from .shapes import SHAPES

SYNONYMS = {
    "circle": ("ball", "disc"),
    "square": ("box", "cube"),
    "triangle": ("pyramid",),
    "star": ("starlet",),
    "heart": ("love",),
    "ring": ("donut", "hoop"),
    "cross": ("plus",),
    "moon": ("crescent",),
    "red": ("crimson", "scarlet"),
    "orange": ("amber",),
    "yellow": ("golden",),
    "green": ("emerald",),
    "cyan": ("turquoise",),
    "blue": ("navy",),
    "purple": ("violet",),
    "pink": ("rose",),
}
TRAVEL_VERBS = ("moving", "going", "flying", "sliding", "drifting")
TRAVEL = {
    "left": ("left", "to the left", "leftwards"),
    "right": ("right", "to the right", "rightwards"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
}
OTHER_MOTIONS = {
    "growing": ("growing", "getting bigger", "expanding"),
    "shrinking": ("shrinking", "getting smaller"),
    "spinning": ("spinning", "rotating", "turning"),
    "still": ("still", "standing still", "motionless", "static"),
}
TEMPLATES = (
    "a {colour} {shape} {motion}",
    "{colour} {shape} {motion}",
    "one {colour} {shape} {motion}",
    "a {shape} {motion}, {colour}",
    "a video of a {colour} {shape} {motion}",
    "an animation of a {colour} {shape} that is {motion}",
)


def plain_prompt(shape: int, colour: int, motion: int) -> str:
    """The shortest prompt of a triple, such as "a red star moving left"."""
    name = MOTIONS[motion]
    words = f"moving {name}" if name in TRAVEL else name
    return f"a {COLOUR_NAMES[colour]} {SHAPES[shape]} {words}"


def _word(rng: np.random.Generator, name: str, share: float) -> str:
    return rng.choice(SYNONYMS[name]) if rng.random() < share else name


def _motion(rng: np.random.Generator, name: str, share: float) -> str:
    phrases = TRAVEL.get(name) or OTHER_MOTIONS[name]
    phrase = rng.choice(phrases) if rng.random() < share else phrases[0]
    if name not in TRAVEL:
        return phrase
    return f"{rng.choice(TRAVEL_VERBS) if rng.random() < share else TRAVEL_VERBS[0]} {phrase}"


def write_prompts(rng: np.random.Generator, clips: ClipBatch, varied: float = 0.35) -> list[str]:
    """One prompt a clip. Each word is a synonym, and each prompt in another form, with probability `varied`."""
    prompts = []
    for shape, colour, motion in zip(clips.shape.tolist(), clips.colour.tolist(), clips.motion.tolist(), strict=True):
        template = rng.choice(TEMPLATES) if rng.random() < varied else TEMPLATES[0]
        prompts.append(
            template.format(
                colour=_word(rng, COLOUR_NAMES[colour], varied),
                shape=_word(rng, SHAPES[shape], varied),
                motion=_motion(rng, MOTIONS[motion], varied),
            )
        )
    return prompts


def place_prompt(clips: ClipBatch, row: int, phase: float, least: float = 4.0) -> str:
    """A prompt of one moving clip's frame that says where the shape is instead of where it goes: "a red star left".

    Within `least` pixels of the middle of its path it says nothing of the place.
    """
    x, y = ((phase - 0.5) * clips.travel[row]).tolist()
    place = ""
    if max(abs(x), abs(y)) >= least:
        place = (" right" if x > 0 else " left") if abs(x) > abs(y) else (" down" if y > 0 else " up")
    return f"a {COLOUR_NAMES[clips.colour[row]]} {SHAPES[clips.shape[row]]}{place}"


def vocabulary() -> list[str]:
    """Every word that `write_prompts` can use, in a fixed order."""
    phrases = [template.format(colour="", shape="", motion="") for template in TEMPLATES]
    for name in (*SHAPES, *COLOUR_NAMES):
        phrases += [name, *SYNONYMS[name]]
    for choices in (*TRAVEL.values(), *OTHER_MOTIONS.values()):
        phrases += choices
    phrases += TRAVEL_VERBS
    return sorted({word for phrase in phrases for word in Tokenizer.split(phrase)})
