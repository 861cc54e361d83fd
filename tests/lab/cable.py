# SPDX-License-Identifier: GPL-2.0-or-later
"""Two qubes and a cable, open to all but the kernel's own chatter: for the lab's own tools."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from qubes_vpn_formula.lab.qube import Qube

NEAR, FAR = ("10.137.0.20", "fd09:24ef:4179::a89:14"), ("10.138.0.1", "fd09:24ef:4179::a8a:1")
#: Routed over the cable, and known to the far qube as its own: a server in the internet.
INTERNET = ("198.51.100.7", "2001:db8::7")

#: A command that lets nothing of a qube's own out but frames.
CLOSED = "nft 'table inet t { chain c { type filter hook output priority 0; policy drop; }; }'"
#: The kernel reports its multicast groups seconds after a link came up, in the middle of any test.
QUIET = (
    "nft 'table inet q { chain c { type filter hook output priority 0; icmpv6 type 143 drop; }; }'"
)


@contextmanager
def cable() -> Iterator[tuple[Qube, Qube]]:
    """The near and the far qube; `eth0` of the near one is plugged into `vif1.0` of the far one."""
    with ExitStack() as stack:
        near, far = stack.enter_context(Qube("near")), stack.enter_context(Qube("far"))
        subprocess.run(
            f"ip link add eth0 netns {near.pid} type veth peer name vif1.0 netns {far.pid}".split(),
            check=True,
        )
        near.run(QUIET)
        near.run(
            "ip link set eth0 address 02:00:00:00:00:14 up\n"
            f"ip addr add {NEAR[0]}/32 dev eth0\nip addr add {NEAR[1]}/128 dev eth0 nodad"
        )
        far.run(
            "ip link set vif1.0 address fe:ff:ff:ff:ff:ff up\n"
            f"ip addr add {FAR[0]}/32 dev vif1.0\nip addr add {FAR[1]}/128 dev vif1.0 nodad\n"
            f"ip addr add {INTERNET[0]}/32 dev lo\nip addr add {INTERNET[1]}/128 dev lo nodad\n"
            f"ip route add {NEAR[0]} dev vif1.0\nip route add {NEAR[1]} dev vif1.0"
        )
        for address in FAR:
            near.run(
                f"ip route add {address} dev eth0; ip route add default via {address} dev eth0"
            )
        yield near, far
