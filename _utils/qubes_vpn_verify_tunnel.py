# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests about tunnels that a user runs (R60 to R62, R64): each yields what it has seen.

Of a :class:`qubes_vpn_trial.Trial`.  Where nothing can be seen they raise ``NotRun``, or
``qubes_vpn_ask.NoAnswer``; nothing that was not seen counts as passed.
"""

import time

import qubes_vpn_foretell
import qubes_vpn_plan
import qubes_vpn_told
import qubes_vpn_trial
from qubes_vpn_ask import NoAnswer
from qubes_vpn_reach import at_once, came, packets_to_nobody, reach
from qubes_vpn_trial import NotAsked, NotRun, failed, in_short, not_run, passed
from qubes_vpn_ways import Ways

#: Seconds after which a tunnel that was taken down comes back by itself, and for that.
_AWAY, _BACK = 120, 90
#: How many differences of the wiring are told.
_MANY = 8


def wiring(trial, last):
    """dom0's part is as the pillar says, and nobody is in clear whom it does not name.

    last: what earlier runs wrote, as :func:`qubes_vpn_words.last_written` gives it.
    """
    for name in Ways(trial.machine, trial.guard).clients_in_clear():
        if name not in trial.guard.outside_vpn:
            yield failed(f"{name} may go out in clear, and is not in the pillar's outside_vpn.")
    steps = qubes_vpn_plan.plan(trial.model)
    told = qubes_vpn_foretell.foretell(trial.fresh(), steps, last)
    words = [word for step in told for word in step["words"]]
    words += [step["problem"] for step in told if step["problem"]]
    for word in words[:_MANY]:
        yield failed(word)
    if len(words) > _MANY:
        yield failed(f"And {len(words) - _MANY} more: sudo qubesctl qubes_vpn.plan")
    if not words:
        yield passed(f"{len(steps)} steps have nothing to change.")


def up(trial, tunnel):
    """The tunnel is up, something comes back through it, its killswitch is as it was loaded."""
    status = trial.probing.status(tunnel)
    found, killswitch = status["tunnel"], status["killswitch"]
    if found is None or killswitch is None:
        raise NotRun(f"{tunnel} says that it is a resolver: apply the formula to it.")
    doctor = f"sudo qubesctl qubes_vpn.doctor says what to do about {tunnel}."
    is_up = found["state"] == "up" and not found["faults"]
    verdict = passed if is_up else failed
    yield verdict(f"{tunnel}: its tunnel is {found['state']}.{'' if is_up else ' ' + doctor}")
    if is_up:
        yield from _comes_back(trial, tunnel)
    whole = killswitch["state"] == "open" and not killswitch["drift"] + killswitch["problems"]
    what = killswitch["state"] if whole or killswitch["state"] != "open" else "open, and altered"
    verdict = passed if whole else failed
    yield verdict(f"{tunnel}: its killswitch is {what}.{'' if whole else ' ' + doctor}")


def _comes_back(trial, tunnel):
    """A tunnel whose server is gone may be up for minutes."""
    seen, host = trial.exits(tunnel, tunnel), trial.host(tunnel)
    errors = {one.error for one in seen.values()}
    if any(one.address for one in seen.values()):
        yield passed(f"{tunnel}: {host} answers through its tunnel.")
    elif errors & {qubes_vpn_trial.NO_ANSWER, qubes_vpn_trial.NO_WAY}:
        yield failed(f"{tunnel}: {host} does not answer through its tunnel: {seen[4].error}.")
    else:
        yield not_run(f"{tunnel}: {host} could not be asked: {seen[4].error}.")


def exit_address(trial, tunnel):
    """Clients are seen with the VPN qube's address, and the provider says that it is one of his."""
    clients = trial.clients(tunnel)
    own = trial.exits(tunnel, tunnel)
    if own[4].address is None and own[6].address is None:
        raise NotRun(f"{tunnel} itself could not ask: {own[4].error}.")
    yield from _at_the_provider(tunnel, own, trial, tunnel)
    for name in clients:
        try:
            seen = trial.exits(name, tunnel)
        except NoAnswer as error:
            yield not_run(str(error))
            continue
        if all(one.address is None for one in seen.values()):
            yield not_run(f"{name} could not ask: {seen[4].error}.")
        yield from _like(name, seen, tunnel, own, trial)
        yield from _at_the_provider(name, seen, trial, tunnel)


