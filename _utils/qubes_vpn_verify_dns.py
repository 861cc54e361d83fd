# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests about names that a user runs (R60, R63): who answers, and who hears the question.

A question has a name in it that nobody has asked for before, and is also sent to addresses where
nobody is: an answer from there shows that the question was taken on its way.  Meanwhile the qubes
on the way, and the one above the VPN qube, listen for that name.
"""

from typing import NamedTuple

import qubes_vpn_trial
from qubes_vpn_trial import NotRun, failed, in_short, not_run, passed

#: In a qube, what its netvm is called, and what carries its clients.
_DOWN = ("vif", "lo")


class _Asked(NamedTuple):
    """What came of one client's questions.

    own: an ``Answer`` of each resolver that it has.  elsewhere: ``{(server, protocol): Answer}``.
    heard: of :class:`qubes_vpn_probing.Heard`.  resolver: the one on its way, or None.
    """

    own: list
    elsewhere: dict
    heard: list
    resolver: str | None


def ready(trial, name):
    """A resolver qube, or a VPN qube without one before it, answers clients."""
    status = trial.probing.status(name)
    found = status["resolver"]
    if name in trial.model.resolvers():
        if found is None:
            raise NotRun(f"{name} says that it is no resolver: apply the formula to it.")
        good = found["state"] == "open" and found["answers"] and not found["drift"]
        words = f"its rules are {found['state']}" + (", and altered" if found["drift"] else "")
        answers = "answers" if found["answers"] else "does not answer"
        words = f"{words}, and dnscrypt-proxy {answers}"
    else:
        if status["dns"] is None:
            raise NotRun(f"{name} says that it is no VPN qube: apply the formula to it.")
        good = status["dns"]["open"]
        words = f"clients' names are {'open' if good else 'closed'}"
    more = "" if good else f" sudo qubesctl qubes_vpn.doctor says what to do about {name}."
    yield (passed if good else failed)(f"{name}: {words}.{more}")


def answered(trial, tunnel):
    """Clients' resolvers answer."""
    for name in trial.clients(tunnel):
        own = _asked(trial, name, tunnel).own
        if any(answer.came for answer in own):
            yield passed(f"{name} gets names.")
        else:
            see = "See /srv/salt/qubes/network/docs/resolvefix.md."
            yield failed(f"{name} gets no names: {own[0].error}. {see}")


def captured(trial, tunnel):
    """Whatever address clients ask, ours answers: also where nobody is.

    A tunnel that names resolvers of one family alone has nobody for questions by the other.
    """
    for name in trial.clients(tunnel):
        asked = _asked(trial, name, tunnel)
        families = (4, 6) if asked.resolver else _families(trial, tunnel)
        if not any(answer.came for answer in asked.own):
            yield not_run(f"{name} gets no names at all.")
            continue
        past = {one.to for one in asked.heard if one.qube == tunnel and _goes_on(one)}
        for (server, protocol), answer in asked.elsewhere.items():
            what = f"what {name} asks {server} ({protocol})"
            if server in past:
                yield failed(f"{tunnel} sends on {what}: ours does not take it.")
            elif answer.came:
                yield passed(f"{what[0].upper()}{what[1:]} is answered, though nobody is there.")
            elif answer.error == qubes_vpn_trial.NO_WAY:
                yield passed(f"{name} has no way to {server}, and cannot ask it.")
            elif (family := 6 if ":" in server else 4) not in families:
                has_none = f"{tunnel}'s tunnel names no resolver of IPv{family}"
                yield passed(f"Nobody answers {what}, and it is not sent on: {has_none}.")
            else:
                yield failed(f"Nobody answers {what}: ours does not take it.")


def _families(trial, tunnel):
    """Of the resolvers to which a VPN qube takes its clients' questions."""
    dns = trial.probing.status(tunnel)["dns"]
    if dns is None:
        raise NotRun(f"{tunnel} says that it is no VPN qube: apply the formula to it.")
    return {6 if ":" in address else 4 for address in dns["resolvers"]}


def in_clear(trial, tunnel):
    """Nobody above the VPN qube hears a question; and above a resolver qube, nobody at all."""
    above = trial.upstream(tunnel)
    for name in trial.clients(tunnel):
        asked = _asked(trial, name, tunnel)
        first = asked.resolver or tunnel
        plain = [one for one in asked.heard if one.qube == above]
        past = [
            one
            for one in asked.heard
            if asked.resolver and (one.qube == tunnel or (one.qube == first and _goes_on(one)))
        ]
        if plain:
            yield failed(f"What {name} asks is seen in {above}, in clear: {in_short(plain)}.")
        if past:
            yield failed(f"What {name} asks goes past {first}, in plain: {in_short(past)}.")
        if first not in {one.qube for one in asked.heard}:
            yield not_run(f"What {name} asks did not get to {first}.")
        elif not plain + past:
            yield passed(f"What {name} asks is seen in {first}, and not in {above}.")


def _goes_on(one):
    """Whether a packet leaves a qube upstream."""
    return one.out and not one.device.startswith(_DOWN)


def _asked(trial, name, tunnel):
    """The client's questions, asked once in a run."""
    if (name, tunnel) in trial.asked:
        return trial.asked[name, tunnel]
    resolver = next((one for one in trial.way(name) if one in trial.model.resolvers()), None)
    ears = [one for one in (resolver, tunnel, trial.upstream(tunnel)) if one]
    marker = trial.marker()
    places = [("own1", "udp"), ("own2", "udp")]
    places += [(to, protocol) for to in trial.settings["nobody"] for protocol in ("udp", "tcp")]
    questions = [
        {"server": server, "protocol": protocol, "name": f"{marker}-{number}.{trial.domain}"}
        for number, (server, protocol) in enumerate(places)
    ]
    with trial.probing.listening(ears, marker) as heard:
        answers = trial.probing.questions(name, questions)
        everything = heard()
    elsewhere = dict(zip(places[2:], answers[2:], strict=True))
    own = [answer for answer in answers[:2] if answer.error != qubes_vpn_trial.NO_SERVER]
    own = own or [answers[0]]
    trial.asked[name, tunnel] = _Asked(own, elsewhere, everything, resolver)
    return trial.asked[name, tunnel]
