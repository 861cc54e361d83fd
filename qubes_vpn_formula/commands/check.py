# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn check``: everything that is wrong with pillar files."""

import json

import qubes_vpn_client_dns
import qubes_vpn_layout
import qubes_vpn_net
import qubes_vpn_profile
import qubes_vpn_relays
from qubes_vpn_formula import pillarfile, pinning
from qubes_vpn_formula.commands.parser import command, json_option
from qubes_vpn_formula.console import say
from qubes_vpn_formula.errors import UserError
from qubes_vpn_problem import Problem, path_text

_EPILOG = """\
Prints one line for each problem, all files, all problems:
  FILE:LINE: KEY.PATH: what is wrong. What to do.
dom0 makes the same checks before it changes anything. Endpoints that were chosen from a relay list
long ago are a remark, not a problem. So are an allowlist by which its qube has no names, a qube
that is offline until it has one, a resolver that asks past every tunnel, and a route that leaves
Tor out where the topology leads through it.

With --profile also what the VPN qube would refuse that profile for: above all a server that is not
among the endpoints of its tunnel; what is dangerous in it and taken all the same is a remark.
Addresses are pinned when the pillar is made, so one that has
changed since then shows up here, or in the qube, and never as a connection to somewhere else.
--resolve asks this machine's resolver, now, in clear, whether the profile's host names still have
the pinned addresses.

exit codes: 0 no problem, 1 the profile does not fit, 2 problems of the pillar

examples:
  qubes-vpn check pillar.sls
  qubes-vpn check pillar.sls --profile se.ovpn --resolve
  qubes-vpn check --json machines/*.sls
"""


def add(subparsers):
    parser = command(
        subparsers, "check", "check pillar files and say what is wrong, all at once", _EPILOG
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="a pillar file (YAML)")
    parser.add_argument(
        "--profile", metavar="PROFILE", help="compare this profile with its tunnel's endpoints"
    )
    parser.add_argument(
        "--resolve",
        action="store_true",
        help="with --profile: ask this machine's resolver, now, in clear",
    )
    json_option(parser)
    parser.set_defaults(run=run)


def run(args):
    if args.resolve and not args.profile:
        raise UserError("it means nothing alone", "Add --profile PROFILE.", key="--resolve")
    return report(args.files, args.json, args.profile, args.resolve)


def report(paths, as_json=False, profile=None, resolve=False):
    """Prints every problem of the pillar files *paths*; returns the exit code.

    profile: then, without problems, also what does not fit a profile; resolve: names are asked for.
    """
    found = [line for path in paths for line in _problems(path)]
    bad = {line["file"] for line in found if not line["remark"]}
    code = 2 if bad else 0
    if profile and not bad:
        errors = [error for path in paths for error in pinning.errors(path, profile, resolve)]
        found += _findings(profile)
        found += [error_line(profile, error) for error in errors]
        bad, code = ({profile}, 1) if errors else (bad, 0)
    if as_json:
        say(json.dumps(found, indent=2))
        return code
    for line in found:
        say(line["text"], "yellow" if line["remark"] else "red")
    for path in [*paths, *([profile] if profile and code < 2 else [])]:
        if path not in bad:
            say(f"{path}: no problem", "green")
    return code


def _problems(path):
    """The problems of one file, as JSON has them."""
    try:
        file = pillarfile.read(path)
        located = file.problems()
    except UserError as error:
        return [error_line(path, error)]
    return [problem_line(path, *each) for each in located] or [
        {**problem_line(path, file.line(remark.path), remark), "remark": True}
        for remark in remarks(file.model)
    ]


def remarks(model):
    """What is no problem and should still be known, as :class:`qubes_vpn_problem.Problem`."""
    yield from _resolvers_in_clear(model)
    yield from _without_dns(model)
    yield from _without_tor(model)
    for name in model.layout:
        if qubes_vpn_layout.waits(model, name):
            path = ("qubes_vpn", "layout", name)
            fix = "Write its allowlist, or the netvm that it is to have without one."
            yield Problem(path, "nothing says what it may reach, so it is offline", fix)
        elif qubes_vpn_layout.lacks_list(model, name) and model.routes.get(name, "none") != "none":
            path, what = qubes_vpn_layout.place(model, "netvm", name), "without an allowlist"
            yield Problem(
                path,
                f"{what} it may reach everything",
                "Write one, if it is for one bank only.",
            )
    for name in model.tunnels():
        relays = model.services[name].relays
        days = relays and qubes_vpn_relays.stale(relays)
        if days:
            key = ("qubes_vpn", "tunnels", name, "relays", "taken")
            fix = "Get a new list: qubes-vpn relays --from LIST --refresh FILE."
            yield Problem(key, f"the relays were chosen {days} days ago", fix)


def _resolvers_in_clear(model):
    """Only clients outside the VPN can hang on one, so it is possible, and seldom meant."""
    for name in model.resolvers():
        if model.in_clear(name):
            what = f"{' -> '.join(model.path(name))} passes no tunnel: what it asks, encrypted, too"
            fix = "Name an upstream behind a tunnel, unless that is meant."
            yield Problem(("qubes_vpn", "resolvers", name), what, fix)


def _without_dns(model):
    """Allowlists by which a qube has no names, or is to have none and has, which may be meant."""
    for name, entries in model.allowlists.items():
        service = model.services.get(name)
        netvm = service.upstream if service else model.routes.get(name, "none")
        role = model.services[netvm].role if netvm in model.services else None
        path = qubes_vpn_layout.place(model, "allowlist", name)
        rules = qubes_vpn_net.rules(entries)
        if role == "resolver" and (what := qubes_vpn_client_dns.unheeded(rules, netvm)):
            what = f"it lets {what}".rpartition(". ")[0]
            fix = "Add 'dns' if that is meant; else give it a firewall qube as its netvm."
            yield Problem(path, what, fix)
        elif netvm != "none" and (what := qubes_vpn_client_dns.lack(rules, netvm, role)):
            what, _, when = f"it lets {what}".rpartition(". ")
            yield Problem(path, what, f"{when}, add 'dns'.")


def _without_tor(model):
    """Routes of a topology through Tor that leave it out: written for another topology, perhaps."""
    gateway = model.whonix_gateway
    if not model.chain or gateway not in model.path(model.chain[0]):
        return
    for name, netvm in model.routes.items():
        way = model.path(netvm)
        if netvm != "none" and gateway not in (name, *way) and name not in model.outside_vpn:
            path = qubes_vpn_layout.place(model, "netvm", name)
            what = f"{' -> '.join([name, *way])} does not pass {gateway}, which the topology does"
            yield Problem(path, what, f"Write {model.chain[0]}, unless that is meant.")


def _findings(path):
    """What is dangerous in a profile that the VPN qube takes all the same, as JSON has it."""
    for found in qubes_vpn_profile.read(path).findings:
        if found.danger and not found.refused:
            text = f"{path}:{found.line}: {found.key}: {found.what}"
            yield {**_line(path, found.line, found.key, found.what, "", text), "remark": True}


def problem_line(path, line, problem):
    """A problem that stands in line *line* of the file *path*, as JSON has it."""
    text = problem.text(f"{path}:{line}")
    return _line(path, line, path_text(problem.path), problem.what, problem.fix, text)


def error_line(path, error):
    """A :class:`UserError` about the file *path*, as JSON has it."""
    return _line(path, error.line, error.key, error.what, error.fix, str(error))


def _line(path, line, key, what, fix, text):
    found = {"file": path, "line": line, "key": key, "what": what, "fix": fix, "text": text}
    return {**found, "remark": False}