def _like(name, seen, tunnel, own, trial):
    for family, one in seen.items():
        address, there = one.address, own[family].address
        if address is None:
            continue
        if address == there or trial.is_exit(address, tunnel):
            yield passed(f"{name} is seen as {address}, as {tunnel} is.")
        elif there is None:
            yield failed(f"{name} is seen as {address}, and {tunnel} has no IPv{family}.")
        else:
            yield failed(f"{name} is seen as {address}, and {tunnel} as {there}.")


def _at_the_provider(name, seen, trial, tunnel):
    for one in seen.values():
        if one.address is None:
            continue
        if one.provider is False:
            yield failed(f"The provider's check says that {one.address} is none of its exits.")
        elif trial.is_exit(one.address, tunnel) is False:
            yield failed(f"{name}: {one.address} is none of the exits in the pillar.")


def uplink(trial, tunnel):
    """Clients and the VPN qube are not seen with the address of the uplink, which is in clear."""
    if not trial.settings["uplink"]:
        raise NotAsked(f"{trial.model.uplink} is not to ask anybody (pillar: tests.uplink).")
    above = trial.exits(trial.model.uplink, tunnel)
    addresses = {one.address for one in above.values()} - {None}
    if not addresses:
        raise NotRun(f"{trial.model.uplink} itself could not ask: {above[4].error}.")
    for name in (tunnel, *trial.clients(tunnel)):
        try:
            seen = {one.address for one in trial.exits(name, tunnel).values()} - {None}
        except NoAnswer as error:
            yield not_run(str(error))
            continue
        for address in sorted(seen & addresses, key=str):
            yield failed(f"{name} is seen as {address}, as {trial.model.uplink} is: in clear.")
        if not seen:
            yield not_run(f"{name} could not ask.")
        elif not seen & addresses:
            yield passed(f"{name} is not seen as {trial.model.uplink} is.")


def clear(trial, tunnel):
    """What clients send is seen by the VPN qube, and by nobody above it."""
    above = trial.upstream(tunnel)
    for name in trial.clients(tunnel):
        marker = trial.marker()
        with trial.probing.listening([tunnel, above], marker) as heard:
            packets = packets_to_nobody(trial)
            sent = trial.probing.packets(name, packets, marker)
            everything = heard()
        out = [one for one in everything if one.qube == above]
        if out:
            yield failed(f"What {name} sends is seen in {above}, in clear: {in_short(out)}.")
        arrived = {":" in one.to for one in everything if one.qube == tunnel}
        if not out and not arrived:
            yield not_run(f"What {name} sends did not get to {tunnel}: {_why(sent)}.")
        elif not out:
            families = " and ".join(f"IPv{6 if six else 4}" for six in sorted(arrived))
            yield passed(f"Of what {name} sends by {families} nothing is seen in {above}.")


def _why(answers):
    return ", ".join(sorted({one.error for one in answers if one.error})) or "and no error"


def killswitch(trial, tunnel):
    """With the tunnel down, clients get nothing: IPv4, IPv6, DNS, ICMP; then it is put back."""
    if not trial.destructive:
        raise NotAsked(
            f"It takes {tunnel}'s tunnel down for a minute: tests: {{destructive: true}} in the "
            'pillar, or at the end of the line pillar=\'{"qubes_vpn_tests": {"destructive": '
            "true}}'."
        )
    above, clients = trial.upstream(tunnel), trial.clients(tunnel)
    profile = _profile(trial, tunnel)
    before = at_once(lambda name: reach(trial, name, tunnel, trial.marker()), clients)
    proven = {name: came(one.found) for name, one in before.items() if came(one.found)}
    if not proven:
        who = ", ".join(clients)
        raise NotRun(f"With the tunnel up, nothing got back to {who}: that would prove nothing.")
    for name, one in before.items():
        if name not in proven:
            why = one.error or f"{name}: nothing got back to it with the tunnel up either."
            yield not_run(str(why))
    state = "stuck"
    try:
        state = trial.probing.tunnel(tunnel, "interrupt", profile, _AWAY)
        if state == "down":
            _see_down(trial, tunnel)
            yield from _without(trial, tunnel, above, proven)
    except (NoAnswer, NotRun) as error:
        yield not_run(str(error))
    finally:
        # Also after Ctrl-C, and when the qube did not answer; if this fails, it does it itself.
        back = state in _LEFT_UP or _bring_back(trial, tunnel, profile)
    if state != "down":
        yield not_run(f"{tunnel}: {_LEFT_UP.get(state, 'it could not be taken down')}.")
    if back:
        yield passed(f"{tunnel}'s tunnel is up again.")
    else:
        yield failed(f"{tunnel}'s tunnel is not up again: sudo qubesctl qubes_vpn.connect {tunnel}")


