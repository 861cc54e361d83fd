# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of value that a pillar holds.

Each kind has one method, ``read(value, path, problems)``: it returns what the model keeps, or
``None`` after adding to *problems* (a list of :class:`qubes_vpn_problem.Problem`), so that one
walk finds everything that is wrong and what is right can be checked further.
"""

import datetime
import re

import qubes_vpn_net
import qubes_vpn_ruleset
from qubes_vpn_problem import Problem, looks_secret, names_a_secret, show, suggest

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\Z")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. +-]*\Z")
_WORD = re.compile(r"\w[\w .,'&()+/-]{0,59}\Z")
_SENTENCE = re.compile(r"(?=.*\w)[ -~]{3,200}\Z")
_HOST_PATTERN = r"[a-z0-9*?][a-z0-9*?.-]{0,252}\Z"
_SECRET = Problem(
    (),
    "a secret does not belong in the pillar, which is copied to management qubes",
    "Take it out, treat it as disclosed, and keep it in the VPN qube, /rw/config/vpn/credentials/.",
)


def refuse(value, path, problems, what, fix):
    """Adds a problem about *value* at *path*: the given one, or a more urgent one."""
    if not isinstance(value, (dict, list)) and looks_secret(value):
        what, fix = _SECRET.what, _SECRET.fix
    elif value is None:
        what = "there is no value"
    elif isinstance(value, str) and any(mark in value for mark in ("{{", "{%", "{#")):
        what = "Salt would evaluate the text between the braces"
        fix = "Write the value itself, without '{{', '{%' or '{#'."
    problems.append(Problem(path, what, fix))


def refuse_key(key, path, problems, known):
    """Adds the problem of a *key* that nothing here is called."""
    if names_a_secret(key) or looks_secret(key):
        problems.append(_SECRET._replace(path=path))
    else:
        problems.append(Problem(path, "unknown key", suggest(key, known)))


class Choice:
    """One of a few words; *true* and *false* are those that YAML reads so (``yes``, ``off``)."""

    def __init__(self, *words, true=None, false=None):
        self.words, self.true, self.false = words, true, false

    def read(self, value, path, problems):
        if isinstance(value, bool) and (word := self.true if value else self.false):
            return word
        if isinstance(value, str) and value in self.words:
            return value
        fix = suggest(value, self.words) if isinstance(value, str) else ""
        if not fix.startswith("Did"):
            fix = f"Write one of: {', '.join(self.words)}."
        refuse(value, path, problems, f"{show(value)} is not possible here", fix)
        return None


class Name:
    """The name of a qube or template; *words* are allowed beside it (``none``, ``keep``).

    Rules as qubesd has them (qubes-core-admin ``qubes/vm/__init__.py``, validate_name).
    *new*: the formula may have to make it, on R4.2 too, where no name has a dot.
    """

    def __init__(self, *words, new=False):
        self.words, self.new = words, new

    def read(self, value, path, problems):
        if isinstance(value, str) and value in self.words:
            return value
        reason = self._reason(value)
        if reason is None:
            return value
        refuse(value, path, problems, *reason)
        return None

    def _reason(self, value):
        if isinstance(value, bool):
            what = f"YAML reads this word as {show(value)}, not as a name"
            return what, f"Write {' or '.join([*self.words, 'a name in quotes'])}."
        if not isinstance(value, str):
            return f"{show(value)} is not a name", f"Write {' or '.join([*self.words, 'a name'])}."
        # Shorter than an account number, and of these characters, it is no secret.
        if not _NAME.match(value) or (len(value) >= 16 and looks_secret(value)):
            marks = "'-' and '_'" if self.new else "'-', '_' and '.'"
            return (
                f"{show(value)} cannot be the name of a qube",
                f"Names begin with a letter and hold letters, digits, {marks}.",
            )
        if self.new and "." in value:
            return (
                f"{show(value)} has a '.', which R4.2 allows in no name",
                f"Write '-' instead: {value.replace('.', '-')}.",
            )
        if len(value) > 31:
            return (
                f"{show(value)} has {len(value)} characters",
                f"Qubes allows 31: '{value[:31].rstrip('-_.')}' would fit.",
            )
        if value.lower() in ("none", "default", "domain-0", "dom0") or value.endswith("-dm"):
            return f"{show(value)} is a name that Qubes keeps for itself", "Choose another name."
        return None


class File:
    """The bare name of a file (no folder)."""

    def read(self, value, path, problems):
        if isinstance(value, str) and _FILE.match(value) and not looks_secret(value):
            return value
        refuse(
            value,
            path,
            problems,
            f"{show(value)} is not a bare file name",
            "Write the name only; the file goes to the VPN qube, /rw/config/vpn/credentials/.",
        )
        return None


class Interface:
    """The name of a tunnel's network interface."""

    def read(self, value, path, problems):
        what = f"{show(value)} is not the name of an interface"
        if isinstance(value, str):
            what = qubes_vpn_ruleset.interface(value)
            if what is None:
                return value
        refuse(value, path, problems, what, "Write the name that the tunnel has, such as wg0.")
        return None


