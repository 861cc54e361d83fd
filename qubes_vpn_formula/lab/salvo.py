# SPDX-License-Identifier: GPL-2.0-or-later
"""The salvo of docs/attacks.md, and the proof that what was to be sent was given to the kernel."""

from collections.abc import Sequence

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.traffic import Job, Sent, TrafficError, send

#: Seconds for a connection: whatever got out has done so at once.
_WAIT = 0.03
#: Errors of a packet that no rule has seen, because the kernel had no way for it.
NO_WAY = frozenset({"ENETUNREACH", "EADDRNOTAVAIL", "ENODEV", "ENETDOWN", "ENXIO"})


def salvo(targets: Sequence[str], marker: bytes) -> list[Job]:
    """UDP, TCP and echo to each address; to a port that is no endpoint's."""
    return [
        job
        for to in targets
        for job in (
            senders.udp(to, 443, marker),
            senders.tcp(to, 443, marker, wait=_WAIT),
            senders.echo(to, marker),
        )
    ]


def fire(qube: Qube, jobs: Sequence[Job]) -> Sent:
    """Sends all jobs.  Raises :class:`TrafficError` unless each packet of each was tried."""
    sent = send(qube, *jobs)
    tried, planned = attempts(sent), sum(len(job.data) * job.count for job in jobs)
    if tried < planned:
        raise TrafficError(f"{qube.name}: {tried} packets tried, {planned} planned")
    return sent


def attempts(sent: Sent) -> int:
    """How many packets the sender gave to the kernel, refused ones included."""
    return sent.packets + sum(sent.errors.values())


def offered(sent: Sent) -> int:
    """How many of them found a way, so that rules decided."""
    return attempts(sent) - sum(sent.errors.get(name, 0) for name in NO_WAY)
