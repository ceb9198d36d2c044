"""Integers from 1 to 3999 written out in four ways: the tasks of the example family.

All four take the same prompt, a bare integer, so a model that has learnt one of them cannot be
right on another. German is written in ASCII (ue for u-umlaut, ss for sharp s), Spanish without
accents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping


def _words(text: str) -> list[str]:
    return text.split()


_ENGLISH = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_ENGLISH_TENS = _words("- - twenty thirty forty fifty sixty seventy eighty ninety")
_GERMAN = _words(
    "null ein zwei drei vier fuenf sechs sieben acht neun zehn elf zwoelf dreizehn vierzehn "
    "fuenfzehn sechzehn siebzehn achtzehn neunzehn"
)
_GERMAN_TENS = _words("- - zwanzig dreissig vierzig fuenfzig sechzig siebzig achtzig neunzig")
_SPANISH = _words(
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince "
    "dieciseis diecisiete dieciocho diecinueve veinte veintiuno veintidos veintitres "
    "veinticuatro veinticinco veintiseis veintisiete veintiocho veintinueve"
)
_SPANISH_TENS = _words("- - - treinta cuarenta cincuenta sesenta setenta ochenta noventa")
_SPANISH_HUNDREDS = _words(
    "- ciento doscientos trescientos cuatrocientos quinientos seiscientos setecientos "
    "ochocientos novecientos"
)
_ROMAN = [
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"),
    (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
]  # fmt: skip


def english(n: int) -> str:
    """312 -> three hundred twelve"""
    words = []
    if n >= 1000:
        words.append(f"{_ENGLISH[n // 1000]} thousand")
    if n // 100 % 10:
        words.append(f"{_ENGLISH[n // 100 % 10]} hundred")
    rest = n % 100
    if 0 < rest < 20:
        words.append(_ENGLISH[rest])
    elif rest:
        words.append("-".join([_ENGLISH_TENS[rest // 10], *([_ENGLISH[n % 10]] * (n % 10 > 0))]))
    return " ".join(words)


def german(n: int) -> str:
    """312 -> dreihundertzwoelf"""
    text = f"{_GERMAN[n // 1000]}tausend" if n >= 1000 else ""
    if n // 100 % 10:
        text += f"{_GERMAN[n // 100 % 10]}hundert"
    rest = n % 100
    if rest == 1:
        return text + "eins"
    if 0 < rest < 20:
        return text + _GERMAN[rest]
    if rest:
        return text + (f"{_GERMAN[n % 10]}und" if n % 10 else "") + _GERMAN_TENS[rest // 10]
    return text


def spanish(n: int) -> str:
    """312 -> trescientos doce"""
    words = []
    if n >= 1000:
        words += ["mil"] if n < 2000 else [_SPANISH[n // 1000], "mil"]
    rest = n % 100
    if n % 1000 == 100:
        words.append("cien")
    elif n // 100 % 10:
        words.append(_SPANISH_HUNDREDS[n // 100 % 10])
    if 0 < rest < 30:
        words.append(_SPANISH[rest])
    elif rest:
        words.append(_SPANISH_TENS[rest // 10])
        words += ["y", _SPANISH[n % 10]] if n % 10 else []
    return " ".join(words)


def roman(n: int) -> str:
    """312 -> CCCXII"""
    text = ""
    for value, letters in _ROMAN:
        text += letters * (n // value)
        n %= value
    return text


TASKS: Mapping[str, Callable[[int], str]] = {
    "english": english,
    "german": german,
    "roman": roman,
    "spanish": spanish,
}
