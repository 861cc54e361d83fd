# SPDX-License-Identifier: GPL-2.0-or-later
"""A resolver qube's dnscrypt-proxy: its whole configuration as texts, from the checked pillar.

Facts are of dnscrypt-proxy 2.1.8, Debian 13's, by its source; why things are so: decision 0021.
"""

import ipaddress
import json

import qubes_vpn_dnscrypt_pillar as pillar

#: Everything below belongs to root; only LISTS belongs to the user that the proxy runs as.
FOLDER = "/rw/config/vpn/dns"
#: Lists of servers with their signatures, which the proxy itself brings up to date.
LISTS = f"{FOLDER}/lists"
#: Where logs go that were asked for: gone when the qube is shut down.
LOGS = "/var/log/dnscrypt-proxy"
CONFIG = "dnscrypt-proxy.toml"
#: Brings the lists, when one is not there yet: see :func:`files`.
FIRST = "first.toml"

_HEAD = "# Written by qubes-vpn from the pillar; what is changed here is lost.\n"
_BASE = """# SPDX-License-Identifier: GPL-2.0-or-later
# Written by qubes-vpn from the pillar, resolvers.NAME.dnscrypt; what is changed here is lost.
"""
#: Written as they are in the pillar.
_SAME = (
    "require_dnssec",
    "require_nolog",
    "require_nofilter",
    "dnscrypt_servers",
    "doh_servers",
    "ipv4_servers",
    "ipv6_servers",
    "cloak_ttl",
    "cloak_ptr",
    "blocked_query_response",
    "reject_ttl",
    "block_ipv6",
    "block_unqualified",
    "block_undelegated",
    "cache",
    "cache_size",
    "cache_min_ttl",
    "cache_max_ttl",
    "cache_neg_min_ttl",
    "cache_neg_max_ttl",
    "lb_strategy",
    "lb_estimator",
    "timeout",
    "keepalive",
    "max_clients",
    "force_tcp",
    "http3",
)
#: Never otherwise.  An empty list of bootstrap resolvers also makes the proxy ignore the system's
#: resolver, until nothing else is left; that one is the proxy itself, by the qube's resolv.conf.
#: The probe of the network only opens a socket in 2.1.8, and another version may send something.
_ALWAYS = {
    "bootstrap_resolvers": [],
    "ignore_system_dns": True,
    "netprobe_timeout": 0,
    "offline_mode": False,
    "odoh_servers": False,
    "cert_ignore_timestamp": False,
}


def files(settings):
    """``{name: text}`` of all that belongs into FOLDER.

    settings: ``resolvers.NAME.dnscrypt`` of the model, or the same through JSON.
    FIRST is among them if there are lists: with it the proxy answers this qube alone, by servers
    that need no list, while the real configuration's own check downloads the lists.
    """
    found = {CONFIG: _toml(settings)}
    if settings["lists"]:
        found[FIRST] = _toml(_without_lists(settings), listen=["127.0.0.1:53"])
    texts = {
        "forwarding-rules.txt": [
            f"{domain} {','.join(servers)}" for domain, servers in settings["forwarding"].items()
        ],
        "cloaking-rules.txt": [
            f"{name} {target}"
            for name, targets in settings["cloaking"].items()
            for target in targets
        ],
        "blocked-names.txt": settings["blocked_names"],
        "allowed-names.txt": settings["allowed_names"],
        "blocked-ips.txt": [
            line
            for each in settings["blocked_ips"]
            for line in pillar.ip_lines(ipaddress.ip_network(each))
        ],
    }
    for name, lines in texts.items():
        if lines:
            found[name] = _HEAD + "".join(f"{line}\n" for line in lines)
    return found


def lists(settings):
    """``{name: path}`` of the lists' files, each with a signature beside it, ``PATH.minisig``."""
    return {name: f"{LISTS}/{name}.md" for name in settings["lists"]}


def own_files(settings):
    """Paths of the user's own files: without one of them the proxy does not start."""
    name = settings["blocked_names_file"]
    return [f"{FOLDER}/{name}"] if name else []


def without_downloads(text):
    """The configuration *text* so that the proxy only reads the lists that are there.

    With it ``-check`` names what is wrong with a list; otherwise it names the failed download.
    """
    return "".join(line for line in text.splitlines(True) if not line.startswith("urls = "))


