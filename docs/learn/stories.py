"""The book of the course: any number of tiny stories, always the same ones.

    python stories.py 400 > book.txt        # 400 stories

A story is four short sentences with a few free choices. So we know how well the best possible model could predict the
text, and a model has something to find out: whether to write She or He, and which thing was put where, is decided by
words that are up to fifty characters back.
"""

import math
import random
import sys

NAMES = {"Ann": "She", "Eva": "She", "Mia": "She", "Ben": "He", "Leo": "He", "Tom": "He"}
COLORS = ("black", "green", "red", "white")
THINGS = ("ball", "book", "coin", "cup", "hat", "key")
VERBS = ("hides", "puts")
PLACES = ("bag", "box", "car", "garden", "house", "tree")
QUESTIONS = ("Where is the {thing}? In the {place}.", "Who has a {thing}? {name} has.", "Is it {color}? Yes, it is.")


def write_story(choose) -> str:
    """One story, whose free choices are made by `choose(options)`."""
    name, color, thing = choose(sorted(NAMES)), choose(COLORS), choose(THINGS)
    verb, place = choose(VERBS), choose(PLACES)
    question = choose(QUESTIONS).format(name=name, color=color, thing=thing, place=place)
    return f"{name} has a {color} {thing}.\n{NAMES[name]} {verb} it in the {place}.\n{question}\n\n"


def write_stories(count: int, seed: int = 1) -> str:
    """A text of `count` stories; the same seed gives the same text."""
    choose = random.Random(seed).choice
    return "".join(write_story(choose) for _ in range(count))


def choices_per_story() -> float:
    """The information of a story in nats: the logarithm of the number of different stories."""
    return sum(math.log(len(options)) for options in (NAMES, COLORS, THINGS, VERBS, PLACES, QUESTIONS))


if __name__ == "__main__":
    print(write_stories(int(sys.argv[1]) if len(sys.argv) > 1 else 400), end="")
