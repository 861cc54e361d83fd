# SPDX-License-Identifier: GPL-2.0-or-later
"""What the command line of the Mullvad app says, for tests, which cannot have the app.

It follows mullvadvpn-app's `mullvad-cli/src/cmds` in three versions: 2024.8, 2025.14 and 2026.4;
the formats, exit codes (2 for words it does not know, 1 for an error) and texts are theirs.
It runs in the daemon's process, which is quicker than a Python that starts for each call.
"""

import contextlib
import io
import sys

BLOCKERS = ["ads", "trackers", "malware", "adult-content", "gambling", "social-media"]
OWNERSHIP = {"any": "any", "owned": "Mullvad-owned servers", "rented": "rented servers"}
COUNTRIES = {"se": {"got": ["se-got-wg-001", "se-got-wg-002"]}, "de": {"ber": ["de-ber-wg-001"]}}


def run(daemon, plan, typed, words):
    """Exit code, output and errors of `mullvad WORDS`, with *typed* on its standard input.

    daemon: function of a request; whether it is done, and its value or the errors.
    """
    global ask, PLAN, VERSION, OLD, MIDDLE, TYPED
    ask, PLAN, VERSION, TYPED = daemon, plan, plan["version"], typed
    OLD, MIDDLE = VERSION < "2025.14", VERSION == "2025.14"
    out, error = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            main(words)
    except SystemExit as end:
        return end.code, out.getvalue(), error.getvalue()
    return 0, out.getvalue(), error.getvalue()


def main(words):
    if words == ["--version"]:
        print(f"mullvad-cli {VERSION}")
        return
    command, rest = (words or [""])[0], words[1:]
    censorship = "obfuscation" if OLD or MIDDLE else "anti-censorship"
    commands = {
        "status": status,
        "account": account,
        "auto-connect": lambda rest: switch(
            rest, "auto_connect", "Autoconnect", "Changed auto-connect setting"
        ),
        "lockdown-mode": lambda rest: switch(
            rest,
            "lockdown_mode",
            "Block traffic when the VPN is disconnected",
            "Changed lockdown mode setting",
        ),
        "lan": lambda rest: switch(
            rest,
            "allow_lan",
            "Local network sharing setting",
            "Changed local network sharing setting",
            "allow",
            "block",
        ),
        "dns": dns,
        "relay": relay,
        "tunnel": tunnel,
        censorship: obfuscation,
        "split-tunnel": split,
        "connect": lambda rest: rpc("connect"),
        "disconnect": lambda rest: rpc("disconnect"),
    }
    if command not in commands:
        usage(f"unrecognized subcommand '{command}'")
    commands[command](rest)


def usage(text):
    print(
        f"error: {text}\n\nUsage: mullvad <COMMAND>\n\nFor more information, try '--help'.",
        file=sys.stderr,
    )
    sys.exit(2)


def fail(text, *causes):
    print(f"Error: {text}", file=sys.stderr)
    if causes:
        print("\nCaused by:\n" + "\n".join(f"    {cause}" for cause in causes), file=sys.stderr)
    sys.exit(1)


def rpc(method, *arguments):
    """What the daemon answers."""
    done, value = ask(method, *arguments)
    if not done:
        fail(*value)
    return value


def choose(words, *known):
    """The one of *known* that the *words* begin with, and what follows."""
    if not words or words[0] not in known:
        usage(f"invalid value '{words[0] if words else ''}'")
    return words[0], words[1:]


def one(words, *known):
    word, rest = choose(words, *known)
    if rest:
        usage(f"unexpected argument '{rest[0]}' found")
    return word


def number(text):
    if text != "any" and not (text.isdigit() and int(text) < 65536):
        usage(f"invalid value '{text}'")
    return text


def option(label, value):
    print(f"    {label + ':':<24}{value}")


def switch(words, key, label, done, on="on", off="off"):
    verb, rest = choose(words, "get", "set")
    if verb == "get":
        print(f"{label}: {on if rpc('get')[key] else off}")
        return
    rpc("set", key, one(rest, on, off) == on)
    print(done)