def _toml(settings, listen=None):
    top = {
        # One socket for both families: dnscrypt-proxy's own choice for [::], where Linux lets no
        # second one have 0.0.0.0 and the same port.
        "listen_addresses": listen or (["[::]:53"] if settings["listen_ipv6"] else ["0.0.0.0:53"]),
        "server_names": _server_names(settings),
        # A list must not put another server in the place of a static one.
        "disabled_server_names": [
            *settings["disabled_server_names"],
            *(settings["servers"] if settings["lists"] else ()),
        ],
        **{key: settings[key] for key in _SAME},
        "dnscrypt_ephemeral_keys": settings["ephemeral_keys"],
        "cert_refresh_delay": settings["cert_refresh_minutes"],
        "log_level": pillar.LOG_LEVELS.index(settings["log_level"]) + 1,
        **_ALWAYS,
    }
    for key, name in (("forwarding", "forwarding-rules"), ("cloaking", "cloaking-rules")):
        if settings[key]:
            top[name.replace("-", "_")] = f"{FOLDER}/{name}.txt"
    tables = {}
    for key in ("query_log", "nx_log"):
        if settings[key]:
            tables[(key,)] = {"file": f"{LOGS}/{key.replace('_', '-')}.log"}
    tables |= _blocking(settings)
    for name, keys in settings["lists"].items():
        tables[("sources", name)] = {
            "urls": keys["urls"],
            "minisign_key": keys["minisign_key"],
            "cache_file": lists(settings)[name],
            "refresh_delay": keys["refresh_hours"],
            "prefix": keys["prefix"],
        }
    tables[("anonymized_dns",)] = {
        "routes": [
            # A relay of the pillar's by its stamp: its name could be another one's in a list.
            {"server_name": name, "via": [settings["relays"].get(each, each) for each in via]}
            for name, via in settings["routes"].items()
        ],
        "skip_incompatible": True,
        "direct_cert_fallback": False,
    }
    for name in settings["servers"]:
        tables[("static", name)] = {"stamp": settings["servers"][name]}
    return _written(top, tables)


def _server_names(settings):
    """All static ones where there is no list; else what is named, or whatever fits of a list."""
    if settings["server_names"] or settings["lists"]:
        return settings["server_names"]
    return list(settings["servers"])


def _blocking(settings):
    tables = {}
    log = {"log_file": f"{LOGS}/blocked.log"} if settings["blocked_log"] else {}
    own = settings["blocked_names_file"]
    if own or settings["blocked_names"]:
        file = f"{FOLDER}/{own or 'blocked-names.txt'}"
        tables[("blocked_names",)] = {"blocked_names_file": file, **log}
    if settings["allowed_names"]:
        file = f"{FOLDER}/allowed-names.txt"
        tables[("allowed_names",)] = {"allowed_names_file": file}
    if settings["blocked_ips"]:
        tables[("blocked_ips",)] = {"blocked_ips_file": f"{FOLDER}/blocked-ips.txt", **log}
    return tables


def _without_lists(settings):
    """*settings* for the time until the lists are there: servers that need none, nothing else.

    The pillar's own servers with their routes, as far as no list is needed for these, or else the
    default ones, which then learn that this qube looks up where the lists are.
    """
    relays, routes = settings["relays"], {}
    for name, via in settings["routes"].items():
        known = [each for each in via if each in relays]
        routes[name] = known if len(known) == len(via) else None
    servers = {
        name: stamp
        for name, stamp in settings["servers"].items()
        if name in (settings["server_names"] or settings["servers"])
        and routes.get(name, routes.get("*", [])) is not None
    }
    if not servers:
        servers, routes = pillar.SERVERS, {}
    plain = pillar.settings(None)
    kept = ("timeout", "keepalive", "force_tcp", "ephemeral_keys", "log_level")
    return {
        **plain,
        **{key: settings[key] for key in kept},
        "block_undelegated": False,  # what is asked is where a list is, and by this qube alone
        "servers": servers,
        "relays": relays,
        "routes": {name: via for name, via in routes.items() if via},
    }


def _written(top, tables):
    """TOML; each key on a line of its own."""
    lines = [f"{key} = {_value(value)}\n" for key, value in top.items()]
    for path, keys in tables.items():
        lines.append(f"\n[{'.'.join([path[0], *map(_quoted, path[1:])])}]\n")
        lines += [f"{key} = {_value(value)}\n" for key, value in keys.items()]
    return _BASE + "".join(lines)


def _value(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else _quoted(value)


def _quoted(text):
    """A basic string of TOML, whose escapes are those of JSON; JSON leaves DEL as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
