# SPDX-License-Identifier: GPL-2.0-or-later
"""The doctor's checks of what VPN and resolver qubes told: killswitch, tunnel, DNS, scripts."""

import qubes_vpn_endpoints
from qubes_vpn_finding import Rule

_APPLY = (
    "Apply the formula to it: sudo qubesctl --skip-dom0 --targets=QUBE state.sls "
    "qubes.network.sys-vpn"
)
_LOOK = "In QUBE: sudo /usr/lib/qubes-vpn/{} says what"
_KILLSWITCH = _LOOK.format("killswitch status")
_TUNNEL = _LOOK.format("tunnel status")
_RESOLVER = _LOOK.format("resolver check")
_TEMPLATE = "Apply the formula to QUBE's template, and restart QUBE"
_OFFLINE = "There is no tunnel, so who is behind it is offline."
_NO_NAMES = "Who is behind it has no names."


def _of(part):
    """A function of a subject: ``(name, what it told of that part, all that it told)``."""

    def told(subject):
        return [(name, all_[part], all_) for name, all_ in subject.told.items() if all_[part]]

    return told


_killswitches, _tunnels, _apps = _of("killswitch"), _of("tunnel"), _of("mullvad")
_dns, _resolvers = _of("dns"), _of("resolver")


def _when(parts, wrong, detail):
    """A look that finds *detail* wherever ``wrong(part, all)``; detail is a format of the part."""

    def look(subject):
        for name, part, every in parts(subject):
            if wrong(part, every):
                yield name, detail.format(**part)

    return look


def _other_endpoints(subject):
    for name, told, _ in _killswitches(subject):
        service = subject.model.services.get(name)
        if told["endpoints"] is None or service is None or service.role != "tunnel":
            continue
        try:
            wanted = sum(map(len, qubes_vpn_endpoints.elements(service.endpoints)))
        except qubes_vpn_endpoints.NotEndpoints:
            continue  # the pillar's own check says so
        if told["endpoints"] != wanted:
            yield name, f"It is open for {told['endpoints']}, and the pillar has {wanted}"


def _fault(word):
    return lambda tunnel, _: word in tunnel["faults"]


def _unit(unit):
    """Whether a unit is known not to run."""
    return lambda _, every: every["units"][unit] in ("inactive", "failed", "absent")


def _is_ours(tunnel):
    return tunnel["kind"] in ("wireguard", "openvpn")


def _down(state):
    """Whether a tunnel of NetworkManager's is in that state, and nothing else says why."""

    def wrong(tunnel, every):
        explained = bool(tunnel["faults"]) or _unit("NetworkManager")(tunnel, every)
        closed = every["killswitch"]["state"] != "open"
        return _is_ours(tunnel) and tunnel["state"] == state and not explained and not closed

    return wrong


def _app(key, value):
    return lambda app, _: app["answers"] and app[key] is value


def _app_may_not_connect(subject):
    for name, app, _ in _apps(subject):
        service = subject.model.services.get(name)
        wanted = not service or not service.mullvad or service.mullvad["auto_connect"]
        if app["answers"] and app["auto_connect"] is False and wanted:
            yield name, "The app's auto-connect is off"


def _app_is_down(subject):
    for name, app, every in _apps(subject):
        if app["answers"] and app["account"] != "logged out" and every["tunnel"]["state"] != "up":
            yield name, f"The app's tunnel is {every['tunnel']['state']}"


def _cause(word):
    return lambda resolver, _: word in resolver["causes"]


def _is_up(every):
    return every["tunnel"]["state"] == "up" and every["killswitch"]["state"] == "open"


def _by_script(kind, detail):
    def look(subject):
        for name, told in subject.told.items():
            if told["scripts"][kind]:
                yield name, f"{detail}: {told['scripts'][kind]}"

    return look


def _forwarding(subject):
    for name, told in subject.told.items():
        if not told["forwarding"]:
            yield name, "ip_forward is 0"


