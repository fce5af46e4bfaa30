"""TIMIT: 630 Americans of eight dialects read ten sentences each; every phone is transcribed by hand.

    python recipes/timit/prepare.py --source DIR OUT

Raw layout (upper or lower case):

    TRAIN/DR1/FCJF0/SI1027.PHN      0 3050 h#            samples from, samples to, phone
    TRAIN/DR1/FCJF0/SI1027.WAV      NIST SPHERE, 16 kHz

The transcripts are phones, folded from the 61 of the corpus to the 39 that results are reported on (Lee & Hon 1989),
and the phone error rate is what ``asr evaluate`` calls WER. The SA sentences, which all speakers read, are left out.
``valid`` is the usual 50 speakers of the test folder, ``test`` the core test set of 24 others.
"""

import sys
from argparse import Namespace
from pathlib import Path

from asr.corpora import recipe
from asr.corpora.recipe import Clip

CORE = frozenset(
    """
    MDAB0 MWBT0 FELC0 MTAS1 MWEW0 FPAS0 MJMP0 MLNT0 FPKT0 MLLL0 MTLS0 FJLM0 MBPM0 MKLT0 FNLP0 MCMJ0 MJDH0 FMGD0 MGRT0
    MNJM0 FDHC0 MJLN0 MPAM0 FMLD0
    """.split()
)
DEVELOPMENT = frozenset(
    """
    FAKS0 FDAC1 FJEM0 MGWT0 MJAR0 MMDB1 MMDM2 MPDF0 FCMH0 FKMS0 MBDG0 MBWM0 MCSH0 FADG0 FDMS0 FEDW0 MGJF0 MGLB0 MRTK0
    MTAA0 MTDT0 MTHC0 MWJG0 FNMR0 FREW0 FSEM0 MBNS0 MMJR0 MDLS0 MDLF0 MDVC0 MERS0 FMAH0 FDRW0 MRCS0 MRJM4 FCAL1 MMWH0
    FJSJ0 MAJC0 MJSW0 MREB0 FGJD0 FJMG0 MROA0 MTEB0 MJFC0 MRJR0 FMML0 MRWS1
    """.split()
)
FOLDED = {
    "aa": "aa ao", "ah": "ah ax ax-h", "er": "er axr", "hh": "hh hv", "ih": "ih ix", "l": "l el", "m": "m em",
    "n": "n en nx", "ng": "ng eng", "sh": "sh zh", "uw": "uw ux",
    "sil": "pcl tcl kcl bcl dcl gcl h# pau epi",
}  # fmt: skip
FOLD = {old: new for new, group in FOLDED.items() for old in group.split()} | {"q": ""}


def read(folder: Path, args: Namespace) -> dict[str, list[Clip]]:
    """Training speakers, and those two groups of the test speakers."""
    sets: dict[str, list[Clip]] = {"train": [], "valid": [], "test": []}
    for path in sorted(folder.glob("*/*/*/*")):
        if path.suffix.upper() != ".PHN" or path.stem.upper().startswith("SA"):
            continue
        speaker = path.parent.name.upper()
        name = "valid" if speaker in DEVELOPMENT else "test" if speaker in CORE else ""
        if path.parts[-4].upper() == "TRAIN":
            name = "train"
        if name:
            item = Clip(f"{speaker}-{path.stem.upper()}", sound(path), " ".join(phones(path)), speaker)
            sets[name].append(item)
    return sets


def sound(path: Path) -> Path:
    """The recording of a transcript, whichever case its extension has."""
    upper = path.with_suffix(".WAV")
    return upper if upper.exists() else path.with_suffix("")


def phones(path: Path) -> list[str]:
    """The phones of a file, folded; neighbours that have become the same silence are one."""
    folded = [FOLD.get(phone, phone) for phone in (line.split()[-1] for line in recipe.read_lines(path))]
    kept = [phone for phone in folded if phone]
    return [p for at, p in enumerate(kept) if p != "sil" or at == 0 or kept[at - 1] != "sil"]


if __name__ == "__main__":
    sys.exit(recipe.run_recipe(__file__, read))
