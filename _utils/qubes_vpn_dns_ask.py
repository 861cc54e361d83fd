# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the resolver in this qube answers real questions.

That its program runs, or says it is ready, proves nothing: it is ready before it has reached any
server.  So it is asked two things, and must answer both:

- a name of random letters.  No cache and no list has it, so that there is no such name is known by
  the other side alone, and now.  It is a top-level domain: a resolver denies these by itself, from
  the root's signed ranges (RFC 8198), and the question says nothing about anybody;
- what :mod:`qubes_vpn_question` asks: one that denies all names is no resolver.

Both at the same time, so that it takes one way there and back and not two.  SERVFAIL, REFUSED and
silence are no answers.
"""

import os
import secrets
import select
import socket
import struct
import time

import qubes_vpn_question

#: Only what listens on all of this qube's addresses, so for clients too, answers at this one.
EVERYWHERE = "127.0.0.2"
#: Where the qube's own programs ask.
OWN = "127.0.0.1"
_PORT, _NAME_SERVERS, _INTERNET = 53, 2, 1
_RESPONSE, _CODE = 0x8000, 0x000F
_NOERROR, _NXDOMAIN = 0, 3
_CODES = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED"}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
#: Seconds after which it is asked again: a question that was dropped is never answered.  At first,
#: and at most; in between each pause is longer than the one before by half.
_AGAIN, _AT_MOST = 0.03, 0.5
#: Seconds until a resolver that is about to start is tried again, at first and at most; in between
#: a fiftieth of the time that has passed.
_SOON, _LATER = 0.02, 0.2
#: Of <linux/in.h>; Python has no name for it before 3.14.
_IP_RECVERR = 11


def ask(seconds):
    """Why the resolver does not answer, in words; None when it does.

    seconds: how long it is asked, at most.
    """
    return _ask(seconds, EVERYWHERE, root=True)


def wait(seconds, question=None):
    """The same as *question* (None: :func:`ask`) says, until it is None or *seconds* have passed.

    For a resolver that is about to start: nobody listens yet.
    """
    question, begin = question or ask, time.monotonic()
    while why := question(max(0.1, begin + seconds - time.monotonic())):
        passed = time.monotonic() - begin
        if passed >= seconds:
            break
        time.sleep(min(max(_SOON, passed / 50), _LATER))
    return why


def random_name(seconds, address=EVERYWHERE):
    """The same, by the first of the two questions alone."""
    return _ask(seconds, address, root=False)


def _ask(seconds, address, root):
    """The same.  root: whether the root's name servers are asked for too."""
    until, pause = time.monotonic() + seconds, _AGAIN
    names, roots, why = {}, set(), "no answer"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        try:
            # Not connected, because an answer comes from 127.0.0.1 whichever was asked; by this it
            # hears all the same that nobody listens.
            wire.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            while (now := time.monotonic()) < until:
                if why:
                    number, question = os.urandom(2), _question()
                    names[number] = question
                    wire.sendto(qubes_vpn_question.message(number, question), (address, _PORT))
                if root:
                    roots.add(number := os.urandom(2))
                    wire.sendto(qubes_vpn_question.message(number), (address, _PORT))
                for message in _heard(wire, min(until, now + pause)):
                    if any(qubes_vpn_question.is_answer(message, one, full=True) for one in roots):
                        root = False
                    elif why and (wrong := _wrong(message, names)) != "":
                        why = wrong
                    if not why and not root:
                        return None
                pause = min(1.5 * pause, _AT_MOST)
        except ConnectionRefusedError:
            return "nothing listens on port 53"
        except OSError as error:
            return f"it cannot be asked: {error.strerror}"
    return why or "it does not know the root's name servers"


def _question():
    """A name that there is not, and what is asked about it."""
    label = "".join(secrets.choice(_LETTERS) for _ in range(20)).encode()
    return bytes([len(label)]) + label + b"\0" + struct.pack("!HH", _NAME_SERVERS, _INTERNET)


def _heard(wire, until):
    """The messages that come until then."""
    while (left := until - time.monotonic()) > 0:
        if select.select([wire], [], [], left)[0]:
            yield wire.recv(65535)


def _wrong(message, asked):
    """Why *message* is no answer; empty when nobody asked for it; None when it is one.

    asked: ``{number: question}``.
    """
    question = asked.get(message[:2])
    if question is None or message[12 : 12 + len(question)] != question:
        return ""
    flags, _, records = struct.unpack("!HHH", message[2:8])
    code = flags & _CODE
    if not flags & _RESPONSE:
        return ""
    if code not in (_NOERROR, _NXDOMAIN):
        return f"it answers {_CODES.get(code, f'with error {code}')}"
    return "it makes up answers to names that there are not" if records else None
