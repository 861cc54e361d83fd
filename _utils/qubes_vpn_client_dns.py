# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a qube's firewall list lets its DNS through, as its netvm enforces it (R11, R50).

A list is enforced where packets are forwarded, so after every translation of addresses:
``specialtarget=dns`` is port 53 of the addresses in the netvm's own /etc/resolv.conf, at the time
when the list was put (qubes-core-agent-linux, ``qubesagent/firewall.py``).  Where a query goes by
then depends on the netvm:

- a resolver of ours answers itself: nothing is forwarded, and no list is asked (decision 20);
- a VPN qube of ours sends it to the tunnel's resolver, whatever the client asked;
- a firewall of ours passes on what it gives its clients to ask: the addresses in ``VIRTUAL``;
- of any other netvm nobody here knows.
"""

import ipaddress

import qubes_vpn_net

#: What Qubes gives every qube to ask (qubes-core-admin, ``qubes/vm/mix/net.py``).
VIRTUAL = ("10.139.1.1", "10.139.1.2")
RULE = "action=accept specialtarget=dns"


def remark(name, rules, netvm, role):
    """What to know about the DNS of *name* with the firewall list *rules* behind *netvm*, or None.

    role: of the *netvm*: ``tunnel``, ``resolver``, ``firewall``, or None for any other.
    """
    if role == "resolver":
        what = unheeded(rules, netvm)
        return what and f"{name}: its firewall list lets {what} (pillar: routes)."
    what = lack(rules, netvm, role)
    if what is None:
        return None
    return (
        f"{name}: its firewall list lets {what}: qvm-firewall {name} add --before 0 {RULE} (of an "
        "allowlist in the pillar: dns)."
    )


def lack(rules, netvm, role):
    """What a firewall list does about DNS, when that is a lack: the end of a sentence, or None."""
    if role == "resolver" or not any(rule.startswith("action=accept") for rule in rules):
        return None  # nothing is asked of the list; or it is offline, by a list that says so
    through = _through(rules, role)
    if through is None or (through and role is None):
        return None
    if not through:
        return f"no DNS through, so it has no names behind {netvm}. If it is to have them"
    places = ", ".join(dict.fromkeys(through))
    where = f"{netvm} sends all of it to the tunnel's resolver"
    if role == "firewall":
        where = f"what Qubes gives it to ask ({', '.join(VIRTUAL)}) is not among that"
    return f"DNS through to {places} only, and {where}. Unless that is what it asks"


def unheeded(rules, netvm):
    """What a list says of DNS that a resolver does not heed: the end of a sentence, or None."""
    if _through(rules, "firewall") != []:
        return None  # it lets some through, or as much as anybody asks
    return (
        f"no DNS through, and {netvm} answers it all the same: no list is asked for what a netvm "
        "itself answers. If it is to have no names, give it a firewall qube as its netvm"
    )


def lacking(machine, roles):
    """A text for each qube behind one of *roles*, ``{netvm: role}``, whose list and DNS differ.

    It has none, or has some in spite of its list.  Tunnels have endpoints only, resolvers ask
    theirs by other ports, and what a firewall's clients may ask is in their own lists.
    """
    for name, netvm in sorted(machine.wiring().items()):
        role = roles.get(netvm)
        asked = name not in roles or (roles[name] == "firewall" and role != "resolver")
        if role and asked:
            text = remark(name, machine.rules(name), netvm, role)
            if text and (role == "resolver" or machine.enforces(netvm)):
                yield text


def _through(rules, role):
    """Where a query by UDP may get through to: None, certainly; else a list of where perhaps."""
    places = []
    for rule in rules:
        fields = dict(word.split("=", 1) for word in rule.split(" comment=")[0].split())
        certainly, place = _matches(fields, role)
        if fields["action"] == "accept" and certainly:
            return None
        if fields["action"] == "accept" and place:
            places.append(place)
        if fields["action"] == "drop" and certainly:
            break
    return places


def _matches(fields, role):
    """Whether a rule is certainly one for such a query; where to, if it is for some."""
    first, _, last = fields.get("dstports", "53").partition("-")
    if fields.get("proto", "udp") != "udp" or not int(first) <= 53 <= int(last or first):
        return False, None
    if "specialtarget" in fields:
        return True, "dns"
    if host := fields.get("dsthost") or fields.get("dst6"):
        return False, host
    if "dst4" not in fields:
        return True, "everything"
    network = ipaddress.ip_network(fields["dst4"], strict=False)
    if network.prefixlen == 0:
        return True, "everything"
    if role == "firewall" and any(ipaddress.ip_address(each) in network for each in VIRTUAL):
        return True, fields["dst4"]
    if role == "tunnel" and all(map(qubes_vpn_net.not_in_a_tunnel, (network[0], network[-1]))):
        return False, None
    return False, fields["dst4"]