def status(words):
    state, device = rpc("state"), rpc("device")[0]
    if device != "in" and state not in ("Disconnected", "Disconnecting"):
        print(
            "Warning: You are not logged in to an account."
            if device == "out"
            else "Warning: This device has been revoked."
        )
    print(state)
    if state == "Disconnected" and rpc("get")["lockdown_mode"]:
        print("    Internet access is blocked due to lockdown mode")
    if state == "Connected":
        option("Relay", "se-got-wg-001")


def account(words):
    verb, rest = choose(words, "get", "login", "logout", "list-devices", "revoke-device")
    if verb == "login":
        given = rest[0] if rest else ""
        if not rest:
            print("Enter an account number: ", end="")
            given = "".join(TYPED.split())
        rpc("login", given)
        print(f'Mullvad account "{given}" set')
    elif verb == "logout":
        rpc("logout")
        print("Removed device from Mullvad account")
    elif verb == "get":
        state, known = rpc("device")
        if state == "out":
            print("Not logged in on any account")
        elif state == "revoked":
            print(f"The current device has been revoked\nMullvad account: {known}")
        else:
            print(f"{'Mullvad account:':<20}{known}")
            if not PLAN.get("api", True):
                fail(
                    "gRPC call returned error",
                    'status: Unavailable, message: "Cannot reach the API"',
                )
            print(f"{'Expires at:':<20}2030-01-01 00:00:00 +00:00\n{'Device name:':<20}Brave Mole")
    else:
        raise NotImplementedError(verb)


def dns(words):
    verb, rest = choose(words, "get", "set")
    if verb == "get":
        found = rpc("get")["dns"]
        if found["custom"]:
            print("Custom DNS: yes\nServers:\n" + "\n".join(found["custom"]))
            return
        print("Custom DNS: no")
        for name in BLOCKERS:
            print(f"Block {name.replace('-', ' ')}: {str(name in found['blocked']).lower()}")
        return
    kind, flags = choose(rest, "default", "custom")
    if kind == "custom":
        rpc("set", "dns", {"custom": flags, "blocked": []})
    else:
        blocked = [one([flag], *(f"--block-{name}" for name in BLOCKERS))[8:] for flag in flags]
        rpc("set", "dns", {"custom": [], "blocked": blocked})
    print("Updated DNS settings")


def location(words):
    """As the app keeps it; hosts are looked up."""
    if not 1 <= len(words) <= 3:
        usage("the following required arguments were not provided")
    hosts = {
        host: [country, city, host]
        for country, cities in COUNTRIES.items()
        for city, names in cities.items()
        for host in names
    }
    if words in (["any"], ["ANY"]):
        return ["any"]
    if len(words) == 1 and words[0] in hosts:
        return hosts[words[0]]
    country, city, host = [*words, None, None][:3]
    cities = COUNTRIES.get(country, {})
    if not cities or (city and city not in cities) or (host and host not in cities[city]):
        fail("Invalid location argument")
    return words


def located(words):
    if words == ["any"]:
        return "any"
    country, city, host = [*words, None, None][:3]
    return (
        f"city {city}, {country}" + (f", hostname {host}" if host else "")
        if city
        else f"country {country}"
    )


def told_relay(found):
    print("Generic constraints")
    option("Location", located(found["location"]))
    if OLD:
        option("Tunnel protocol", "any")
    providers = ", ".join(found["providers"])
    option("Provider(s)", f"provider(s) {providers}" if providers else "any")
    option("Ownership", OWNERSHIP[found["ownership"]])
    if OLD:
        print("OpenVPN constraints")
        option("Port", "any")
        option("Transport", "any")
    print("WireGuard constraints")
    if OLD or MIDDLE:
        option("Port", found["wireguard_port"])
    option("IP protocol", "any")
    option("Multihop state", "enabled" if found["multihop"] else "disabled")
    option("Multihop entry", located(found["entry"]))


