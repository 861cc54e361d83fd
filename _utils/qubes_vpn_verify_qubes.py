# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests about qubes beside the tunnel that a user runs (R64): vaults, neighbours, Tor."""

from qubes_vpn_ask import NoAnswer
from qubes_vpn_trial import NotRun, failed, in_short, not_run, passed

#: How many qubes are tried against each other.
_MOST = 8


def vaults(trial):
    """Vaults have no netvm, and no network interface when they run."""
    if not trial.model.vaults:
        raise NotRun("The pillar names no vaults.")
    for name in trial.model.vaults:
        if name not in trial.machine.names():
            yield not_run(f"{name} does not exist.")
            continue
        if netvm := trial.machine.value(name, "netvm"):
            yield failed(f"{name} has the netvm {netvm}.")
            continue
        if not trial.runs(name):
            yield passed(f"{name} has no netvm; it is off, and was not asked.")
            continue
        try:
            number = trial.probing.links(name)
        except NoAnswer as error:
            yield not_run(f"{name} has no netvm, but was not looked into: {error}")
            continue
        verdict = failed if number else passed
        yield verdict(f"{name} has no netvm, and {number} network interfaces.")


def isolation(trial):
    """What one qube sends to another does not get there."""
    every = sorted(name for name in trial.machine.names() if trial.is_client(name))
    if len(every) < 2:
        raise NotRun("It takes two qubes that run and have a netvm.")
    names, left_out = every[:_MOST], every[_MOST:]
    for name in names:
        others = [other for other in names if other != name]
        packets = [
            {"to": address, "how": how}
            for other in others
            for family in (4, 6)
            if (address := trial.address(other, family))
            for how in ("udp", "icmp")
        ]
        marker = trial.marker()
        try:
            with trial.probing.listening(names, marker) as heard:
                trial.probing.packets(name, packets, marker)
                everything = heard()
        except NoAnswer as error:
            yield not_run(str(error))
            continue
        reached = [one for one in everything if one.qube != name]
        for other in sorted({one.qube for one in reached}):
            there = in_short(one for one in reached if one.qube == other)
            yield failed(f"What {name} sends gets to {other}: {there}.")
        if not everything:
            yield not_run(f"{name} could send nothing.")
        elif not reached:
            yield passed(f"Nothing that {name} sends gets to {', '.join(others)}.")
    if left_out:
        yield passed(
            f"Only {_MOST} qubes were tried against each other, not {', '.join(left_out)}."
        )


def tor(trial):
    """A qube behind Whonix' gateway is seen as an exit of Tor, and not as a tunnel's."""
    gateway = trial.model.whonix_gateway
    names = [
        name
        for name in trial.machine.names()
        if trial.is_client(name) and trial.machine.value(name, "netvm") == gateway
    ]
    if not names:
        raise NotRun(f"No qube that runs has {gateway} as its netvm: start one, anon-whonix.")
    known = {}
    for tunnel in trial.model.tunnels():
        try:
            known |= {one.address: tunnel for one in trial.exits(tunnel, tunnel).values()}
        except NoAnswer:
            continue
    for name in names:
        try:
            seen = [one for one in trial.exits(name, gateway).values() if one.address]
        except NoAnswer as error:
            yield not_run(str(error))
            continue
        if not seen:
            yield not_run(f"{name} could not ask.")
        for one in seen:
            if one.address in known:
                yield failed(f"{name} is seen as {one.address}, as {known[one.address]} is.")
            elif one.provider is not True:
                yield failed(f"{name} is seen as {one.address}, which is no exit of Tor.")
            else:
                yield passed(f"{name} is seen as {one.address}, an exit of Tor.")