def _no_firewall(subject):
    for name, told in subject.told.items():
        if _unit("qubes-firewall")(None, told):
            yield name, f"The unit is {told['units']['qubes-firewall']}"


def _no_scripts(subject):
    for name, told in subject.told.items():
        if told["units"]["qubes-misc-post"] == "failed":
            yield name, "qubes-misc-post.service, which runs rc.local, has failed"


RULES = (
    Rule(
        "D201",
        "critical",
        "A VPN qube has no killswitch",
        "When its tunnel is down, what is behind it goes out in clear.",
        f"{_TEMPLATE}, then apply it to QUBE",
        _when(_killswitches, lambda it, _: it["state"] == "absent", "Nothing of it is loaded"),
    ),
    Rule(
        "D202",
        "critical",
        "A killswitch was altered",
        "What was changed in its rules may let packets past the tunnel.",
        "Load it anew: in QUBE: sudo /usr/lib/qubes-vpn/killswitch load. Before, its status names "
        "what was changed",
        _when(_killswitches, lambda it, _: it["state"] == "altered", "Differences: {drift}"),
    ),
    Rule(
        "D203",
        "high",
        "A killswitch is closed",
        "Its configuration cannot be used, so nothing gets out, and no tunnel is made.",
        f"{_APPLY}. {_KILLSWITCH}: endpoints.txt has numbers, ADDRESS:PORT/PROTOCOL, one a line",
        _when(_killswitches, lambda it, _: it["state"] == "closed", "Problems: {problems}"),
    ),
    Rule(
        "D204",
        "high",
        "A killswitch is open, and lacks what makes it hold at the next start",
        "The next start of the qube may have none.",
        f"{_TEMPLATE}. {_KILLSWITCH}",
        _when(
            _killswitches,
            lambda it, every: (
                it["state"] == "open"
                and it["problems"]
                and not (every["custom_persist"] and not it["in_template"])
            ),
            "Problems: {problems}",
        ),
    ),
    Rule(
        "D205",
        "medium",
        "A killswitch is below /rw, and not in the template",
        "It is loaded by qubes-firewall, after the network may be up already.",
        f"{_TEMPLATE}, then apply it to QUBE",
        _when(_killswitches, lambda it, _: not it["in_template"], "Its template has none"),
    ),
    Rule(
        "D206",
        "critical",
        "A killswitch below /rw, where Qubes runs no scripts",
        "With the service custom-persist nothing below /rw is run: the next start has none.",
        f"{_TEMPLATE}; or, in dom0: qvm-service QUBE custom-persist off",
        _when(
            _killswitches,
            lambda it, every: every["custom_persist"] and not it["in_template"],
            "custom-persist is on",
        ),
    ),
    Rule(
        "D207",
        "medium",
        "A killswitch is open for other endpoints than the pillar's",
        "The tunnel may reach other servers than meant, or not its own.",
        _APPLY,
        _other_endpoints,
    ),
    Rule(
        "D208",
        "high",
        "A VPN or resolver qube does not forward",
        "Nothing of its clients gets any further.",
        "Restart it: qvm-shutdown --wait --force QUBE && qvm-start QUBE. Its service qubes-network "
        "turns forwarding on, where provides_network is on",
        _forwarding,
    ),
    Rule(
        "D209",
        "high",
        "qubes-firewall does not run in a VPN or resolver qube",
        "Firewall lists of the qubes behind it hold nobody, and Qubes' own scripts do not run.",
        "In dom0: qvm-service QUBE qubes-firewall on; in QUBE: sudo systemctl status "
        "qubes-firewall",
        _no_firewall,
    ),
    Rule(
        "D301",
        "high",
        "A tunnel's profile is not in its qube",
        _OFFLINE,
        "Bring it there: in the qube that has it: qvm-copy PROFILE, to QUBE; in QUBE, put it into "
        f"/rw/config/vpn/credentials. Then: {_APPLY}",
        _when(_tunnels, _fault("profile-missing"), "There is no such file"),
    ),
    Rule(
        "D302",
        "high",
        "A tunnel's profile cannot be used",
        _OFFLINE,
        _TUNNEL,
        _when(_tunnels, _fault("profile-unusable"), "It was refused"),
    ),
    Rule(
        "D303",
        "high",
        "A tunnel's settings are missing or cannot be read",
        _OFFLINE,
        _APPLY,
        _when(
            _tunnels,
            lambda it, every: (
                "bad-settings" in it["faults"] or (it["kind"] == "other" and not every["mullvad"])
            ),
            "/rw/config/vpn/tunnel.conf is not as the formula writes it",
        ),
    ),
    Rule(
        "D304",
        "medium",
        "A tunnel's connection is not as its profile says",
        "Somebody has changed it, or the profile since; what is up is the old one.",
        _APPLY,
        _when(_tunnels, _fault("keyfile-differs"), "They differ"),
    ),
    Rule(
        "D305",
        "high",
        "A tunnel's interface is no tunnel",
        "The killswitch lets nothing through it.",
        "Give the tunnel the name of its interface in the pillar (tunnels: QUBE: interface)",
        _when(_tunnels, _fault("not-a-tunnel"), "{interface}"),
    ),
    Rule(
        "D306",
        "high",
        "A VPN qube's template lacks what makes its tunnel",
        _OFFLINE,
        _TEMPLATE,
        _when(_tunnels, _fault("files-missing"), "Files or a service of it are not there"),
    ),
    Rule(
        "D307",
        "high",
        "NetworkManager does not run in a VPN qube",
        _OFFLINE,
        "In dom0: qvm-service QUBE network-manager on; then restart QUBE",
        _when(
            _tunnels,
            lambda it, every: _is_ours(it) and _unit("NetworkManager")(it, every),
            "No connection can be made",
        ),
    ),
    Rule(
        "D308",
        "medium",
        "Nobody brings a lost tunnel back",
        "It does not come up at the qube's start, and not again when it was lost.",
        "In QUBE: sudo systemctl start qubes-vpn-watch. If it is not there: apply the formula to "
        "the template",
        _when(
            _tunnels,
            lambda it, every: _is_ours(it) and _unit("qubes-vpn-watch")(it, every),
            "qubes-vpn-watch.service does not run",
        ),
    ),
    Rule(
        "D309",
        "high",
        "A tunnel is down",
        _OFFLINE,
        "Connect: sudo qubesctl qubes_vpn.connect QUBE",
        _when(_tunnels, _down("down"), "Nobody has brought it up, or somebody took it down"),
    ),
    Rule(
        "D310",
        "high",
        "A tunnel's server does not answer",
        _OFFLINE,
        "See whether sys-net is online, and whether the server and keys of the profile still are "
        f"the provider's. {_TUNNEL}",
        _when(_tunnels, _down("connecting"), "It tries, and nothing comes back"),
    ),
    Rule(
        "D311",
        "high",
        "NetworkManager says nothing of the tunnel",
        "Nobody can tell whether there is one.",
        "In QUBE: sudo systemctl restart NetworkManager",
        _when(_tunnels, _down("unknown"), "It does not answer"),
    ),
    Rule(
        "D321",
        "high",
        "The Mullvad app's daemon does not answer",
        "Its commands do nothing while the daemon is off, and there is no tunnel.",
        "In QUBE: sudo systemctl status mullvad-daemon; sudo systemctl restart mullvad-daemon",
        _when(_apps, lambda it, _: not it["answers"], "No answer to `mullvad status`"),
    ),
    Rule(
        "D322",
        "high",
        "The Mullvad app's daemon does not start with its qube",
        "After a restart there is no tunnel.",
        _TEMPLATE,
        _when(_apps, lambda it, _: not it["enabled"], "The template does not enable it"),
    ),
    Rule(
        "D323",
        "high",
        "The Mullvad app does not connect by itself",
        "After a restart there is no tunnel until somebody connects.",
        _APPLY,
        _app_may_not_connect,
    ),
    Rule(
        "D324",
        "high",
        "The Mullvad app blocks local addresses",
        "Qubes behind it have such addresses: nothing of theirs gets through the app's own rules.",
        _APPLY,
        _when(_apps, _app("lan", False), "Its setting lan is block"),
    ),
    Rule(
        "D325",
        "low",
        "The Mullvad app's lockdown is off",
        "The app's own layer opens when it disconnects; the killswitch does not need it.",
        _APPLY,
        _when(_apps, _app("lockdown", False), "lockdown-mode is off"),
    ),
    Rule(
        "D326",
        "high",
        "The Mullvad app is not logged in",
        _OFFLINE,
        "In QUBE: sudo install -m600 /dev/stdin /rw/config/vpn/credentials/mullvad-account; type "
        f"the account number, Enter, Ctrl-D. Then: {_APPLY}",
        _when(_apps, lambda it, _: it["account"] == "logged out", "It has no account"),
    ),
    Rule(
        "D327",
        "high",
        "The Mullvad account has given this device up",
        _OFFLINE,
        "In QUBE: mullvad account logout; then log in again as before",
        _when(_apps, lambda it, _: it["account"] == "revoked", "The device was revoked"),
    ),
    Rule(
        "D328",
        "high",
        "The Mullvad app is not connected",
        _OFFLINE,
        "Connect: sudo qubesctl qubes_vpn.connect QUBE. Its relays and port must be among the "
        "endpoints: in QUBE, mullvad status -v names what it tries",
        _app_is_down,
    ),
    Rule(
        "D401",
        "high",
        "Clients' DNS is closed though the tunnel is up",
        _NO_NAMES,
        "The resolver that the tunnel names does not answer through it: see "
        "/srv/salt/qubes/network/docs/resolvefix.md. In QUBE: sudo /usr/lib/qubes-vpn/dns status",
        _when(
            _dns,
            lambda it, every: not it["open"] and it["named"] and _is_up(every),
            "It names {named[0]}, which has not answered",
        ),
    ),
    Rule(
        "D402",
        "high",
        "A tunnel names no resolver",
        _NO_NAMES,
        "Give its profile one: 'DNS = ADDRESS' for WireGuard, 'dhcp-option DNS ADDRESS' for "
        "OpenVPN",
        _when(
            _dns,
            lambda it, every: not it["open"] and not it["named"] and _is_up(every),
            "It is up, and clients' DNS has nowhere to go",
        ),
    ),
    Rule(
        "D403",
        "medium",
        "Nobody follows the tunnel's DNS",
        "When the tunnel's resolver changes, clients' DNS stays with the old one, or closed.",
        "In QUBE: sudo systemctl start qubes-vpn-follow.service qubes-vpn-resolv.path",
        _when(_dns, lambda it, _: not it["follows"], "qubes-vpn-follow does not run"),
    ),
    Rule(
        "D411",
        "critical",
        "A resolver qube has no rules",
        "Clients' DNS may leave it in clear.",
        f"{_TEMPLATE}, then apply it to QUBE",
        _when(_resolvers, lambda it, _: it["state"] == "absent", "Nothing is loaded"),
    ),
    Rule(
        "D412",
        "critical",
        "A resolver qube's rules were altered",
        "Clients' DNS may leave it in clear.",
        "Load them anew: in QUBE: sudo /usr/lib/qubes-vpn/resolver load",
        _when(_resolvers, lambda it, _: it["state"] == "altered", "Differences: {drift}"),
    ),
    Rule(
        "D413",
        "high",
        "Qubes' own rules refuse clients' DNS in a resolver qube",
        _NO_NAMES,
        "In QUBE: sudo /usr/lib/qubes-vpn/resolver load",
        _when(
            _resolvers,
            lambda it, _: it["state"] == "open" and it["problems"],
            "Problems: {problems}",
        ),
    ),
    Rule(
        "D414",
        "medium",
        "A resolver answers, and clients are refused",
        "They are let in when its watch has asked it again, within 15 seconds.",
        "Wait. If it stays so: in QUBE: sudo systemctl restart qubes-vpn-dns",
        _when(
            _resolvers,
            lambda it, _: it["state"] == "closed" and it["answers"],
            "Closed since its last answer",
        ),
    ),
    Rule(
        "D421",
        "high",
        "dnscrypt-proxy does not run",
        _NO_NAMES,
        f"In QUBE: sudo systemctl start dnscrypt-proxy. {_RESOLVER}",
        _when(_resolvers, _cause("not-running"), "It was not started, or cannot be"),
    ),
    Rule(
        "D422",
        "high",
        "dnscrypt-proxy refuses its configuration",
        _NO_NAMES,
        f"Correct the pillar's resolvers, and apply the formula. {_RESOLVER}",
        _when(_resolvers, _cause("refused"), "It says so itself"),
    ),
    Rule(
        "D423",
        "high",
        "A resolver qube's clock is wrong",
        "No server's certificate is valid at that time.",
        "In QUBE: sudo qvm-sync-clock",
        _when(_resolvers, _cause("clock"), "It differs from that of Qubes"),
    ),
    Rule(
        "D424",
        "high",
        "A resolver qube has no way out",
        _NO_NAMES,
        "See whether the VPN qube's tunnel is up, and QUBE's netvm: qvm-prefs QUBE netvm",
        _when(_resolvers, _cause("out"), "No route, or what it sends is refused"),
    ),
    Rule(
        "D425",
        "high",
        "A list of servers is missing or cannot be used",
        "Without it dnscrypt-proxy knows no server.",
        f"It is fetched when the tunnel is up; or name static servers in the pillar. {_RESOLVER}",
        _when(_resolvers, _cause("list"), "dnscrypt-proxy has no list that is signed"),
    ),
    Rule(
        "D426",
        "high",
        "No server answers a resolver",
        _NO_NAMES,
        f"Name other servers in the pillar, or another protocol. {_RESOLVER}",
        _when(_resolvers, _cause("servers"), "They are down, blocked, or have other keys"),
    ),
    Rule(
        "D427",
        "low",
        "A list of servers is old",
        "Servers in it may be gone.",
        "See whether its address in the pillar is still right",
        _when(_resolvers, _cause("old-list"), "No newer one could be fetched"),
    ),
    Rule(
        "D428",
        "low",
        "A resolver qube's own names are not its own resolver's",
        "Programs of the qube itself may have no names.",
        "Restart it: qvm-shutdown --wait --force QUBE && qvm-start QUBE",
        _when(_resolvers, lambda it, _: not it["own_names"], "resolv.conf was changed"),
    ),
    Rule(
        "D501",
        "low",
        "A script of yours does not run",
        "Qubes runs only what is executable.",
        "In QUBE, below /rw/config: sudo chmod +x SCRIPT",
        _by_script("idle", "Scripts that are not executable"),
    ),
    Rule(
        "D502",
        "medium",
        "A script of yours has DOS line ends",
        "No shell can run it as it was meant.",
        "In QUBE, below /rw/config: sudo sed -i 's/\\r$//' SCRIPT",
        _by_script("dos", "Scripts with them"),
    ),
    Rule(
        "D503",
        "medium",
        "A script of yours cannot be run: its syntax is wrong",
        "The shell stops at the mistake, or before the first line.",
        "In QUBE, below /rw/config: bash -n SCRIPT says where",
        _by_script("broken", "Scripts with mistakes"),
    ),
    Rule(
        "D504",
        "low",
        "Qubes' unit that runs rc.local has failed",
        "What rc.local was to do may not be done; nothing of the formula hangs on it.",
        "In QUBE: sudo systemctl status qubes-misc-post",
        _no_scripts,
    ),
)