def relay(words):
    verb, rest = choose(words, "get", "set")
    if verb == "get":
        told_relay(rpc("get"))
        return
    flat = ["multihop", "entry"] + ["port"] * MIDDLE
    what, rest = choose(rest, "location", "provider", "ownership", *(["tunnel"] if OLD else flat))
    if what == "tunnel":
        one(rest[:1], "wireguard")
        what, rest = choose(rest[1:], "--port", "--use-multihop", "entry")
        what = what.removeprefix("--").removeprefix("use-")
    if what == "location":
        rpc("set", "location", location(rest))
    elif what == "provider":
        if not rest:
            usage("the following required arguments were not provided")
        # The app keeps them in no order.
        rpc("set", "providers", [] if rest[0].lower() == "any" else rest[::-1])
    elif what == "ownership":
        rpc("set", "ownership", one(rest, *OWNERSHIP))
    elif what == "entry":
        rpc("set", "entry", location(choose(rest, "location")[1]))
    elif what == "port":
        wireguard_port(rest)
    else:
        rpc("set", "multihop", one(rest, "on", "off") == "on")
    print("Relay constraints updated")


def wireguard_port(words):
    port = number(words[0] if len(words) == 1 else "")
    if port != "any" and not (
        int(port) == 53 or 4000 <= int(port) <= 33433 or 33565 <= int(port) <= 51820
    ):
        fail("The specified port is invalid")
    rpc("set", "wireguard_port", port)


def ported(port):
    return "any port" if port == "any" else f"port {port}"


def obfuscation(words):
    verb, rest = choose(words, "get", "set")
    new = not (OLD or MIDDLE)
    if verb == "get":
        found = rpc("get")
        mode = found["mode"].replace("wireguard-port", "wireguard port")
        print(f"mode: {mode}" if new else f"Obfuscation mode: {mode}")
        print(f"udp2tcp settings: {ported(found['udp2tcp'])}")
        print(f"{'shadowsocks' if new else 'Shadowsocks'} settings: {ported(found['shadowsocks'])}")
        if new:
            print(f"wireguard-port settings: {ported(found['wireguard_port'])}")
            print(f"lwo settings: {ported(found['lwo'])}")
        return
    modes = ["auto", "off", "udp2tcp", "shadowsocks"]
    modes += [] if OLD else ["quic", "lwo", "port"] if MIDDLE else ["quic", "lwo", "wireguard-port"]
    what, rest = choose(
        rest, "mode", "udp2tcp", "shadowsocks", *(["wireguard-port", "lwo"] if new else [])
    )
    if what == "mode":
        rpc("set", "mode", one(rest, *modes))
    else:
        choose(rest, "--port")
        if what == "wireguard-port":
            wireguard_port(rest[1:])
        else:
            rpc("set", what, number(rest[1]))
    print("Updated anti-censorship settings" if new else "Updated obfuscation settings")


def tunnel(words):
    verb, rest = choose(words, "get", "set")
    if verb == "get":
        found = rpc("get")
        if OLD:
            print("OpenVPN options")
            option("mssfix", "unset")
        print("WireGuard options")
        option("MTU", "unset")
        option("Quantum resistance", found["quantum_resistant"])
        option("DAITA", str(found["daita"]).lower())
        if rpc("device")[0] != "in":
            fail(
                "gRPC call returned error",
                'status: NotFound, message: "no WireGuard key was found"',
            )
        option("Public key", "q" * 43 + "=")
        print("Generic options")
        option("IPv6", "on")
        return
    if OLD:
        one(rest[:1], "wireguard")
        rest = (
            [rest[1].removeprefix("--"), *rest[2:]] if rest[1:] and rest[1].startswith("--") else []
        )
    what, rest = choose(rest, "quantum-resistant", "daita")
    if what == "daita":
        rpc("set", "daita", one(rest, "on", "off") == "on")
        print("DAITA setting has been updated")
    else:
        rpc("set", "quantum_resistant", one(rest, "on", "off", *(["auto"] if OLD else [])))
        print("Quantum resistant setting has been updated")


def split(words):
    if one(words, "list", "clear") == "clear":
        rpc("set", "excluded", [])
        print("Stopped excluding all processes")
        return
    print("Excluded PIDs:")
    for pid in rpc("get")["excluded"]:
        print(pid)