#: Words of :mod:`qubes_vpn_interrupt` by which nothing was done.
_LEFT_UP = {
    "busy": "another test takes its tunnel down just now",
    "unwatched": "its systemd would not bring the tunnel back by itself, so it was left up",
}


def _without(trial, tunnel, above, proven):
    """What they get, and send, with the tunnel down; proven: what each got with it up."""
    down, marker = _Down(trial, tunnel), trial.marker()
    markers = {name: f"{marker}-{number}" for number, name in enumerate(proven)}
    with trial.probing.listening([above], marker) as heard:
        found = at_once(lambda name: reach(trial, name, tunnel, markers[name]), proven, down.is_so)
        down.is_so()
        everything = heard()
    late = [name for name in proven if name not in found or found[name].when > down.seen]
    for number, name in enumerate(proven):
        if seen := [one for one in everything if one.of == number]:
            yield failed(f"What {name} sends then leaves by {above}: {in_short(seen)}.")
        if name in late:
            continue
        if found[name].error:
            yield not_run(str(found[name].error))
        elif after := came(found[name].found):
            yield failed(f"With {tunnel}'s tunnel down, {name} still gets: {', '.join(after)}.")
        elif not seen:
            had = ", ".join(proven[name])
            yield passed(f"With the tunnel down, {name} gets nothing; before: {had}.")
    if strange := [one for one in everything if one.of not in range(len(proven))]:
        yield failed(f"What clients send then leaves by {above}: {in_short(strange)}.")
    if late:
        # By itself, when so many clients take longer than it stays away.
        who = ", ".join(late)
        yield not_run(f"{tunnel}'s tunnel was up again before these were through: {who}.")


class _Down:
    """Whether a tunnel is down.  seen: when it last was so, by ``time.monotonic()``."""

    def __init__(self, trial, tunnel):
        self._trial, self._tunnel, self.seen = trial, tunnel, 0.0

    def is_so(self):
        """False when it is up again; a VPN qube that does not say has not said so."""
        now = time.monotonic()
        try:
            down = _state(self._trial, self._tunnel) == "down"
        except NoAnswer:
            return True
        if down:
            self.seen = now
        return down


def _profile(trial, tunnel):
    """The profile that is up, by its file's name; None of the Mullvad app."""
    found = trial.probing.status(tunnel)["tunnel"]
    if found is None or found["state"] != "up":
        raise NotRun(f"{tunnel}'s tunnel is not up.")
    service = trial.model.services[tunnel]
    if service.kind == "mullvad":
        return None
    ids = {one["id"] for one in found["profiles"] if one["state"] == "up"}
    for name in (service.profile, *service.profiles):
        if qubes_vpn_told.profile_id(name) in ids:
            return name
    raise NotRun(f"{tunnel} is up with a profile that the pillar does not name.")


def _state(trial, tunnel):
    return trial.probing.status(tunnel)["tunnel"]["state"]


def _see_down(trial, tunnel):
    """Waits until it is; raises :class:`NotRun` when something else brings it up."""
    until = time.monotonic() + 10
    while _state(trial, tunnel) != "down":
        if time.monotonic() > until:
            raise NotRun(f"{tunnel}: its tunnel does not stay down.")
        time.sleep(1)


def _bring_back(trial, tunnel, profile):
    """Whether the tunnel is up again."""
    until = time.monotonic() + _BACK
    try:
        trial.probing.tunnel(tunnel, "restore", profile)
        while _state(trial, tunnel) != "up":
            if time.monotonic() > until:
                return False
            time.sleep(1)
    except NoAnswer:
        return False
    return True
