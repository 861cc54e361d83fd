# SPDX-License-Identifier: GPL-2.0-or-later
"""What a pillar may say of a resolver's dnscrypt-proxy (R53), and what must fit in it.

Keys have dnscrypt-proxy's own names where it has one for the same thing.  There is none for what
would send a name in plain: no bootstrap, no probe of the network, no log of questions unasked for.
"""

import base64
import binascii
import fnmatch
import ipaddress
import re

import qubes_vpn_dnscrypt_stamp
import qubes_vpn_net
from qubes_vpn_dnscrypt_stamp import CLOSED_PORTS, DNSCRYPT, DOH, PORT, RELAY
from qubes_vpn_problem import Problem, looks_secret, show, suggest
from qubes_vpn_types import Choice, Keys, ListOf, Pattern, Switch, Whole, refuse

#: What a resolver asks if its pillar names no server: two operators, two protocols, port 443, and
#: neither needs anything looked up.  Neither stamp pins a certificate, which would age.  From the
#: DNSCrypt project's list of public resolvers, as unchanged since 2018 and 2023: both say that they
#: log nothing, filter nothing and check DNSSEC.
SERVERS = {
    "scaleway-fr": "sdns://AQcAAAAAAAAADjIxMi40Ny4yMjguMTM2IOgBuE6mBr-wusDOQ0RbsV66ZLAvo8SqMa4QY2"
    "oHkDJNHzIuZG5zY3J5cHQtY2VydC5mci5kbnNjcnlwdC5vcmc",
    "mullvad-doh": "sdns://AgcAAAAAAAAACzE5NC4yNDIuMi4yAA9kbnMubXVsbHZhZC5uZXQKL2Rucy1xdWVyeQ",
}
#: The key that signs the DNSCrypt project's lists (DNSCrypt/dnscrypt-resolvers, v3/minisign.pub).
PROJECT_KEY = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
#: Its lists of servers and relays, and where it publishes them (the same repository's README).
PROJECT_LISTS = ("public-resolvers", "relays", "parental-control", "opennic")
_PROJECT_URLS = (
    "https://raw.githubusercontent.com/DNSCrypt/dnscrypt-resolvers/master/v3/{}.md",
    "https://download.dnscrypt.info/dnscrypt-resolvers/v3/{}.md",
)
LOG_LEVELS = ("info", "notice", "warning", "error", "critical")
#: Files of ours in the folder; a user's own has another name.
OWN_FILES = (
    "dnscrypt-proxy.toml",
    "first.toml",
    "forwarding-rules.txt",
    "cloaking-rules.txt",
    "blocked-names.txt",
    "allowed-names.txt",
    "blocked-ips.txt",
)
_PLAIN = "names would be looked up in plain"
_REMOVE = "Remove it: nothing here needs it."
#: Keys of dnscrypt-proxy's own that users may look for: why there are none, and what to do.
_NEVER = {
    "bootstrap_resolvers": (_PLAIN, "Remove it, and use stamps that hold an address."),
    "fallback_resolvers": (_PLAIN, "Remove it, and use stamps that hold an address."),
    "ignore_system_dns": ("the system's resolver is ignored, always", "Remove it."),
    "netprobe_address": ("nothing is sent to find out whether there is a network", _REMOVE),
    "netprobe_timeout": ("nothing is sent to find out whether there is a network", _REMOVE),
    "listen_addresses": (
        "it listens on port 53 at every address, and the rules let clients alone reach it",
        "Remove it; 'listen_ipv6: false' is for IPv4 only.",
    ),
    "odoh_servers": ("stamps of Oblivious DoH hold no address to reach it by", "Remove it."),
    "cert_ignore_timestamp": ("certificates that are out of date would be taken", "Remove it."),
    "edns_client_subnet": ("it would tell servers whose question it is", "Remove it."),
    "proxy": ("the tunnel is the only way out", "Remove it."),
    "http_proxy": ("the tunnel is the only way out", "Remove it."),
    "user_name": ("it has a user of its own already", "Remove it."),
    "static": ("it has another name here", "Write 'servers'."),
    "sources": ("it has another name here", "Write 'lists'."),
    "anonymized_dns": ("it has another name here", "Write 'relays' and 'routes'."),
    "forwarding_rules": ("rules stand in the pillar, not in a file", "Write 'forwarding'."),
    "cloaking_rules": ("rules stand in the pillar, not in a file", "Write 'cloaking'."),
    "dnscrypt_ephemeral_keys": ("it has another name here", "Write 'ephemeral_keys'."),
    "cert_refresh_delay": ("it has another name here", "Write 'cert_refresh_minutes'."),
}
#: More lines than this for one network would slow each answer down.
_MOST_LINES = 1024

