# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn init``: a provider's profile in, a commented pillar out."""

import datetime
import json

import yaml

import qubes_vpn_keyfile
import qubes_vpn_layout
import qubes_vpn_model
import qubes_vpn_mullvad_pillar
import qubes_vpn_part
import qubes_vpn_profile
from qubes_vpn_formula import files, pillarfile, pillarnew, report, resolve
from qubes_vpn_formula.commands.parser import command, json_option
from qubes_vpn_formula.console import say, tell
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.relays import chosen, mullvad, options, reading
from qubes_vpn_profile_data import Profile
from qubes_vpn_schema import TOPOLOGIES, TOR

_EPILOG = """\
The pillar goes to standard output, or to --output FILE; what else there is to know goes to
standard error: secrets that stay out of the pillar (which, never what), anything unusual in the
profile, what the VPN qube will refuse it for, and what to do next. What the profile lets run or
route by itself is not taken over.

A VPN server given by name is never looked up in silence: either --resolve asks this machine's
resolver now, in clear, and pins the answers; or --address names them.

exit codes: 0 done, 2 bad input (nothing was written)

examples:
  qubes-vpn init --from wg-se.conf --output pillar.sls
  qubes-vpn init --from se.ovpn --resolve --topology simple --route work --route personal
  qubes-vpn init --from wg-se.conf --layout
  qubes-vpn init --from se.ovpn --address se.example.net=198.51.100.7,2001:db8::7
  qubes-vpn init --provider mullvad --relays relays.json --country se --owner owned
"""

#: Topologies that one profile makes.
_ONE_TUNNEL = [
    name
    for name, topology in TOPOLOGIES.items()
    if [role for role, _ in topology.chain].count("tunnel") == 1
]
#: Those whose tunnel is inside Tor, which carries no profile for udp.
_BY_TCP = ("vpn-over-tor",)


def add(subparsers):
    parser = command(
        subparsers, "init", "make a commented pillar from a VPN provider's profile", _EPILOG
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--from",
        dest="profile",
        metavar="FILE",
        help="a WireGuard profile (.conf) or an OpenVPN one (.ovpn), as the provider hands it out",
    )
    source.add_argument(
        "--provider", choices=["mullvad"], help="a provider's own program and its relay list"
    )
    names = parser.add_argument_group("servers given by name (with --from)")
    how = names.add_mutually_exclusive_group()
    how.add_argument(
        "--resolve", action="store_true", help="ask this machine's resolver, once, now, in clear"
    )
    how.add_argument(
        "--address",
        metavar="NAME=ADDR[,ADDR...]",
        action="append",
        default=[],
        help="pin these addresses; once for each name",
    )
    relays = parser.add_argument_group("Mullvad's relays (with --provider mullvad)")
    relays.add_argument("--relays", metavar="FILE", help="relays.json, of the app or its API")
    options.add(relays)
    pillar = parser.add_argument_group("the pillar")
    pillar.add_argument(
        "--tunnel", metavar="QUBE", default="sys-vpn", help="the VPN qube (default: %(default)s)"
    )
    pillar.add_argument(
        "--topology",
        choices=_ONE_TUNNEL,
        default="dns",
        help="how the service qubes hang together: docs/topologies.md (default: %(default)s); for "
        "multihop, which has two tunnels, add the second to a pillar of dns",
    )
    pillar.add_argument(
        "--template", help="the VPN qube's template (default: t-vpn, cloned when missing)"
    )
    pillar.add_argument(
        "--route",
        metavar="QUBE[=NETVM]",
        action="append",
        default=[],
        help="put a qube behind the VPN; may be repeated",
    )
    pillar.add_argument(
        "--vault",
        metavar="QUBE",
        action="append",
        default=[],
        help="a qube that never has a netvm; may be repeated",
    )
    pillar.add_argument(
        "--layout",
        nargs="*",
        choices=qubes_vpn_layout.PRESETS,
        metavar="QUBE",
        help=f"make the canonical qubes, or some: {', '.join(qubes_vpn_layout.PRESETS)}",
    )
    parser.add_argument("--output", metavar="FILE", help="write the pillar there (mode 0600)")
    parser.add_argument("--force", action="store_true", help="overwrite the file that is there")
    json_option(parser)
    parser.set_defaults(run=run)


def run(args):
    profile, source, found = _profile(args)
    selection, places = (found.as_pillar(), found.locations) if found else (None, [])
    location = places[0] if len(places) == 1 else None
    text = pillarnew.pillar_text(profile, _wishes(args), source, selection, location)
    _refuse_problems(args, text)
    if args.output:
        files.write_new(args.output, text, args.force)
    output = args.output or "pillar.sls"
    refusals = _refusals(args, profile)
    port = args.port or qubes_vpn_mullvad_pillar.WIREGUARD_PORT
    steps = report.next_steps(profile, _targets(args.tunnel, text), output, port)
    if args.json:
        data = _as_data(args.output, profile, text, steps)
        data["refused"] = [{"line": e.line, "key": e.key, "text": str(e)} for e in refusals]
        say(json.dumps(data, indent=2))
        return 0
    if not args.output:
        say(text.rstrip("\n"))
    report.tell_profile(profile, refusals)
    if len(places) > 1:
        report.tell_places(args.tunnel, places)
    if found:
        report.tell_wider(args.tunnel, found)
    report.tell_steps(steps)
    return 0


