# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn relays``: a tunnel's endpoints from a provider's relay list, kept current."""

import datetime
import json

import qubes_vpn_net
from qubes_vpn_formula import files, pillarfile, report
from qubes_vpn_formula.commands import check
from qubes_vpn_formula.commands.parser import command, json_option
from qubes_vpn_formula.commands.set import BOM, new_problems, show_difference
from qubes_vpn_formula.console import say, tell
from qubes_vpn_formula.errors import UserError, read_bytes
from qubes_vpn_formula.relays import chosen, datafile, inpillar, inuse, options, reading, since

_EPILOG = """\
Nothing is fetched here. Mullvad's list is in a qube with its app, or at its API:
  /var/cache/mullvad-vpn/relays.json
  curl -o relays.json https://api.mullvad.net/app/v1/relays
For the relays of others there is a format of ours, CSV or JSON: docs/relays.md.

Without PILLAR or FILE the endpoints are printed. Addresses are joined to prefixes only where every
address in one is a chosen relay's. --into keeps the selection in the pillar, with the day
and a checksum; --refresh repeats it. 'qubes-vpn check' says when they do not fit any more.

--in-use keeps the relay that the VPN qube uses now, though the list or the selection has it no
longer: to take away its endpoint would cut the tunnel. Connect to another relay when dom0 and the
VPN qube have the new endpoints, and refresh again without it.

exit codes: 0 done; 1 --diff, and there is a difference; 2 bad input (nothing was written)

examples:
  qubes-vpn relays --from relays.json --country se --owner
  qubes-vpn relays --from relays.json --hostname 'se-*' --into pillar.sls
  qubes-vpn relays --from relays.json --diff yesterday.json --country se
  qubes-vpn relays --from relays.json --refresh pillar.sls --in-use 185.65.135.68 --dry-run
"""


def add(subparsers):
    parser = command(
        subparsers, "relays", "choose a tunnel's endpoints from a provider's relay list", _EPILOG
    )
    parser.add_argument(
        "--from", dest="list", metavar="LIST", required=True, help="the provider's relay list"
    )
    options.add(parser.add_argument_group("which relays (without: all)"))
    group = parser.add_argument_group("what to do with them (without: print the endpoints)")
    what = group.add_mutually_exclusive_group()
    what.add_argument("--into", metavar="PILLAR", help="write endpoints and selection into it")
    what.add_argument("--refresh", metavar="PILLAR", help="repeat the selection that it holds")
    what.add_argument("--output", metavar="FILE", help="write a file with both, of mode 0600")
    what.add_argument(
        "--diff",
        metavar="OLD",
        help="say what came, went and changed since OLD: a list, a pillar, or a file of --output",
    )
    parser.add_argument(
        "--tunnel",
        metavar="QUBE",
        help="the VPN qube (default: --into sys-vpn, else every one with a selection)",
    )
    parser.add_argument(
        "--in-use",
        metavar="ADDRESS",
        nargs="+",
        default=[],
        help="keep the endpoints with these addresses, which the VPN qube uses now",
    )
    parser.add_argument(
        "--status",
        metavar="FILE",
        help="keep the endpoints that are named in what 'mullvad status --json' printed there",
    )
    parser.add_argument("--force", action="store_true", help="--output: overwrite what is there")
    parser.add_argument("--dry-run", action="store_true", help="show the difference, write nothing")
    json_option(parser)
    parser.set_defaults(run=run)


def run(args):
    for option, said in (("--in-use", args.in_use), ("--status", args.status)):
        if said and not (args.into or args.refresh):
            what = "it is for --into and --refresh, which change a list that is in use"
            raise UserError(what, "Leave it out.", key=option)
    listed = reading.read(args.list)
    if args.diff:
        return _diff(args, listed)
    if args.into or args.refresh:
        return _edit(args, listed)
    found = chosen.choose(listed, options.selection(args), _today())
    if args.output:
        if not args.dry_run:
            files.write_new(args.output, datafile.text(found), args.force)
    elif not args.json:
        say(datafile.text(found).rstrip("\n"))
    if args.json:
        say(json.dumps(_as_data(found), indent=2))
    else:
        _tell(found)
    return 0


def _today():
    return datetime.date.today().isoformat()


# --- into a pillar


