# SPDX-License-Identifier: GPL-2.0-or-later
"""Flows that Qubes' flowtable forwards past the forward chain, and what stops them.

`vif-route-qubes` (qubes-core-agent-linux) makes the flowtable anew for each client that comes.
"""

import chain
import flows
import formula

#: Of the shape of network/vif-route-qubes; its devices are all that there are.
_ACCELERATION = """
add table inet qubes-nat-accel
delete table inet qubes-nat-accel
table inet qubes-nat-accel {
    flowtable qubes-accel {
        hook ingress priority filter
        devices = { lo, eth0, vif7.0 }
    }
    chain qubes-accel {
        type filter hook forward priority filter + 5; policy accept;
        meta l4proto { tcp, udp } iifgroup 2 oifgroup 1 flow add @qubes-accel
        counter
    }
}
"""
#: Ahead of everything: what still passes the forward chain is counted.
_WATCH = """
add table inet watch
delete table inet watch
table inet watch {
    chain forward {
        type filter hook forward priority filter - 100; policy accept;
        iifname "vif7.0" counter
    }
}
"""
_PLAIN_DROP = """
table inet plain {
    chain forward {
        type filter hook forward priority filter - 10; policy drop;
        drop
    }
}
"""
_SENT = 20
_ALL_KINDS = ("a drop rule", "closed.nft", "the gate alone")


def scenarios():
    """Each way to stop a flow, tried on one that is offloaded; each flow is fresh."""
    for protocol, version in (("udp", 4), ("udp", 6), ("tcp", 4), ("tcp", 6)):
        for name, treatment in TREATMENTS.items():
            # One kind of flow is enough to see what each part does by itself.
            if (protocol, version) == ("udp", 4) or name in _ALL_KINDS:
                yield f"offload/{protocol}{version}/{name}", _treated, protocol, version, treatment


def _treated(protocol, version, treatment):
    chain.reset()
    formula.configure()
    chain.nft(_ACCELERATION)
    with flows.Flow(protocol, version) as flow:
        facts = _prove(flow)
        treatment()
        facts["frames"] = chain.captured(flow.send, _SENT)
        facts["offloaded_after"] = _offloaded()
    return facts


def _prove(flow):
    """The flow is offloaded: conntrack says so, and no packet of it is seen in a forward chain."""
    flow.talk(5)
    facts = {"sent": _SENT, "offloaded": _offloaded()}
    chain.nft(_WATCH)
    flow.talk(_SENT)
    listed = chain.run("vpn", "nft", "list", "table", "inet", "watch").stdout
    facts["forwarded"] = int(listed.partition("counter packets ")[2].split()[0])
    return facts


def _offloaded():
    listed = "".join(
        chain.run("vpn", "conntrack", "-L", "-f", family, check=False).stdout
        for family in ("ipv4", "ipv6")
    )
    return listed.count("OFFLOAD]")


def _load():
    if (said := formula.killswitch("load")) != (0, ""):
        raise chain.Failed(f"killswitch load: {said}")


def _next_client():
    """The rules hold, and then another client starts."""
    chain.nft(formula.closed())
    chain.nft(_ACCELERATION)


def _leave():
    """The rules without the flowtable's removal, and without the gate."""
    chain.nft(formula.without("table inet qubes-nat-accel", "netdev qubes_vpn"))


def _flush():
    _leave()
    chain.run("vpn", "conntrack", "-F")


#: What is done to the qube while the flow goes on.
TREATMENTS = {
    "nothing": lambda: None,
    "a drop rule": lambda: chain.nft(_PLAIN_DROP),
    "rules that leave the flowtable": _leave,
    "closed.nft": lambda: chain.nft(formula.closed()),
    "killswitch load": _load,
    "the gate alone": lambda: chain.nft(formula.gates()),
    "conntrack flushed": _flush,
    "closed.nft, then a client": _next_client,
}