_SERVER = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\Z"
_NAMES = r"(?=.{2,253}\Z)(?=.*[a-z0-9])(=[a-z0-9._-]+|[a-z0-9*?._-]+)\Z"
_URL = re.compile(r"https://([A-Za-z0-9.-]{1,253})(?::([0-9]{1,5}))?(/[A-Za-z0-9._~%@+/-]+)\Z")
_PORTED = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]{1,5})\Z")
#: Networks that no one routes in the internet.  100.64/10 is what VPNs give to their customers.
_PRIVATE = [
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
]


class _Text(Pattern):
    """A text that matches a pattern and is no secret."""

    def read(self, value, path, problems):
        if isinstance(value, str) and looks_secret(value):
            refuse(value, path, problems, "", "")  # in its own words
            return None
        return super().read(value, path, problems)


_SERVER_NAME = _Text(
    _SERVER, "cannot be the name of a server", "Write letters, digits, '-', '_' and '.'."
)
_SERVER_OR_ALL = _Text(
    rf"\*\Z|{_SERVER}",
    "cannot be the name of a server or a relay",
    "Write letters, digits, '-', '_' and '.', or '*' for all.",
)
_LIST_NAME = _Text(
    r"[a-z0-9][a-z0-9_-]{0,62}\Z",
    "cannot be the name of a list",
    "Write small letters, digits, '-' and '_'; its file in the qube gets this name.",
)
_FILE = _Text(
    r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z",
    "is not a bare file name",
    "Write the name only; the file belongs in the resolver qube, /rw/config/vpn/dns/.",
)
_DOMAIN_NAME = _Text(
    _DOMAIN, "is not a domain", "Write it as in corp.example; what is below it is meant, too."
)
_NAME_PATTERN = _Text(
    _NAMES,
    "is not a name or a pattern of names",
    "Write ads.example (and all below it), =ads.example (only it), ads.* or *tracker*, in small "
    "letters.",
)


class _Table:
    """A mapping with keys of one kind and values of another; *example* is one line of it."""

    def __init__(self, key, kind, example):
        self.key, self.kind, self.example = key, kind, example

    def read(self, value, path, problems):
        if not isinstance(value, dict):
            fix = f"Write '{self.example}', or {{}} for none."
            refuse(value, path, problems, f"{show(value)} is not a mapping", fix)
            return None
        kept = {}
        for key, item in value.items():
            before = len(problems)
            if self.key.read(key, (*path, key), problems) is None:
                continue
            item = self.kind.read(item, (*path, key), problems)
            if item is not None and len(problems) == before:
                kept[key] = item
        return kept


class _Stamp:
    """A DNS stamp of one of *kinds*, kept as text."""

    def __init__(self, *kinds):
        self.kinds = kinds

    def read(self, value, path, problems):
        try:
            stamp = qubes_vpn_dnscrypt_stamp.read(value)
        except qubes_vpn_dnscrypt_stamp.NotAStamp as error:
            if isinstance(value, str) and value.startswith("sdns:"):
                # No secret, whatever it looks like, and too long to be shown.
                what = f"the stamp cannot be used: {error.what}"
                problems.append(Problem(path, what, error.fix))
            else:
                what = f"{show(value)} is not a stamp: {error.what}"
                refuse(value, path, problems, what, error.fix)
            return None
        if stamp.kind in self.kinds:
            return value
        if stamp.kind == RELAY:
            what, fix = "it is the stamp of a relay, which answers nothing", "Move it to 'relays'."
        else:
            what, fix = f"it is the stamp of a {stamp.kind} server", "Move it to 'servers'."
        refuse(value, path, problems, what, fix)
        return None