class Whole:
    """A whole number of *unit*, from *low* to *high*."""

    def __init__(self, low, high, unit):
        self.low, self.high, self.unit = low, high, unit

    def read(self, value, path, problems):
        if type(value) is int and self.low <= value <= self.high:
            return value
        refuse(
            value,
            path,
            problems,
            f"{show(value)} is not possible here",
            f"Write a whole number of {self.unit} from {self.low} to {self.high}.",
        )
        return None


class Port:
    """A port number."""

    def read(self, value, path, problems):
        if type(value) is int and 1 <= value <= 65535:
            return value
        what = f"{show(value)} is not a port"
        refuse(value, path, problems, what, "Write a number from 1 to 65535.")
        return None


class Word:
    """A short name of something in the world: a country, a city, a company."""

    def read(self, value, path, problems):
        if isinstance(value, str) and _WORD.match(value) and not looks_secret(value):
            return value
        what, fix = f"{show(value)} is not a name", "Write letters, digits and blanks."
        if isinstance(value, (bool, int, float)):
            what, fix = f"YAML reads this as {show(value)}, not as a name", "Put it in quotes."
        refuse(value, path, problems, what, fix)
        return None


class Sentence:
    """A line of the user's own words."""

    def read(self, value, path, problems):
        if isinstance(value, str) and _SENTENCE.match(value) and not looks_secret(value):
            return value.strip()
        what, fix = f"{show(value)} is no reason", "Write it in words: a line of up to 200 letters."
        refuse(value, path, problems, what, fix)
        return None


class Pattern:
    """A text that matches *pattern*; by default a host name, in which ``*`` and ``?`` may stand.

    digest: whether it is one, which is no secret, whatever is in it.
    """

    def __init__(
        self,
        pattern=_HOST_PATTERN,
        what="is neither a host name nor a pattern of one",
        fix="Write small letters, digits, '-' and '.'; * stands for any of them.",
        digest=False,
    ):
        self.pattern, self.what, self.fix = re.compile(pattern), what, fix
        self.digest = digest

    def read(self, value, path, problems):
        fits = isinstance(value, str) and self.pattern.match(value)
        if fits and (self.digest or not looks_secret(value)):
            return value
        refuse(value, path, problems, f"{show(value)} {self.what}", self.fix)
        return None


class Day:
    """A date; kept as text.  PyYAML reads one as a date, Salt leaves it text."""

    def read(self, value, path, problems):
        try:
            return datetime.date.fromisoformat(str(value)).isoformat()
        except ValueError:
            refuse(value, path, problems, f"{show(value)} is not a date", "Write it as 2026-11-22.")
            return None


class Switch:
    """true or false."""

    def read(self, value, path, problems):
        if isinstance(value, bool):
            return value
        refuse(value, path, problems, f"{show(value)} is not true or false", "Write true or false.")
        return None


