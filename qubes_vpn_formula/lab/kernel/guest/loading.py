# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules load on this kernel with this nft, again and again, and bad input closes."""

import chain
import formula

#: Every kind of endpoint: exact ones, and those that go into interval sets.
_ALL_KINDS = """
192.0.2.10:51820/udp
192.0.2.11:443/tcp
198.51.100.0/28:1194-1200/udp
198.51.100.4/30:1190-1195/udp
203.0.113.77:5000-5010/tcp
[2001:db8:2::10]:51820/udp
[2001:db8:3::/64]:443/tcp
[2001:db8:4::1]:1000-2000/udp
"""
_BAD = {
    "no endpoints.txt": (None, "interface = wg0\n"),
    "nft syntax": ("192.0.2.10:51820/udp }; flush ruleset\n", "interface = wg0\n"),
    "the uplink as tunnel": (formula.ENDPOINTS, "interface = eth0\n"),
}
_MANY = 500


def scenarios():
    """Those of this file."""
    yield "loading/closed", _closed
    yield "loading/open", _open
    yield "loading/many", _many
    for name, configuration in _BAD.items():
        yield f"loading/bad/{name}", _bad, configuration


def _closed():
    chain.reset()
    said = [chain.run("vpn", "nft", "-c", "-f", str(formula.LIBRARY / "closed.nft"), check=False)]
    listings = []
    for _ in range(3):
        said.append(chain.run("vpn", "nft", "-f", str(formula.LIBRARY / "closed.nft"), check=False))
        listings.append(formula.listing())
    return {
        "exits": [done.returncode for done in said],
        "said": "".join(done.stdout + done.stderr for done in said),
        "same": len(set(listings)) == 1,
        "listing": listings[0],
    }


def _open():
    chain.reset()
    formula.boot()
    formula.configure(_ALL_KINDS, "interface = wg0\ninterface = tun0\nlog = yes\n")
    said, listings = [], []
    for _ in range(2):
        said.append(formula.killswitch("load"))
        listings.append(formula.listing())
    report = formula.status()
    return {
        "said": said,
        "same": _words(listings[0]) == _words(listings[1]),
        "listing": listings[0],
        "state": report["state"],
        "drift": report["drift"],
    }


def _words(listing):
    """A hash has no order, and its elements change places with each load."""
    return sorted(listing.replace(",", " ").split())


def _many():
    chain.reset()
    formula.configure("".join(f"10.{n >> 8}.{n & 255}.1:51820/udp\n" for n in range(_MANY)))
    chain.nft(formula.opened())
    # nft 1.0.6 writes the protocol as a number where there is no /etc/protocols.
    return {"elements": formula.listing().count(".1 . "), "wanted": _MANY}


def _bad(configuration):
    chain.reset()
    formula.configure()
    chain.nft(formula.opened())
    formula.configure(*configuration)
    exit_, said = formula.killswitch("load")
    bad = formula.listing()
    chain.nft(formula.closed())
    return {"exit": exit_, "said": said, "closed": bad == formula.listing()}