class _Url:
    """Where a list is downloaded; its signature has the same address and ``.minisig``."""

    def read(self, value, path, problems):
        form = _URL.match(value) if isinstance(value, str) else None
        port = int(form[2] or PORT) if form else 0
        if form and 1 <= port <= 65535 and port not in CLOSED_PORTS and not looks_secret(value):
            return value
        what = f"{show(value)} is not the address of a list"
        fix = "Write https://HOST/PATH, without '?' and '#'; its signature is there with .minisig."
        if form and port in CLOSED_PORTS:
            what, fix = f"port {port} is closed in a resolver qube", "Name another port."
        refuse(value, path, problems, what, fix)
        return None


class _MinisignKey:
    """A public key as minisign prints it: algorithm, number and key, 42 bytes in base64."""

    def read(self, value, path, problems):
        try:
            data = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
        except (binascii.Error, ValueError):
            data = b""
        if len(data) == 42 and data[:2] == b"Ed":
            return value
        what = f"{show(value)} is not a minisign public key"
        refuse(value, path, problems, what, "Copy the 56 characters that begin with RW.")
        return None


class _PrivateServer:
    """ADDRESS:PORT of a resolver in a private network, which is asked in plain."""

    def read(self, value, path, problems):
        form = _PORTED.match(value) if isinstance(value, str) else None
        fix = 'Write it as in 10.8.0.1:5353 or "[fd00::1]:5353".'
        try:
            address = ipaddress.ip_address(form[1] or form[2])
            port = int(form[3])
            if (address.version == 6) != bool(form[1]) or not 1 <= port <= 65535:
                raise ValueError
        except (TypeError, ValueError):
            refuse(value, path, problems, f"{show(value)} is not ADDRESS:PORT", fix)
            return None
        what = None
        if port in CLOSED_PORTS:
            what = f"port {port} is closed in a resolver qube, in the tunnel too"
            fix = "Name a resolver on another port, or let clients ask this one by another qube."
        elif not any(address in net for net in _PRIVATE if net.version == address.version):
            what = f"it would be asked in plain, and {address} is not in a private network"
            fix = "Name a resolver inside the VPN, or use a stamp under 'servers'."
        elif why := qubes_vpn_net.not_in_a_tunnel(address):
            what, fix = f"no resolver in the tunnel is at {address}: {why}", "Name another one."
        if what:
            refuse(value, path, problems, what, fix)
            return None
        return value


class _Target:
    """What a cloaked name is answered with: an address or another name, or a list of addresses."""

    def read(self, value, path, problems):
        values = value if isinstance(value, list) else [value]
        kept = []
        for place, item in enumerate(values):
            here = (*path, place) if isinstance(value, list) else path
            try:
                if not isinstance(item, str):
                    raise ValueError
                address = ipaddress.ip_address(item)
                if getattr(address, "scope_id", None):
                    raise ValueError
                kept.append(str(address))
            except ValueError:
                name = isinstance(item, str) and re.match(_DOMAIN, item)
                name = name and not re.fullmatch(r"[0-9.]+", item) and not looks_secret(item)
                if name and not isinstance(value, list):
                    kept.append(item)
                    continue
                what = f"{show(item)} is neither an address nor a name"
                if name:
                    what = f"{show(item)} is a name, and in a list only addresses are possible"
                refuse(item, here, problems, what, "Write an IP address, or one name alone.")
                return None
        if not kept:
            problems.append(Problem(path, "the list is empty", "It needs at least one address."))
            return None
        return tuple(kept)


class _Network:
    """An address or a network whose addresses no answer may hold."""

    def read(self, value, path, problems):
        try:
            if not isinstance(value, str) or "%" in value:
                raise ValueError
            network = ipaddress.ip_network(value)
        except ValueError:
            what = f"{show(value)} is not an address or a network"
            fix = "Write it as in 192.0.2.1 or 10.0.0.0/8, with no bits after the prefix."
            refuse(value, path, problems, what, fix)
            return None
        if not ip_lines(network):
            what = f"{network} is not the same as at most {_MOST_LINES} beginnings of addresses"
            fix = "Write narrower networks; of IPv6 such as end after a group that is not 0."
            refuse(value, path, problems, what, fix)
            return None
        return str(network)


