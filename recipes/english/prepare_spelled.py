"""Made-up sentences of what is spelled and dictated: names letter by letter, codes, numbers, dates, times, addresses.

    python recipes/english/prepare_spelled.py OUT.txt.gz --names TEXT.txt.gz [--count N] [--seed N]
        [--held-out FILE …] [--corpora ASR_DATA]

Prose has next to none of this, so that a language model of books takes letters for mistakes. ``--names`` is a text of
``prepare_text.py``: its frequent words are spelled, and serve as names of people, streets and towns. Sentences are in
``A-Z'``, one a line. The same arguments give the same text. ``--held-out`` and ``--corpora`` leave out sentences as
``prepare_text.py`` does: no transcript of a test set is among them, and no run of eight words of one.
"""

import argparse
import gzip
import random
import runpy
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from asr.config.sections import TextConfig
from asr.errors import AsrError
from asr.files import atomic
from asr.text.prose import ProseSpeller
from asr.text.written_out import spoken

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ONES = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()
MONTHS = (
    "JANUARY FEBRUARY MARCH APRIL MAY JUNE JULY AUGUST SEPTEMBER OCTOBER NOVEMBER DECEMBER"
).split()  # fmt: skip
DAYS = "MONDAY TUESDAY WEDNESDAY THURSDAY FRIDAY SATURDAY SUNDAY".split()
STREETS = "STREET AVENUE ROAD LANE DRIVE COURT PLACE BOULEVARD WAY SQUARE".split()
UNITS = "MILES POUNDS DOLLARS CENTS PERCENT DEGREES INCHES FEET HOURS MINUTES POINTS YEARS".split()
INTRODUCTIONS = (
    "MY NAME IS {}", "THE NAME IS {}", "LAST NAME {}", "FIRST NAME {}", "THIS IS {}", "PLEASE CALL {}", "ASK FOR {}",
)  # fmt: skip
SPELLED = ("{0} {1}", "{0} SPELLED {1}", "{0} THAT IS {1}", "IT IS SPELLED {1}", "I SPELL {1}", "{1}", "{1}", "{1}")
DIALLED = (
    "MY NUMBER IS {}", "YOU CAN REACH ME AT {}", "PLEASE CALL {}", "THE TELEPHONE NUMBER IS {}", "EXTENSION {}", "{}",
    "{}", "AREA CODE {}", "THE CODE IS {}", "ACCOUNT NUMBER {}", "ROOM {}", "FLIGHT {}",
)  # fmt: skip
DATED = ("{}", "{}", "ON {}", "IT WAS {}", "BORN {}", "UNTIL {}", "BEFORE {}", "THE MEETING IS ON {}")
LONGEST_NAME, FREQUENT = 12, 20_000
"""Letters of a name at most; words of the text that are names."""


def names_of(path: Path) -> tuple[list[str], list[int]]:
    """The frequent words of a text, and the square roots of their counts: rare ones are names more often."""
    counts: Counter[str] = Counter()
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            counts.update(line.split())
    found = [
        (word, count)
        for word, count in counts.most_common(FREQUENT)
        if word.isalpha() and word.isascii() and 3 <= len(word) <= LONGEST_NAME
    ]
    if not found:
        raise AsrError(f"{path}: expected words of 3 to {LONGEST_NAME} letters, got none")
    return [word for word, _ in found], [round(count**0.5) + 1 for _, count in found]


