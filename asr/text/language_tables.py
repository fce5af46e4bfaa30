"""Tables by language for ``asr.text.written_out``: abbreviations, symbols, currencies, forms of numbers."""

from __future__ import annotations

ABBREVIATIONS = {
    "en": {
        "mr": "mister", "mrs": "missis", "messrs": "messieurs", "dr": "doctor", "drs": "doctors", "st": "saint",
        "co": "company", "jr": "junior", "sr": "senior", "maj": "major", "gen": "general", "rev": "reverend",
        "lt": "lieutenant", "hon": "honorable", "sgt": "sergeant", "capt": "captain", "esq": "esquire",
        "ltd": "limited", "col": "colonel", "ft": "fort", "no": "number", "nos": "numbers", "vol": "volume",
        "etc": "et cetera", "prof": "professor", "mt": "mount", "vs": "versus", "approx": "approximately",
        "gov": "governor", "sen": "senator", "adm": "admiral", "cpl": "corporal", "bros": "brothers",
        "corp": "corporation", "ave": "avenue", "blvd": "boulevard", "dept": "department", "fig": "figure",
        "p": "page", "pp": "pages", "ch": "chapter", "sec": "section",
    },
    "de": {
        "dr": "doktor", "prof": "professor", "nr": "nummer", "usw": "und so weiter", "usf": "und so fort",
        "bzw": "beziehungsweise", "ca": "circa", "evtl": "eventuell", "vgl": "vergleiche", "inkl": "inklusive",
        "zzgl": "zuzüglich", "bzgl": "bezüglich", "ggf": "gegebenenfalls", "bspw": "beispielsweise",
        "etc": "et cetera", "st": "sankt", "s": "Seite", "abb": "Abbildung", "kap": "Kapitel",
    },
    "fr": {
        "m": "monsieur", "mm": "messieurs", "mme": "madame", "mmes": "mesdames", "mlle": "mademoiselle",
        "mgr": "monseigneur", "dr": "docteur", "st": "saint", "ste": "sainte", "no": "numéro", "p": "page",
        "vol": "volume", "chap": "chapitre", "etc": "et cetera", "env": "environ",
    },
    "es": {
        "sr": "señor", "sra": "señora", "srta": "señorita", "dr": "doctor", "dra": "doctora", "etc": "etcétera",
        "pág": "página", "núm": "número", "aprox": "aproximadamente", "ud": "usted", "uds": "ustedes",
        "sto": "santo", "sta": "santa",
    },
}  # fmt: skip
"""Written with a full stop behind them, and what each is where what stands beside it does not say otherwise."""
PHRASES = {
    "de": {
        "z.B": "zum Beispiel", "Z.B": "zum Beispiel", "d.h": "das heißt", "D.h": "das heißt", "z.T": "zum Teil",
        "z.Zt": "zur Zeit", "i.d.R": "in der Regel", "v.Chr": "vor Christus", "n.Chr": "nach Christus", "u.a": "",
        "u.U": "unter Umständen", "u.ä": "", "o.ä": "", "s.o": "", "s.u": "",
    },
    "fr": {
        "p.ex": "par exemple", "P.ex": "par exemple", "c.-à-d": "c'est à dire", "av.J.-C": "avant Jésus Christ",
        "ap.J.-C": "après Jésus Christ", "apr.J.-C": "après Jésus Christ",
    },
    "es": {"p.ej": "por ejemplo", "P.ej": "por ejemplo", "EE.UU": "Estados Unidos", "a.C": "", "d.C": ""},
    "en": {"Ph.D": "", "Ph.Ds": ""},
}  # fmt: skip
"""Abbreviations of several words, which may have spaces between them; those of "" are not understood."""
UNCLEAR = {
    "en": "inc|feb|apr|aug|sept|oct|nov|dec|tues|thurs|fri|est|ext|cf|viz|misc|hrs?|yrs?|lbs?|univ|govt|"
    "assn|calif|dist|cmdr|rd",
    "de": "mio|mrd|tsd|str|geb|gest|hl|hr|fr|hrn|jh|jhd|sog|tel|std|min|sek|ff|allg|ebd|dipl|ing|feb|apr|aug|sept|okt|"
    "nov|dez|bd|verh|bes|insb|mtl|jährl|zw|lt",
    "fr": "arr|av|apr|bd|boul|cf|tél|cie|hab|dép|éd|janv|févr?|avr|juil|oct|nov|déc|qqch|qqn",
    "es": "av|avda|tel|tfno|prof|profa|ene|feb|abr|ago|sept|oct|nov|dic|cía|gral|pbro|izq|dcha|vd|vds",
}
"""Abbreviations that are said in several ways, or whose words are inflected."""
BEFORE_NUMBERS = {
    "en": ("no", "nos", "vol", "fig", "p", "pp", "ch", "sec"),
    "de": ("nr", "s", "abb", "kap"),
    "fr": ("no", "p", "vol", "chap"),
    "es": ("pág", "núm"),
}
"""Abbreviations before a number only; elsewhere the same letters are a word and the end of a sentence."""
BEFORE_NAMES = {
    "en": ("dr", "st", "maj", "gen", "rev", "lt", "hon", "sgt", "capt", "col", "ft", "mt", "gov", "sen", "adm", "cpl"),
    "de": ("st",),
    "fr": ("m", "mm", "st", "ste", "mgr"),
    "es": ("sr", "sra", "srta", "dr", "dra", "sto", "sta"),
}
"""Abbreviations before a name only; elsewhere they may be another word (``Rodeo Dr.``)."""
ALWAYS_NAMES = {"en": ("lt", "hon", "sgt", "capt", "maj", "cpl"), "es": ("sr", "sra", "srta", "dr", "dra")}
"""Those that are nothing else in a text of one case either, which does not show what a name is."""
BARE = {
    "en": ("mr", "mrs", "messrs", "dr", "st", "prof", "mt", "sgt", "capt", "lt"),
    "de": ("dr", "prof"),
    "fr": ("mme", "mmes", "mlle", "mgr", "dr", "st", "ste"),
    "es": ("sr", "sra", "srta", "dra"),
}
"""Titles that are written without a full stop too."""
NOT_TITLES_ONLY = ("dr", "st", "mt", "prof", "lt", "ste", "capt")
"""Those that are titles before a name with a capital only."""
BEFORE_SAINTS = frozenset("at in the from of to on near and by for with where when visit after before his her".split())
"""Words that begin a sentence about St. Paul; any other with a capital may be a street's name."""
SYMBOLS = {
    "en": {"&": " and ", "%": " percent ", "+": " plus ", "@": " at "},
    "de": {"&": " und ", "%": " Prozent ", "+": " plus "},
    "fr": {"&": " et ", "%": " pour cent ", "+": " plus "},
    "es": {"&": " y ", "%": " por ciento ", "+": " más "},
}
CURRENCIES = {
    "en": {"£": ("one pound", "pounds"), "$": ("one dollar", "dollars"), "€": ("one euro", "euros")},
    "de": {"€": ("ein Euro", "Euro")},
    "fr": {"€": ("un euro", "euros")},
    "es": {"€": ("un euro", "euros")},
}
"""One of them, and the name of several."""
LANGUAGES = {
    "english": "en", "eng": "en", "german": "de", "deutsch": "de", "deu": "de", "ger": "de", "french": "fr",
    "fra": "fr", "français": "fr", "fre": "fr", "spanish": "es", "español": "es", "spa": "es", "italian": "it",
    "ita": "it", "portuguese": "pt", "por": "pt", "dutch": "nl", "nld": "nl", "polish": "pl", "pol": "pl",
    "russian": "ru", "rus": "ru", "ukrainian": "uk", "ukr": "uk", "czech": "cs", "ces": "cs", "swedish": "sv",
    "swe": "sv", "danish": "da", "dan": "da", "norwegian": "no", "nor": "no", "finnish": "fi", "fin": "fi",
    "turkish": "tr", "tur": "tr", "hungarian": "hu", "hun": "hu", "romanian": "ro", "ron": "ro", "chinese": "zh",
    "mandarin": "zh", "zho": "zh", "cmn": "zh", "japanese": "ja", "jpn": "ja", "jp": "ja", "korean": "ko",
    "kor": "ko", "kr": "ko", "thai": "th", "tha": "th", "vietnamese": "vi", "vie": "vi", "hebrew": "he",
    "heb": "he", "arabic": "ar", "ara": "ar", "hindi": "hi", "hin": "hi", "persian": "fa", "fas": "fa",
    "indonesian": "id", "ind": "id", "catalan": "ca", "cat": "ca",
}  # fmt: skip
"""What people write for a language, and its code."""
MINUS = {"en": "minus", "de": "minus", "fr": "moins", "es": "menos"}
SPACELESS = {"zh", "ja", "th"}
COMMA_DECIMALS = {"de", "fr", "es", "it", "nl", "pl", "pt", "ru", "cs", "sv", "da", "no", "fi", "tr", "uk"}
DOT_ORDINALS = {"de", "da", "no", "nb", "nn", "fi", "et", "lv", "cs", "sk", "sl", "hr", "sr", "pl", "hu", "tr", "is"}
"""Languages in which a full stop behind a number makes an ordinal of it, which is inflected."""
YEARS_LIKE_NUMBERS = {"en", "de", "fr", "es", "it", "pt", "ja", "zh"}
"""Languages in which a year is said as the number is, or for which ``_number`` knows better."""
LONG_DECIMALS = {"en", "de"}
"""Languages in which the digits behind the point are said one by one."""
UNITS = "km/h|km|cm|mm|nm|m|kg|mg|g|lbs?|oz|ml|cl|dl|l|ft|yds?|mph|kmh|k?hz|mhz|ghz|kb|mb|gb|tb|kwh?|h|min|sec"
"""Behind a number, or glued to it. (``ha`` is a word in Romance languages.)"""
CURRENCY_WORDS = "dollars?|euros?|pounds?|francs?|franken|pesos?|rubles?|zł|złotych|kronor|kr"
CURRENCY_CODES = "EUR|USD|GBP|CHF|JPY|CAD|AUD|SEK|DKK|NOK|PLN|CZK|CNY|INR|RUB|DM|HKD"
PRICED = (
    "bills?|notes?|coins?|tickets?|fees?|fines?|deals?|prizes?|budgets?|loans?|jackpots?|checks?|cheques?|gifts?|cards?|"
    "tax(?:es)?|bonus(?:es)?|contracts?|lawsuits?|settlements?|investments?|projects?|programs?|funds?|bets?|chips?|"
    "stamps?|lunch|tips?|rewards?|bount(?:y|ies)|donations?|questions?|mortgages?|homes?|houses?|plans?|cuts?"
)
"""What is said with the amount in the singular: a five dollar bill."""
MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
INFLECTED = {
    "fr": r"(?:\d*[02-68])?1",
    "es": r"(?:\d*[02-9])?1|\d*[2-9]\d\d",
    "pt": r"(?:\d*[02-9])?[12]|\d*[2-9]\d\d",
    "it": "1", "nl": "1", "de": "1", "fi": "1",
    **dict.fromkeys(("sv", "da", "no"), r"(?:\d*[02-9])?1"),
    **dict.fromkeys(("ru", "uk", "pl", "cs"), r"(?:\d*[02-9])?[12]"),
}  # fmt: skip
"""Numbers whose words depend on the noun behind them."""
NOUNS = {"fr": "ans|jours|mois|siècles|euros|mètres|kilomètres|kilos|habitants|hommes|millions|milliards", "de": "Uhr"}
"""Nouns of known gender: before these the words of a number are known."""
NOISES = (
    "laugh|applau|music|cough|sigh|inaudible|unintelligible|indistinct|noise|silence|pause|cries|crying|cheer|"
    "lach|musik|unverständlich|stille|rire|musique|inaudible|risas|música"
)
