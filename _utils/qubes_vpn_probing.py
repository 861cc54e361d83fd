# SPDX-License-Identifier: GPL-2.0-or-later
"""What dom0 has qubes do for a test, and what it takes from their answers.

The programs are sent, because a client has no file of the formula's: :mod:`qubes_vpn_probe` to
``python3`` by Qubes' own service for running a program, and :mod:`qubes_vpn_interrupt` to a VPN
qube.  What comes back is a qube's word: each field is looked at, and no text of it is shown but
addresses and the names of network interfaces.
"""

import contextlib
import ipaddress
import json
import re
import time
from pathlib import Path
from typing import NamedTuple

import qubes_vpn_interrupt
import qubes_vpn_probe
import qubes_vpn_told
from qubes_vpn_ask import Hearing, NoAnswer, Silent, ask

#: `python3 -I -`, as qubesadmin.utils.encode_for_vmexec writes it.
_PYTHON = "qubes.VMExec+python3+--I+--"
_DEVICE = re.compile(r"[a-zA-Z0-9_.-]{1,15}\Z")
#: What the program in a qube calls that which went wrong, for users.
WORDS = {
    "silence": "no answer",
    "refused": "refused",
    "route": "no way there",
    "name": "the name was not found",
    "tls": "the certificate could not be checked",
    "answer": "an answer that says something else",
    "none": "there is none",
}
#: Seconds for the parts of a program in a qube, and for all of the call.
SHORT, _CALL = 6, 30
#: Seconds for which one listens at most, and for bringing a tunnel up or down.
_LISTENING, _MOVING = 180, 320
#: Seconds for a packet and the word of it to get to dom0.
_MOMENT = 1


class Exit(NamedTuple):
    """How the world sees a qube.  address: of ``ipaddress``, or None; then *error*, in words.

    provider: whether the provider's own check says that it is one of its exits; None: not said.
    of: the address of the server that was asked, or None.
    """

    address: object
    provider: bool | None
    error: str
    of: object


class Answer(NamedTuple):
    """Of one question or packet.  came: whether anything came back.  error: in words."""

    came: bool
    error: str


class Heard(NamedTuple):
    """A packet with the marker in it: where it was seen, whether on its way out, and where to.

    of: the number that follows the marker (``MARKER-7``), or None.
    """

    qube: str
    device: str
    out: bool
    to: str
    protocol: int
    port: int
    of: int | None

    def text(self):
        """For users: ``to 192.0.2.53 port 53 (udp)``."""
        name = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp"}.get(self.protocol, "other")
        return f"to {self.to} {f'port {self.port} ' if self.port else ''}({name})"


class Probing:
    """Qubes by *app*, a ``qubesadmin.Qubes`` without a cache.

    Every method raises :class:`qubes_vpn_ask.NoAnswer` when a qube cannot be asked, or says
    something that cannot be read.  Who has hung once has no program sent to it again: each time
    would cost half a minute.
    """

    def __init__(self, app):
        self._app, self._hung = app, set()

    def exits(self, name, check):
        """``{4: Exit, 6: Exit}`` of a qube, by *check*: ``url``, ``address``, ``provider``."""
        order = {"do": "fetch", "seconds": 2 * SHORT, **check}
        return dict(zip((4, 6), self._parts(name, order, 2, _exit), strict=True))

    def questions(self, name, questions):
        """An :class:`Answer` to each ``{"server", "protocol", "name"}``.

        A refusal, or that a resolver has failed, is none.
        """
        order = {"do": "ask", "questions": questions, "seconds": SHORT}
        return self._parts(name, order, len(questions), _answered)

    def packets(self, name, packets, marker):
        """An :class:`Answer` to each ``{"to", "how"}``, for tcp also ``port``."""
        order = {"do": "send", "packets": packets, "marker": marker, "seconds": SHORT}
        return self._parts(name, order, len(packets), _reached)

    def links(self, name):
        """How many network interfaces it has, beside its loopback."""
        (number,) = self._parts(name, {"do": "links"}, 1, _links)
        return number

    @contextlib.contextmanager
    def listening(self, names, marker):
        """Each of the qubes listens for *marker* meanwhile; yields a function of no arguments...

        ...that returns what they have :class:`Heard` up to then.
        """
        with contextlib.ExitStack() as stack:
            for name in names:
                with self._answering(name):
                    pass
            ears = [stack.enter_context(_Ear(self._app, name, marker)) for name in names]
            for ear in ears:
                with self._answering(ear.name):
                    ear.ready()
            yield lambda: [heard for ear in ears for heard in self._heard(ear)]

    def status(self, name):
        """What a VPN or resolver qube says of itself: of the form ``qubes_vpn_told.STATUS``."""
        told = ask(self._app, name, f"{qubes_vpn_told.PREFIX}Status")
        try:
            return qubes_vpn_told.read(told, qubes_vpn_told.STATUS)
        except qubes_vpn_told.NotUnderstood as error:
            raise NoAnswer(f"{name}: {error}.") from None

    def tunnel(self, name, do, profile, seconds=0):
        """Interrupts it, or restores it: a word of :mod:`qubes_vpn_interrupt`."""
        order = {"do": do, "profile": profile, "seconds": seconds}
        told = self._run(name, qubes_vpn_interrupt, order, _MOVING)
        with _readable(name):
            if told["state"] not in ("down", "up", "busy", "unwatched", "stuck"):
                raise ValueError
            return told["state"]

    def _heard(self, ear):
        with self._answering(ear.name):
            return ear.heard()

    @contextlib.contextmanager
    def _answering(self, name):
        """Remembers who hangs, and does not wait for him again."""
        if name in self._hung:
            raise NoAnswer(f"{name}: it gave no answer before, and is not asked again.")
        try:
            yield
        except Silent:
            self._hung.add(name)
            raise

    def _parts(self, name, order, number, read):
        with self._answering(name):
            told = self._run(name, qubes_vpn_probe, order, _CALL)
        with _readable(name):
            if not isinstance(told, list) or len(told) != number:
                raise ValueError
            return [read(part) for part in told]

    def _run(self, name, module, order, seconds):
        told = ask(self._app, name, _PYTHON, program(module, order), seconds=seconds)
        with _readable(name):
            return json.loads(told)