def _targets(tunnel, text):
    """Who has a part of its own by the pillar *text*, as :func:`report.next_steps` wants it."""
    model = qubes_vpn_model.build(yaml.safe_load(text)["qubes_vpn"])
    qubes = [tunnel, model.services[tunnel].template]
    rest = [name for name in qubes_vpn_part.targets(model) if name not in qubes]
    own = {"resolvers": rest, "layout": bool(model.layout)}
    return {"tunnel": tunnel, "template": qubes[1], **own}


def _refusals(args, profile):
    """What the VPN qube would refuse the profile for, which is better known here and now."""
    if not args.profile:
        return []
    return qubes_vpn_keyfile.refusals(args.profile, [found.text for found in profile.endpoints])


def _profile(args):
    """The profile with all its servers pinned, what it was made from, and the relays chosen."""
    if args.provider:
        return _relays(args)
    _refuse_options("--from", [*(["--relays"] if args.relays else []), *options.given(args)])
    profile = qubes_vpn_profile.read(args.profile)
    return _pinned(args, profile), profile.name, None


def _relays(args):
    both = {"--resolve": args.resolve, "--address": args.address}
    _refuse_options("--provider", [name for name, given in both.items() if given])
    if not args.relays:
        raise UserError(
            "which relays?", f"Add --relays relays.json. {mullvad.WHERE}", key="--relays"
        )
    wishes = options.selection(args)
    today = datetime.date.today().isoformat()
    listed = reading.read(args.relays)
    if listed.kind != "mullvad":
        raise UserError("not Mullvad's relay list", mullvad.WHERE, file=args.relays)
    found = chosen.choose(listed, wishes, today)
    profile = Profile(kind="mullvad", name="", provider="Mullvad", endpoints=found.endpoints)
    words = wishes.words()
    source = "Mullvad's relay list" + (f" ({words})" if words else "")
    return profile, source, found


def _refuse_options(with_, given):
    for name in given:
        raise UserError(f"it means nothing with {with_}", "Leave it out.", key=name)


def _pinned(args, profile):
    """*profile* with host names replaced by addresses, as the user has chosen (R35)."""
    names = list(dict.fromkeys(host.name for host in profile.hosts))
    addresses = resolve.given(args.address)
    for name in addresses:
        if name not in names:
            known = (
                f"It has: {', '.join(names)}." if names else "It has addresses only: leave it out."
            )
            raise UserError(f"the profile has no server named {name}", known, key="--address")
    if args.resolve and names:
        tell(f"Asking this machine's resolver, in clear: {', '.join(names)}", "yellow")
        for name in names:
            addresses[name] = resolve.ask(name)
            tell(f"  pinned: {name} = {', '.join(addresses[name])}", "yellow")
    if names and not addresses:
        each = " ".join(f"--address {name}=ADDRESS" for name in names)
        raise UserError(
            f"the server is given by name: {', '.join(names)}",
            "A name is looked up once, in the open: add --resolve to ask this machine's resolver "
            f"now, in clear, or {each}",
            file=args.profile,
            line=profile.hosts[0].line,
        )
    return profile.pinned(addresses)


def _refuse_problems(args, text):
    """Problems of the pillar are those of an option or a profile; its lines nobody has seen."""
    located = pillarfile.PillarFile("the new pillar", text).problems()
    if located:
        said = [problem.text(_origin(args, problem.path)) for _, problem in located]
        raise UserError.of_text("\n".join(said))


def _origin(args, path):
    """What on the command line the value at *path* was made from."""
    match path[1:]:
        case ("routes", *_):
            return "--route"
        case ("vaults", *_):
            return "--vault"
        case ("layout", *_):
            return "--layout"
        case ("tunnels", _, "template"):
            return "--template"
        case ("tunnels", _, "kind" | "endpoints" | "mullvad", *_) if args.topology in _BY_TCP:
            return "--topology"
        case ("tunnels", _, "endpoints" | "profile" | "relays", *_):
            return args.profile or args.relays
    return "--tunnel"


def _wishes(args):
    role, name = TOPOLOGIES[args.topology].chain[0]
    head = {"tunnel": args.tunnel, TOR: "sys-whonix"}.get(role, name)
    routes = dict(route.split("=", 1) if "=" in route else (route, head) for route in args.route)
    layout = None if args.layout is None else tuple(dict.fromkeys(args.layout))
    vaults = tuple(args.vault)
    return pillarnew.Wishes(args.tunnel, args.topology, args.template, routes, vaults, layout)


def _as_data(output, profile, text, steps):
    return {
        "pillar": yaml.load(text, yaml.CSafeLoader),
        "file": output,
        "kind": profile.kind,
        "provider": profile.provider,
        "secrets": [secret._asdict() for secret in profile.secrets],
        "files": [reference._asdict() for reference in profile.files],
        "findings": [finding._asdict() for finding in profile.findings],
        "next": steps,
    }