class Address:
    """An endpoint or an allowlist entry, by *parse* and *notation* of :mod:`qubes_vpn_net`."""

    def __init__(self, parse, notation):
        self.parse, self.notation = parse, notation

    def read(self, value, path, problems):
        if not isinstance(value, str):
            hint = f"Write it as in {self.notation.example}."
            if isinstance(value, list):
                hint = "Put it in quotes."
            refuse(value, path, problems, f"{show(value)} is not {self.notation.form}", hint)
            return None
        try:
            return self.parse(value)
        except qubes_vpn_net.NotADestination as error:
            refuse(value, path, problems, error.what, error.fix)
            return None


class ListOf:
    """A list without repetitions, of at least *least* items."""

    def __init__(self, kind, least=0):
        self.kind, self.least = kind, least

    def read(self, value, path, problems):
        if not isinstance(value, list):
            fix = (
                f"Write one item a line, each after '- '{'' if self.least else ', or [] for none'}."
            )
            refuse(value, path, problems, f"{show(value)} is not a list", fix)
            return None
        if len(value) < self.least:
            problems.append(Problem(path, "the list is empty", f"It needs at least {self.least}."))
        kept, seen = [], {}
        for place, item in enumerate(value):
            item = self.kind.read(item, (*path, place), problems)
            if item is None:
                continue
            if item in seen:
                what = f"listed twice, first as item [{seen[item]}]"
                problems.append(Problem((*path, place), what, "Keep one."))
                continue
            seen[item] = place
            kept.append(item)
        return tuple(kept)


class MapOf:
    """A mapping whose keys are names of qubes and whose values are of one kind.

    *new*: as of :class:`Name`.
    """

    def __init__(self, kind, example, least=0, new=False):
        self.kind, self.example, self.least = kind, example, least
        self.key = Name(new=new)

    def read(self, value, path, problems):
        if not isinstance(value, dict):
            refuse(
                value, path, problems, f"{show(value)} is not a mapping", f"Write '{self.example}'."
            )
            return None
        if len(value) < self.least:
            fix = f"Write at least one: '{self.example}'."
            problems.append(Problem(path, "there is none", fix))
        kept = {}
        for key, item in value.items():
            inside, before = (*path, key), len(problems)
            item = self.kind.read(item, inside, problems)
            if looks_secret(key) or (item is None and names_a_secret(key)):
                problems[before:] = [_SECRET._replace(path=inside)]
                continue
            named = self.key.read(key, inside, problems)
            if item is not None and (named or str(key).isprintable()):
                kept[str(key)] = item  # under a wrong name too, so that nothing else seems missing
        return kept


class Keys:
    """A mapping of known keys; ``{key: (kind, default)}``, a default of ``...`` means required.

    An empty mapping may be written as nothing at all (``sys-dns:``).
    """

    def __init__(self, fields):
        self.fields = fields

    def read(self, value, path, problems):
        if value is None:
            value = {}
        if not isinstance(value, dict):
            known = ", ".join(self.fields)
            refuse(value, path, problems, f"{show(value)} is not a mapping", f"Keys here: {known}.")
            return None
        fields = self.fields
        kept = {key: default for key, (_, default) in fields.items() if key not in value}
        for key, item in value.items():
            if key in fields:
                item = fields[key][0].read(item, (*path, key), problems)
                if item is None and fields[key][1] is not ...:
                    item = fields[key][1]  # reported; the rest is checked as if it were not there
                kept[key] = item
            else:
                refuse_key(key, (*path, key), problems, fields)
        for key, default in kept.items():
            if default is ...:
                kept[key] = None
                problems.append(Problem((*path, key), "missing", "Add it, as in pillar.example."))
        return kept


class Row(Keys):
    """Such a mapping as an item of a list, kept as ``((key, value)...)``."""

    def read(self, value, path, problems):
        kept = super().read(value, path, problems)
        return kept and tuple((key, kept[key]) for key in self.fields)