class _Ear:
    """One qube that listens."""

    def __init__(self, app, name, marker):
        order = {"do": "hear", "marker": marker, "seconds": _LISTENING}
        payload = program(qubes_vpn_probe, order)
        self._hearing = Hearing(app, name, _PYTHON, payload, seconds=_LISTENING, most=1 << 20)
        self.name, self._heard, self._ready = name, [], 0.0

    def ready(self):
        with _readable(self.name):
            if self._hearing.line(within=_CALL) != b"ready":
                raise ValueError
        self._ready = time.monotonic()

    def heard(self):
        """All that came up to now, and a moment longer: it may be on its way."""
        until = (time.monotonic() - self._ready + _MOMENT) * 1000
        while True:
            line = self._hearing.line()
            with _readable(self.name):
                if not line.startswith(b"tick "):
                    self._heard.append(_packet(self.name, json.loads(line)))
                    continue
                passed, lost = map(int, line.split()[1:])
            if lost:
                raise NoAnswer(f"{self.name}: too much traffic to listen to all of it.")
            if passed >= until:
                return list(self._heard)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._hearing.close()


def program(module, order):
    """What is sent to ``python3 -I -`` so that *module* does what *order* says."""
    text = Path(module.__file__).read_text(encoding="utf-8")
    return f"{text}\n\nmain(json.loads({json.dumps(order)!r}))\n".encode()


@contextlib.contextmanager
def _readable(name):
    """What a qube says is looked at here; what is not as it should be is no answer."""
    try:
        yield
    except (ValueError, TypeError, LookupError, RecursionError):
        raise NoAnswer(f"{name}: what it answers cannot be read.") from None


def _exit(part):
    if error := _error(part):
        return Exit(None, None, error, None)
    provider = part["provider"]
    if provider not in (True, False, None):
        raise ValueError
    return Exit(_address(part["address"]), provider, "", _address(part["of"]))


def _answered(part):
    if error := _error(part):
        return Answer(False, error)
    code = part["rcode"]
    if type(code) is not int or not 0 <= code < 16:
        raise ValueError
    # That a name is not there is an answer as well.
    return Answer(code in (0, 3), "" if code in (0, 3) else f"refused, code {code:d}")


def _reached(part):
    if error := _error(part):
        return Answer(False, error)
    if part["answered"] not in (True, False):
        raise ValueError
    return Answer(part["answered"], "" if part["answered"] else WORDS["silence"])


def _links(part):
    number = part["links"]
    if type(number) is not int or not 0 <= number < 1000:
        raise ValueError
    return number


def _error(part):
    return WORDS[part["error"]] if "error" in part else ""


def _packet(name, told):
    if not _DEVICE.match(_text(told["device"])):
        raise ValueError
    numbers = told["protocol"], told["port"]
    if any(type(number) is not int or not 0 <= number < 65536 for number in numbers):
        raise ValueError
    of = told["of"]
    if of is not None and (type(of) is not int or not 0 <= of < 10000):
        raise ValueError
    to = str(_address(told["to"]))
    return Heard(name, told["device"], told["out"] is True, to, *numbers, of)


def _address(value):
    text = _text(value)
    if "%" in text:  # an IPv6 zone, which may be any text
        raise ValueError
    return ipaddress.ip_address(text)


def _text(value):
    if not isinstance(value, str) or not value.isascii():
        raise ValueError
    return value