def _edit(args, listed):
    path = args.into or args.refresh
    before = pillarfile.read(path)
    if any(not _is_ours(located.problem.path) for located in before.problems()):
        return check.report([path])
    raw = read_bytes(path).decode()
    old = new = raw.removeprefix(BOM)
    tunnels, made = _tunnels(args, before, listed), {}
    in_use = _in_use(args, [tunnel for tunnel, _ in tunnels])
    for tunnel, wishes in tunnels:
        found = chosen.choose(listed, wishes, _today(), in_use, tunnel.endpoints)
        new = inpillar.edited(path, new, tunnel.name, found)
        made[tunnel.name] = found
    worse = new_problems(before, pillarfile.PillarFile(path, new))
    if worse:
        said = [problem.text(f"{path}, as it would be, line {line}") for line, problem in worse]
        raise UserError.of_text("\n".join(said))
    if new != old and not args.dry_run:
        files.rewrite(path, BOM * raw.startswith(BOM) + new)
    if args.json:
        tunnels = {name: _as_data(found) for name, found in made.items()}
        written = new != old and not args.dry_run
        result = {"file": path, "changed": new != old, "written": written, "tunnels": tunnels}
        say(json.dumps(result, indent=2))
        return 0
    show_difference(path, old, new)
    for tunnel, _ in tunnels:
        found = made[tunnel.name]
        _tell(found, tunnel.name)
        if tunnel.kind == "mullvad":
            if not tunnel.mullvad["location"]:
                report.tell_places(tunnel.name, found.locations)
            report.tell_wider(tunnel.name, found, tunnel.mullvad)
    return 0


def _is_ours(path):
    """Whether a problem there is one that this edit may put right."""
    return path[1:2] == ("tunnels",) and path[3:4] in (("relays",), ("endpoints",))


def _tunnels(args, file, listed):
    """Each tunnel to edit, with its selection."""
    if args.into:
        return [(inpillar.tunnel(file, args.tunnel or "sys-vpn"), options.selection(args))]
    if said := options.given(args):
        what = "the selection is the one in the pillar"
        raise UserError(what, "Leave it out, or choose anew by --into.", key=said[0])
    tunnels = inpillar.selected(file, listed.kind, args.tunnel)
    for tunnel in tunnels:
        if not inpillar.is_as_taken(tunnel):
            tell(
                f"{args.refresh}: {tunnel.name}: the endpoints or the selection were edited since "
                f"{tunnel.relays['taken']}; the endpoints become what the selection gives",
                "yellow",
            )
    return [(tunnel, inpillar.selection(tunnel)) for tunnel in tunnels]


def _in_use(args, tunnels):
    """The addresses in use, all of them endpoints of *tunnels*; raises :class:`UserError`."""
    names = ", ".join(tunnel.name for tunnel in tunnels)
    endpoints = [each for tunnel in tunnels for each in tunnel.endpoints or ()]
    addresses = [inuse.named(text) for text in args.in_use]
    for address in addresses:
        if not inuse.has(endpoints, address):
            what = f"{address} is no endpoint of {names}, so it cannot be in use"
            raise UserError(what, "Look at the address again.", key="--in-use")
    if args.status:
        said = [each for each in inuse.of_status(args.status) if inuse.has(endpoints, each)]
        if not said:
            what = f"no address in it is an endpoint of {names}"
            fix = "Take it in the VPN qube while the tunnel is up, or leave --status out."
            raise UserError(what, fix, file=args.status)
        addresses += said
    return dict.fromkeys(addresses)


# --- what is different


def _diff(args, listed):
    changes = since.changes(args.diff, listed, options.selection(args), args.tunnel)
    if args.json:
        told = [change._asdict() for change in changes]
        say(json.dumps({"old": args.diff, "new": args.list, "changes": told}, indent=2))
        return 1 if changes else 0
    for change in changes:
        style = {"came": "green", "went": "red", "changed": "yellow"}[change.kind]
        say(f"{change.kind}: {change.name}: {change.what}", style)
    if not changes:
        say(f"{args.list}: no difference to {args.diff}", "green")
    return 1 if changes else 0


# --- what was chosen, in words


def _tell(found, tunnel=None):
    told = f"{tunnel}: " if tunnel else ""
    told += f"{len(found.relays):,} relays, {len(found.endpoints):,} endpoints, firewall rules of "
    tell(f"{told}{_size(found):,} of {qubes_vpn_net.FIREWALL_LIMIT:,} bytes")
    for each in found.kept:
        tell(
            f"kept, because it is in use: {each.text}. Connect to another relay when dom0 and the "
            "VPN qube have the new endpoints, then refresh without --in-use",
            "yellow",
        )


def _size(found):
    return qubes_vpn_net.rules_size(qubes_vpn_net.rules(found.destinations))


def _as_data(found):
    return {
        "relays": found.as_pillar(),
        "hostnames": [relay.hostname for relay in found.relays],
        "endpoints": [each._asdict() for each in found.endpoints],
        "in_use": [each.text for each in found.kept],
        "firewall": {"bytes": _size(found), "limit": qubes_vpn_net.FIREWALL_LIMIT},
    }
