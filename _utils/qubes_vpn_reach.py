# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client gets from the world, and what many get meanwhile (R62)."""

import concurrent.futures
import time

from qubes_vpn_ask import NoAnswer

#: Who are asked at the same time: 60 are through while a tunnel is away, of which each takes a
#: dozen seconds to be sure that nothing comes.
_AT_ONCE = 20
#: Seconds between two looks at what must stay so meanwhile.
_LOOK = 3


class Through:
    """That *name* was asked.  when: ``time.monotonic()`` at the end; error: NoAnswer, or None."""

    def __init__(self, found, error):
        self.found, self.error, self.when = found, error, time.monotonic()


def reach(trial, name, tunnel, marker):
    """``{what: Answer}``: what a client gets from the world; *marker* is in what it sends."""
    packets = packets_to_nobody(trial)
    for one in trial.exits(name, tunnel).values():
        if one.of is not None:
            to = str(one.of)
            packets.append({"to": to, "how": "tcp", "port": trial.port(tunnel)})
            packets.append({"to": to, "how": "icmp"})
    questions = [
        {
            "server": server,
            "protocol": "udp",
            "name": f"{marker}-{place}.{trial.settings['domain']}",
        }
        for place, server in enumerate(("own1", "own2", *trial.settings["nobody"]))
    ]
    found = {}
    for packet, answer in zip(packets, trial.probing.packets(name, packets, marker), strict=True):
        found[f"{packet['how'].upper()} from {packet['to']}"] = answer
    answers = trial.probing.questions(name, questions)
    for question, answer in zip(questions, answers, strict=True):
        server = question["server"]
        what = f"names from {'its resolver' if server.startswith('own') else server}"
        if what not in found or answer.came:
            found[what] = answer
    return found


def packets_to_nobody(trial):
    """What a client sends to where nobody is."""
    return [{"to": to, "how": how} for to in trial.settings["nobody"] for how in ("udp", "icmp")]


def came(found):
    """Names of what came back, of :func:`reach`."""
    return [what for what, answer in found.items() if answer.came]


def at_once(ask, names, goes_on=lambda: True):
    """``{name: Through}`` of what *ask*, a function of a name, finds; many are asked at a time.

    goes_on: looked at every few seconds; when it is false, nobody else is asked, and who is not
    through is left out.
    """

    def through(name):
        try:
            return Through(ask(name), None)
        except NoAnswer as error:
            return Through({}, error)

    pool = concurrent.futures.ThreadPoolExecutor(_AT_ONCE)
    try:
        calls = {name: pool.submit(through, name) for name in names}
        while goes_on() and concurrent.futures.wait(calls.values(), _LOOK).not_done:
            pass
        return {name: call.result() for name, call in calls.items() if call.done()}
    finally:
        # Who was begun ends by himself: after Ctrl-C there is something else to be done first.
        pool.shutdown(wait=False, cancel_futures=True)
