"""speechocean762: English sentences read by 250 Mandarin speakers, half of them children.

    python recipes/speechocean762/prepare.py [--source DIR|ARCHIVE] OUT

Raw layout (Kaldi's files for ``train`` and ``test``, speakers disjoint):

    speechocean762/train/text        000010011 WE CALL IT BEAR
    speechocean762/train/wav.scp     000010011 WAVE/SPEAKER0001/000010011.WAV
    speechocean762/train/utt2spk     000010011 0001
    speechocean762/train/spk2age     0001 6

Writes the official ``full`` (2,500 utterances, 125 speakers) and ``test`` (the same, of others); ``train`` and
``valid`` (10 of the training speakers held out); ``test_children`` and ``test_adults``, which together are ``test``.
"""

import sys
from argparse import Namespace
from pathlib import Path

from asr.corpora import recipe
from asr.corpora.recipe import Clip

ADULT_YEARS = 16


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """The official sets, and the test set by age."""
    sets = {}
    for name in ("train", "test"):
        texts, audio, speakers = (recipe.read_table(folder / name / table) for table in ("text", "wav.scp", "utt2spk"))
        recipe.same_keys(folder / name, text=texts, **{"wav.scp": audio, "utt2spk": speakers})
        sets[name] = [Clip(key, folder / audio[key], texts[key], speakers[key]) for key in texts]
    ages = {speaker: int(years) for speaker, years in recipe.read_table(folder / "test" / "spk2age").items()}
    sets["test_children"] = [item for item in sets["test"] if ages[item.speaker] < ADULT_YEARS]
    sets["test_adults"] = [item for item in sets["test"] if ages[item.speaker] >= ADULT_YEARS]
    return sets


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read))