class Phrases:
    """Draws sentences."""

    def __init__(self, names: list[str], weights: list[int], seed: int) -> None:
        self.draw = random.Random(seed)
        self.names, self.weights = names, weights
        self.kinds: dict[Callable[[], str], int] = {
            self.spelled: 30, self.code: 15, self.dialled: 20, self.cardinal: 8, self.date: 12, self.time: 5,
            self.address: 10,
        }  # fmt: skip

    def sentence(self) -> str:
        """One of any kind."""
        return self.draw.choices(list(self.kinds), list(self.kinds.values()))[0]()

    def name(self) -> str:
        return self.draw.choices(self.names, self.weights)[0]

    def number(self, value: float | str) -> str:
        """A number in words as the package writes it out."""
        return " ".join(spoken(str(value), "en").upper().replace("-", " ").split())

    def digits(self, count: int) -> str:
        """Digits one by one; a zero is often said as the letter, a pair as double."""
        zero = self.draw.choice(("ZERO", "OH"))
        drawn = [self.draw.choice(ONES) for _ in range(count)]
        said, at = [], 0
        while at < count:
            pair = at + 1 < count and drawn[at] == drawn[at + 1] and self.draw.random() < 0.2
            word = zero if drawn[at] == "ZERO" else drawn[at]
            said.append(f"DOUBLE {word}" if pair else word)
            at += 1 + pair
        return " ".join(said)

    def spelled(self) -> str:
        """A name letter by letter, alone or behind the name."""
        name = self.name()
        text = self.draw.choice(SPELLED).format(name, " ".join(name))
        return self.draw.choice(INTRODUCTIONS).format(text) if self.draw.random() < 0.2 else text

    def code(self) -> str:
        """Letters and digits in any order, such as a licence plate."""
        parts = [
            self.draw.choice(LETTERS) if self.draw.random() < 0.7 else self.draw.choice(ONES)
            for _ in range(self.draw.randint(1, 9))
        ]
        return " ".join(parts)

    def dialled(self) -> str:
        """A number digit by digit."""
        said = self.digits(self.draw.choice((1, 2, 3, 3, 4, 4, 5, 7, 7, 10, 10)))
        return self.draw.choice(DIALLED).format(said)

    def cardinal(self) -> str:
        """A number as one, perhaps with a unit."""
        text = self.number(f"{round(10 ** self.draw.uniform(0, 6)):,}")
        if self.draw.random() < 0.15:
            text += f" POINT {self.digits(self.draw.randint(1, 2))}"
        return f"{text} {self.draw.choice(UNITS)}" if self.draw.random() < 0.4 else text

    def date(self) -> str:
        """A day, with or without its year."""
        day, month = self.draw.randint(1, 31), self.draw.choice(MONTHS)
        ordinal = self.number(f"{day}{_ending(day)}")
        ways = (
            f"{month} {ordinal}",
            f"{month} {self.number(day)}",
            f"THE {ordinal} OF {month}",
            f"{month} THE {ordinal}",
        )
        text = self.draw.choice(ways)
        if self.draw.random() < 0.6:
            text += f" {self.year()}"
        if self.draw.random() < 0.15:
            text = f"{self.draw.choice(DAYS)} {text}"
        return self.draw.choice(DATED).format(text)

    def year(self) -> str:
        """Two pairs of digits, as a year is said."""
        century, rest = self.draw.choice((19, 19, 19, 18, 20)), self.draw.randint(1, 99)
        return f"{self.number(century)} {self.number(rest) if rest > 9 else 'OH ' + ONES[rest]}"

    def time(self) -> str:
        """A time of day."""
        hour, minute = self.draw.randint(1, 12), self.draw.randint(1, 59)
        said = self.number(minute) if minute > 9 else f"OH {ONES[minute]}"
        half = self.draw.choice(("A M", "P M", "IN THE MORNING", "IN THE EVENING", ""))
        text = self.draw.choice(
            (f"{self.number(hour)} {said} {half}", f"{self.number(hour)} O'CLOCK", f"{self.number(hour)} {half}",
             f"HALF PAST {self.number(hour)}", f"A QUARTER TO {self.number(hour)}")
        )  # fmt: skip
        return " ".join(f"{self.draw.choice(('AT', 'AT', 'BY', ''))} {text}".split())

    def address(self) -> str:
        """A street with its number, a town, a postal code."""
        house = self.draw.choice((self.digits(self.draw.randint(1, 4)), self.number(self.draw.randint(1, 999))))
        parts = [f"{house} {self.name()} {self.draw.choice(STREETS)}"]
        if self.draw.random() < 0.2:
            parts.append(f"APARTMENT {self.draw.choice((self.digits(2), self.draw.choice(LETTERS)))}")
        if self.draw.random() < 0.5:
            parts.append(self.name())
        if self.draw.random() < 0.4:
            parts.append(self.digits(5))
        return " ".join(parts)


def _ending(day: int) -> str:
    return "TH" if 10 < day < 14 else {1: "ST", 2: "ND", 3: "RD"}.get(day % 10, "TH")


def sentences(names: Path, count: int, seed: int) -> Iterator[str]:
    """``count`` sentences."""
    phrases = Phrases(*names_of(names), seed)
    for _ in range(count):
        yield phrases.sentence()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--names", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--held-out", type=Path, action="append", default=[])
    args = parser.parse_args()
    prepare = runpy.run_path(str(Path(__file__).with_name("prepare_text.py")))
    speller = ProseSpeller(prepare["ALPHABET"], TextConfig(case="upper"))
    held_out = prepare["HeldOut"](
        filter(None, map(speller.spell, prepare["held_out_texts"](args.held_out, args.corpora)))
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    words = left_out = 0
    with atomic(args.out) as temporary, gzip.open(temporary, "wt", compresslevel=3, encoding="ascii") as file:
        made = sentences(args.names, args.count, args.seed)
        for sentence in tqdm(made, desc=args.out.name, total=args.count, disable=None, leave=False):
            if held_out.matches(sentence):
                left_out += 1
                continue
            words += sentence.count(" ") + 1
            file.write(sentence + "\n")
    print(f"{args.out}: {args.count - left_out} sentences, {words} words; {left_out} left out as held out")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AsrError as error:
        sys.exit(f"error: {error}")
