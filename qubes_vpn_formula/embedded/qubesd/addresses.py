# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses of qubes: computed from qid or dispid, as in qubes/vm/mix/net.py."""

import ipaddress

_IPV6_PREFIX = "fd09:24ef:4179:0000"
_NETMASK = "255.255.255.255"
DNS = ("10.139.1.1", "10.139.1.2")


def _ipv4(prefix: str, number: int) -> str:
    """Address number *number*; .0 and .255 are avoided, low numbers keep their plain form."""
    if number < 255:
        return f"{prefix}.{(number >> 8) & 0xFF}.{number & 0xFF}"
    number -= 1
    return f"{prefix}.{number // 254}.{number % 254 + 1}"


def _networked(qube) -> bool:
    return qube.get("provides_network") or qube.get("netvm") is not None


def _has_ipv6(qube):
    return qube.feature("ipv6", through="netvm", default="")


def _given_by(qube):
    """Who hands out the address: the netvm, which must be able to; dom0 is not."""
    netvm = qube.netvm
    if netvm is not None:
        netvm.get("provides_network")
    return netvm


def ip(qube) -> str | None:
    if not _networked(qube):
        return None
    _given_by(qube)
    if qube.klass == "DispVM":
        return _ipv4("10.138", qube.get("dispid"))
    return _ipv4("10.137", qube.get("qid"))


def ip6(qube) -> str | None:
    if not _networked(qube) or not _has_ipv6(qube):
        return None
    _given_by(qube)
    network, number = ("a8a", "dispid") if qube.klass == "DispVM" else ("a89", "qid")
    return str(ipaddress.IPv6Address(f"{_IPV6_PREFIX}::{network}:{qube.get(number):x}"))


def visible_ip(qube) -> str | None:
    return qube.feature("net.fake-ip") or qube.get("ip")


def visible_ip6(qube) -> str | None:
    return qube.get("ip6")


def visible_gateway(qube) -> str | None:
    fake = qube.feature("net.fake-gateway")
    if fake:
        return fake
    return qube.netvm.get("gateway") if qube.netvm else None


def visible_gateway6(qube) -> str | None:
    if not _has_ipv6(qube):
        return None
    return qube.netvm.get("gateway6") if qube.netvm else None


def visible_netmask(qube) -> str | None:
    fake = qube.feature("net.fake-netmask")
    if fake:
        return fake
    return netmask(qube.netvm) if qube.netvm else None


def gateway(qube) -> str | None:
    return qube.get("visible_ip") if qube.get("provides_network") else None


def gateway6(qube) -> str | None:
    if not _has_ipv6(qube):
        return None
    return qube.get("visible_ip6") if qube.get("provides_network") else None


def netmask(qube) -> str | None:
    """What clients of *qube* get as their netmask."""
    return _NETMASK if _networked(qube) else None


def dns(qube) -> str | None:
    return " ".join(DNS) if _networked(qube) else None