def ip_lines(network):
    """*network* as lines of dnscrypt-proxy's list of blocked addresses; none if it cannot be said.

    The program compares the beginning of an address' text, in whole groups (``10.1.*``).
    """
    if network.prefixlen == network.max_prefixlen:
        return [str(network.network_address)]
    bits = 8 if network.version == 4 else 16
    groups = max(1, -(-network.prefixlen // bits))
    if network.prefixlen < 4 or 1 << (groups * bits - network.prefixlen) > _MOST_LINES:
        return []
    lines, whole = [], groups * bits == network.max_prefixlen
    for part in network.subnets(new_prefix=groups * bits):
        packed = part.network_address.packed
        if network.version == 4:
            parts = [str(byte) for byte in packed[:groups]]
        else:
            found = [int.from_bytes(packed[at : at + 2], "big") for at in range(0, groups * 2, 2)]
            if not all(found):  # written as '::' in some addresses of it, and as '0' in others
                return []
            parts = [f"{group:x}" for group in found]
        mark = "." if network.version == 4 else ":"
        lines.append(mark.join(parts) + ("" if whole else f"{mark}*"))
    return lines


class _Proxy(Keys):
    """All keys, which are of no use when one of them is wrong: the others refer to it."""

    def read(self, value, path, problems):
        before = len(problems)
        if isinstance(value, dict):
            for key in [key for key in value if key in _NEVER]:
                problems.append(Problem((*path, key), *_NEVER[key]))
            value = {key: item for key, item in value.items() if key not in _NEVER}
        kept = super().read(value, path, problems)
        return kept if len(problems) == before else None


LIST = Keys(
    {
        "urls": (ListOf(_Url(), least=1), None),
        "minisign_key": (_MinisignKey(), None),
        "refresh_hours": (Whole(25, 168, "hours"), 72),
        "prefix": (
            _Text(
                r"[A-Za-z0-9._-]{0,30}\Z", "cannot begin a name", "Write letters, digits and '-'."
            ),
            "",
        ),
    }
)
_TTL = Whole(0, 604800, "seconds")
DNSCRYPT_PROXY = _Proxy(
    {
        "servers": (
            _Table(_SERVER_NAME, _Stamp(DNSCRYPT, DOH), "my-server: sdns://..."),
            None,
        ),
        "lists": (_Table(_LIST_NAME, LIST, "public-resolvers: {}"), {}),
        "server_names": (ListOf(_SERVER_NAME), ()),
        "disabled_server_names": (ListOf(_SERVER_NAME), ()),
        "require_dnssec": (Switch(), True),
        "require_nolog": (Switch(), True),
        "require_nofilter": (Switch(), True),
        "dnscrypt_servers": (Switch(), True),
        "doh_servers": (Switch(), True),
        "ipv4_servers": (Switch(), True),
        "ipv6_servers": (Switch(), False),
        "relays": (_Table(_SERVER_NAME, _Stamp(RELAY), "my-relay: sdns://gR..."), {}),
        "routes": (
            _Table(
                _SERVER_OR_ALL,
                ListOf(_SERVER_OR_ALL, least=1),
                "my-server: [my-relay]",
            ),
            {},
        ),
        "forwarding": (
            _Table(
                _DOMAIN_NAME, ListOf(_PrivateServer(), least=1), "corp.example: [10.8.0.1:5353]"
            ),
            {},
        ),
        "cloaking": (_Table(_NAME_PATTERN, _Target(), "nas.example: 192.168.1.9"), {}),
        "cloak_ttl": (_TTL, 600),
        "cloak_ptr": (Switch(), False),
        "blocked_names": (ListOf(_NAME_PATTERN), ()),
        "blocked_names_file": (_FILE, None),
        "allowed_names": (ListOf(_NAME_PATTERN), ()),
        "blocked_ips": (ListOf(_Network()), ()),
        "blocked_query_response": (Choice("hinfo", "refused"), "hinfo"),
        "reject_ttl": (_TTL, 10),
        "block_ipv6": (Switch(), False),
        "block_unqualified": (Switch(), True),
        "block_undelegated": (Switch(), True),
        "listen_ipv6": (Switch(), True),
        "cache": (Switch(), True),
        "cache_size": (Whole(16, 1000000, "answers"), 4096),
        "cache_min_ttl": (_TTL, 60),
        "cache_max_ttl": (_TTL, 86400),
        "cache_neg_min_ttl": (_TTL, 60),
        "cache_neg_max_ttl": (_TTL, 600),
        "lb_strategy": (Choice("first", "p2", "ph", "random"), "first"),
        "lb_estimator": (Switch(), True),
        "timeout": (Whole(500, 30000, "milliseconds"), 5000),
        "keepalive": (Whole(1, 3600, "seconds"), 30),
        "max_clients": (Whole(1, 100000, "questions at a time"), 250),
        "cert_refresh_minutes": (Whole(60, 1440, "minutes"), 240),
        "force_tcp": (Switch(), None),
        "http3": (Switch(), False),
        "ephemeral_keys": (Switch(), False),
        "query_log": (Switch(), False),
        "nx_log": (Switch(), False),
        "blocked_log": (Switch(), False),
        "log_level": (Choice(*LOG_LEVELS), "notice"),
    }
)


def settings(values):
    """What a resolver has: *values*, as they were read, or none, with all defaults."""
    values = DNSCRYPT_PROXY.read({}, (), []) if values is None else values
    lists = {
        name: {
            **keys,
            "urls": keys["urls"] or tuple(url.format(name) for url in _PROJECT_URLS),
            "minisign_key": keys["minisign_key"] or PROJECT_KEY,
        }
        if name in PROJECT_LISTS
        else keys
        for name, keys in values["lists"].items()
    }
    servers = values["servers"]
    if servers is None:
        servers = {} if lists else SERVERS
    return {**values, "lists": lists, "servers": servers}


def problems(at, found):
    """What does not fit in the settings *found*, at the path *at*: a list of Problem."""
    at = (*at, "dnscrypt")
    return [
        *_lists(at, found),
        *_servers(at, found),
        *_routes(at, found),
        *_cloaking(at, found),
        *_rest(at, found),
    ]


def _lists(at, found):
    problems = []
    for name, keys in found["lists"].items():
        for key in ("urls", "minisign_key"):
            if not keys[key]:
                what = "missing, and only the DNSCrypt project's own lists have one by default"
                fix = f"Add it, or name one of: {', '.join(PROJECT_LISTS)}."
                problems.append(Problem((*at, "lists", name, key), what, fix))
    return problems


#: By whether there is the list of relays, which holds no servers.
_NONE = (
    ("there is none, and no list to take one from", "Add one, or remove this key."),
    (
        "there is none: with lists there are no default ones, and 'relays' holds relays only",
        "Add servers, or the list public-resolvers.",
    ),
)


def _servers(at, found):
    problems, servers = [], found["servers"]
    lower = {}
    for name in servers:
        if (other := lower.setdefault(name.lower(), name)) != name:
            what = f"dnscrypt-proxy takes it for the same name as '{other}'"
            problems.append(Problem((*at, "servers", name), what, "Rename one of them."))
    if not servers and set(found["lists"]) <= {"relays"}:
        return [*problems, Problem((*at, "servers"), *_NONE["relays" in found["lists"]])]
    for place, name in enumerate(found["server_names"]):
        if name not in servers and not found["lists"]:
            what = f"'{name}' is not among the servers, and there is no list to take it from"
            path = (*at, "server_names", place)
            problems.append(Problem(path, what, suggest(name, servers)))
        elif name in found["disabled_server_names"]:
            path = (*at, "disabled_server_names", found["disabled_server_names"].index(name))
            problems.append(
                Problem(path, f"server_names has '{name}' too", "Remove one of the two.")
            )
    if not used(found) and not found["lists"]:
        return problems
    if not found["dnscrypt_servers"] and not found["doh_servers"] and found["lists"]:
        what, fix = "with this, no server of a list is left", "Allow one of the two kinds."
        problems.append(Problem((*at, "doh_servers"), what, fix))
    if not found["ipv4_servers"] and not found["ipv6_servers"]:
        what, fix = "with this, no server is left", "Allow ipv4_servers or ipv6_servers."
        problems.append(Problem((*at, "ipv4_servers"), what, fix))
    return problems


def used(found):
    """The static servers that are asked: ``{name: Stamp}``."""
    return {
        name: qubes_vpn_dnscrypt_stamp.read(stamp)
        for name, stamp in found["servers"].items()
        if not found["server_names"] or name in found["server_names"]
    }


def _routes(at, found):
    """Every question of a server with a route goes through a relay: none is asked directly."""
    problems, servers = [], used(found)
    relays = {name: qubes_vpn_dnscrypt_stamp.read(stamp) for name, stamp in found["relays"].items()}
    for name, via in found["routes"].items():
        path = (*at, "routes", name)
        static = servers if name == "*" else {name: servers[name]} if name in servers else {}
        if name != "*" and not static and not found["lists"]:
            what = "no server of that name is asked"
            problems.append(Problem(path, what, suggest(name, servers)))
            continue
        rest = static
        if name == "*":
            rest = {each: stamp for each, stamp in static.items() if each not in found["routes"]}
        doh = [each for each, stamp in rest.items() if stamp.kind == DOH]
        if doh:
            what = f"'{doh[0]}' is a DoH server, which no relay carries: it would be asked directly"
            problems.append(Problem(path, what, "Ask DNSCrypt servers only, or remove the route."))
            continue
        if found["lists"] and name not in servers and found["doh_servers"]:
            what = "a DoH server of a list would be asked directly: no relay carries it"
            problems.append(Problem(path, what, "Write doh_servers: false."))
            continue
        problems += _via(path, via, rest, relays, found)
    return problems


def _via(path, via, servers, relays, found):
    """The relays of one route: known, and each server reaches one that is not itself."""
    problems = []
    for place, name in enumerate(via):
        if name not in relays and not found["lists"]:
            what = f"there is no relay '{name}', and no list to take it from"
            if name == "*":
                what = "there is no list to take all relays from"
            problems.append(Problem((*path, place), what, suggest(name, relays)))
    if problems or any(name not in relays for name in via):
        return problems
    for server, stamp in servers.items():
        fitting = [name for name in via if relays[name].address.version == stamp.address.version]
        if not fitting:
            what = f"no relay of it has IPv{stamp.address.version}, as '{server}' has"
            return [Problem(path, what, "Add one that has.")]
        same = [name for name in fitting if relays[name].address == stamp.address]
        if same:
            what = f"the relay '{same[0]}' and the server '{server}' are one machine"
            return [Problem(path, what, "Choose a relay of somebody else.")]
    return []


def _cloaking(at, found):
    problems = []
    for pattern, targets in found["cloaking"].items():
        if not re.fullmatch(r"[0-9.]+|.*:.*", targets[0]) and _stands_for(pattern, targets[0]):
            what = f"'{targets[0]}' is one of the names that it stands for: a loop"
            fix = "Name another, or an address."
            problems.append(Problem((*at, "cloaking", pattern), what, fix))
    return problems


def _stands_for(pattern, name):
    """Whether *name* is one of the names that *pattern* means."""
    if pattern.startswith("="):
        return name == pattern[1:]
    bare = pattern.removeprefix("*").removeprefix(".")
    if not set("*?") & set(bare):
        return f".{name}".endswith(f".{bare}")
    return fnmatch.fnmatchcase(name, pattern)


def _rest(at, found):
    problems = []
    for low, high in (
        ("cache_min_ttl", "cache_max_ttl"),
        ("cache_neg_min_ttl", "cache_neg_max_ttl"),
    ):
        if found[low] > found[high]:
            what = f"{found[low]} is more than {high}, which is {found[high]}"
            problems.append(Problem((*at, low), what, "Lower the one or raise the other."))
    if found["blocked_names_file"]:
        path = (*at, "blocked_names_file")
        if found["blocked_names"]:
            what = "there are blocked_names too, and dnscrypt-proxy reads one list"
            problems.append(Problem(path, what, "Move them into the file, or remove it."))
        elif found["blocked_names_file"] in OWN_FILES:
            what = f"'{found['blocked_names_file']}' is a file that is written anew from the pillar"
            problems.append(Problem(path, what, "Give your own file another name."))
    if found["blocked_log"] and not (
        found["blocked_names"] or found["blocked_names_file"] or found["blocked_ips"]
    ):
        what, fix = "nothing is blocked", "Remove it, or block something."
        problems.append(Problem((*at, "blocked_log"), what, fix))
    return problems
