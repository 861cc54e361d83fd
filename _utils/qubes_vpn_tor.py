# SPDX-License-Identifier: GPL-2.0-or-later
"""What Tor asks of the service qubes that send through it: it carries TCP, and nothing else.

Source: tor(1), TransPort; Whonix' gateway redirects its clients' TCP to it and answers their DNS.
"""

from qubes_vpn_problem import Problem

_TOP = "qubes_vpn"


def settled(model):
    """*model*, whose resolvers ask by TCP where Tor carries what they ask."""
    for name in model.resolvers():
        service = model.services[name]
        if service.dnscrypt["force_tcp"] is None:
            proxy = {**service.dnscrypt, "force_tcp": model.through_tor(name)}
            model.services[name] = service._replace(dnscrypt=proxy)
    return model


def problems(model):
    """What would not get through Tor."""
    for service in model.services.values():
        if model.through_tor(service.name):
            at = (_TOP, f"{service.role}s", service.name)
            # Right on the gateway it is refused already, whatever its kind.
            if service.role == "tunnel" and service.upstream != model.whonix_gateway:
                yield from _tunnel(model, at, service)
            if service.role == "resolver":
                yield from _resolver(model, at, service)


def _tunnel(model, at, tunnel):
    what = f"Tor carries TCP only, and {tunnel.name} is behind {model.whonix_gateway}"
    if tunnel.kind == "wireguard":
        fix = "Write 'kind: openvpn' with a profile of the provider's for tcp."
        yield Problem((*at, "kind"), f"{what}: WireGuard speaks udp", fix)
    elif tunnel.kind == "mullvad" and tunnel.mullvad["obfuscation"] != "udp2tcp":
        fix = "Write 'obfuscation: udp2tcp' and its port."
        yield Problem((*at, "mullvad", "obfuscation"), what, fix)
    else:
        udp = [each.text for each in tunnel.endpoints or () if each.proto != "tcp"]
        if udp:
            fix = "Name servers by /tcp only, and a profile for tcp."
            yield Problem((*at, "endpoints"), f"{what}: {udp[0]} is not", fix)


def _resolver(model, at, resolver):
    what = f"Tor carries TCP only, and {resolver.name} is behind {model.whonix_gateway}"
    if not resolver.dnscrypt["force_tcp"]:
        fix = "Remove it: it is true there."
        yield Problem((*at, "dnscrypt", "force_tcp"), what, fix)
    if resolver.dnscrypt["http3"]:
        yield Problem((*at, "dnscrypt", "http3"), f"{what}: HTTP/3 speaks udp", "Remove it.")
    if resolver.dnscrypt["forwarding"]:
        what = f"Tor leads to no private network, and {resolver.name} is behind it"
        yield Problem((*at, "dnscrypt", "forwarding"), what, "Remove it.")
