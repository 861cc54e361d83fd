# SPDX-License-Identifier: GPL-2.0-or-later
"""Which firewall lists leave a client without DNS, by how its netvm enforces them (R11, R50)."""

import pytest

import qubes_vpn_client_dns

DROP = "action=drop"
WEB = "action=accept proto=tcp dstports=443-443"
DNS = "action=accept specialtarget=dns"
QUAD9 = "action=accept dst4=9.9.9.9/32 proto=udp dstports=53-53"
VIRTUAL = "action=accept dst4=10.139.1.1/32 proto=udp dstports=53-53"
NONE, ELSEWHERE, FINE = "no DNS through", "DNS through to ", None

#: list -> what is said behind a firewall, a VPN qube, and a netvm that nobody knows
LISTS = {
    "everything, as Qubes makes a qube": ((["action=accept"]), FINE, FINE, FINE),
    "nothing: offline by choice": ([DROP], FINE, FINE, FINE),
    "empty": ([], FINE, FINE, FINE),
    "as the settings' window writes it": (
        ["action=accept dsthost=bank.example", DNS, "action=accept proto=icmp", DROP],
        *(FINE, FINE, FINE),
    ),
    "no dns": ([WEB, DROP], NONE, NONE, NONE),
    "dns comes too late": ([WEB, DROP, DNS], NONE, NONE, NONE),
    "dns refused, the rest allowed": (
        ["action=drop specialtarget=dns", "action=accept"],
        *(NONE, NONE, NONE),
    ),
    "port 53 refused, the rest allowed": (
        ["action=drop proto=udp dstports=53-53", "action=accept"],
        *(NONE, NONE, NONE),
    ),
    "dns over tcp only": (
        ["action=accept proto=tcp specialtarget=dns", DROP],
        *(NONE, NONE, NONE),
    ),
    "udp, all of it": (["action=accept proto=udp", DROP], FINE, FINE, FINE),
    "a range of ports": (["action=accept proto=udp dstports=1-1023", DROP], FINE, FINE, FINE),
    "a range beside it": (["action=accept proto=udp dstports=54-1023", DROP], NONE, NONE, NONE),
    "everywhere, as a network": (["action=accept dst4=0.0.0.0/0", DROP], FINE, FINE, FINE),
    "what Qubes gives to ask": ([VIRTUAL, DROP], FINE, NONE, FINE),
    "a network around it": (["action=accept dst4=10.0.0.0/8", DROP], FINE, ELSEWHERE, FINE),
    "a resolver by its address": ([QUAD9, WEB, DROP], ELSEWHERE, ELSEWHERE, FINE),
    "a resolver by its name": (
        ["action=accept dsthost=dns.example proto=udp dstports=53-53", DROP],
        *(ELSEWHERE, ELSEWHERE, FINE),
    ),
    "a host that may be asked anything": (
        ["action=accept dst4=192.0.2.7/32", DROP],
        *(ELSEWHERE, ELSEWHERE, FINE),
    ),
    "a resolver with an IPv6 address": (
        ["action=accept dst6=2001:db8::53/128", DROP],
        *(ELSEWHERE, ELSEWHERE, FINE),
    ),
    "one resolver refused, then all": (
        ["action=drop dst4=8.8.8.8/32", "action=accept"],
        *(FINE, FINE, FINE),
    ),
    "a comment that looks like a rule": (
        ["action=accept proto=tcp comment=a specialtarget=dns", DROP],
        *(NONE, NONE, NONE),
    ),
    "for a while": (["action=accept expire=4000000000", DROP], FINE, FINE, FINE),
    "icmp only": (["action=accept proto=icmp", DROP], NONE, NONE, NONE),
}


@pytest.mark.parametrize("name", LISTS)
def test_what_is_said_of_a_list(name):
    rules, *expected = LISTS[name]
    for role, said in zip(("firewall", "tunnel", None), expected, strict=True):
        found = qubes_vpn_client_dns.lack(rules, "sys-x", role)
        assert (found is None) == (said is None), (role, found)
        assert (found or "").startswith(said or "")


@pytest.mark.parametrize("name", LISTS)
def test_a_resolver_answers_whatever_the_list_is(name):
    """Its clients' questions end in it: nothing is forwarded, so no list is asked."""
    assert qubes_vpn_client_dns.lack(LISTS[name][0], "sys-dns", "resolver") is None


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing: offline by choice", True),
        ("empty", True),
        ("no dns", True),
        ("port 53 refused, the rest allowed", True),
        ("everything, as Qubes makes a qube", False),
        ("as the settings' window writes it", False),
        ("what Qubes gives to ask", False),
        ("a resolver by its address", False),
    ],
)
def test_who_has_names_behind_a_resolver_in_spite_of_its_list_is_told(name, told):
    """Also one that a list takes offline: its names are a way out."""
    said = qubes_vpn_client_dns.remark("vault", LISTS[name][0], "sys-dns", "resolver")
    assert said == (
        "vault: its firewall list lets no DNS through, and sys-dns answers it all the same: no "
        "list is asked for what a netvm itself answers. If it is to have no names, give it a "
        "firewall qube as its netvm (pillar: routes)."
        if told
        else None
    )


def test_the_rule_that_is_named_ends_it():
    """As the first rule, which is what `--before 0` makes of it; for whatever was lacking."""
    for rules, *_ in LISTS.values():
        mended = [qubes_vpn_client_dns.RULE, *rules]
        for role in ("firewall", "tunnel", None):
            assert qubes_vpn_client_dns.lack(mended, "sys-x", role) is None
    said = qubes_vpn_client_dns.remark("work", [QUAD9, DROP], "sys-vpn", "tunnel")
    assert said == (
        "work: its firewall list lets DNS through to 9.9.9.9/32 only, and sys-vpn sends all of it "
        "to the tunnel's resolver. Unless that is what it asks: qvm-firewall work add --before 0 "
        "action=accept specialtarget=dns (of an allowlist in the pillar: dns)."
    )
