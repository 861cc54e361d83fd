# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn set``: one value of a pillar file changed, everything else left as it is."""

import difflib
import json
import re

import yaml

import qubes_vpn_pillaredit
from qubes_vpn_formula import files, pillarfile
from qubes_vpn_formula.commands.parser import command, json_option
from qubes_vpn_formula.console import say, tell
from qubes_vpn_formula.errors import UserError, read_bytes
from qubes_vpn_layout import CANONICAL, PRESETS
from qubes_vpn_problem import looks_secret, names_a_secret, path_text

_EPILOG = """\
KEY.PATH as problems print it: keys joined by dots, [N] for the item N of a list, counted from 0.
A key with a dot or another unusual character stands in quotes. A leading "qubes_vpn." may
be left out. VALUE is YAML: 500, true, none, sys-firewall, [a, b], "{label: red}"; an endpoint such
as [2001:db8::7]:51820/udp needs no quotes here. Where VALUE is one of a tunnel's profiles, and KEY
its profile, the two change places, as by 'qubes-vpn switch --lasting' in dom0.

Comments, quotes, order and indentation stay. The result is checked first: an edit that makes a
new problem is refused, and the file is not touched. Secrets are refused always. Where the layout
is the word canonical, a key of one of its qubes has all of their names written instead.

exit codes: 0 done, or no change needed; 2 refused

examples:
  qubes-vpn set pillar.sls tunnels.sys-vpn.memory 500
  qubes-vpn set pillar.sls tunnels.sys-vpn.profile wg-de.conf
  qubes-vpn set pillar.sls routes.qubes.work sys-firewall
  qubes-vpn set pillar.sls tunnels.sys-vpn.endpoints --append 198.51.100.7:51820/udp
  qubes-vpn set pillar.sls 'allowlists."my.qube"' '[bank.example:443/tcp, dns]'
  qubes-vpn set pillar.sls layout.banking.allowlist '[www.bank.example:443/tcp, dns]'
  qubes-vpn set pillar.sls 'tunnels.sys-vpn.endpoints[0]' --delete --dry-run
"""
_IPV6 = re.compile(r"\[[0-9A-Fa-f:./]+\]:")
BOM = "\ufeff"
_LINE_KEY = re.compile(r"""[-+ ]\s*(?:- )?["']?([\w-]+)["']?\s*:\s*\S""")


def add(subparsers):
    parser = command(
        subparsers, "set", "change one value of a pillar file, keeping comments and layout", _EPILOG
    )
    parser.add_argument("file", metavar="FILE", help="a pillar file (YAML)")
    parser.add_argument(
        "key", metavar="KEY.PATH", help="which value, such as tunnels.sys-vpn.memory"
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("value", metavar="VALUE", nargs="?", help="its new value, as YAML")
    action.add_argument("--append", metavar="VALUE", help="add VALUE to the list instead")
    action.add_argument("--delete", action="store_true", help="take the key or item away instead")
    parser.add_argument("--dry-run", action="store_true", help="show the difference, write nothing")
    json_option(parser)
    parser.set_defaults(run=run)


def run(args):
    before = pillarfile.read(args.file)
    raw = read_bytes(args.file).decode()
    old = raw.removeprefix(BOM)
    path = qubes_vpn_pillaredit.keys(args.key)
    new = _edited(args, before.document, old, path)
    after = pillarfile.PillarFile(args.file, new)
    worse = new_problems(before, after)
    if worse:
        tell(f"{args.file}: not changed, because the edit would bring a problem:", "bold red")
        for line, problem in worse:
            tell(problem.text(f"{args.file}:{line}"), "red")
        return 2
    changed = new != old
    if changed and not args.dry_run:
        files.rewrite(args.file, BOM * raw.startswith(BOM) + new)
    _report(args, old, new, path)
    return 0


def _edited(args, document, old, path):
    """The new text; raises :class:`UserError` with the file's name."""
    try:
        old = _spelled_out(document, old, path)
        if args.delete:
            return qubes_vpn_pillaredit.delete(old, path)
        text = args.append if args.append is not None else args.value
        value = _yaml(text)
        if looks_secret(text) or any(map(names_a_secret, [*path, *_keys(value)])):
            raise UserError(
                "a secret does not belong in the pillar",
                "It belongs in the VPN qube, under /rw/config/vpn/credentials/.",
                key=path_text(path),
            )
        if args.append is not None:
            return qubes_vpn_pillaredit.append(old, path, value)
        if path[3:] == ("profile",) and value in _others(document, path):
            return qubes_vpn_pillaredit.exchange(old, path[2], value)
        return qubes_vpn_pillaredit.put(old, path, value)
    except RecursionError:
        raise UserError(
            "anchors ('&...') lead too deep", "Write the values themselves.", file=args.file
        ) from None
    except UserError as error:
        raise UserError(error.what, error.fix, file=args.file, key=error.key) from None


def _spelled_out(document, old, path):
    """*old* with the names that the layout's one word stands for, if *path* leads to one of them.

    document: of the pillar.
    """
    word = document.get("layout") if isinstance(document, dict) else None
    if word != CANONICAL or path[1] != "layout" or len(path) == 2:
        return old
    return qubes_vpn_pillaredit.spell_out(old, path[:2], {name: {} for name in PRESETS})


def _others(document, path):
    """The further profiles of the tunnel in which *path* is, as far as they are there."""
    try:
        return [*document["tunnels"][path[2]]["profiles"]] if path[1] == "tunnels" else []
    except (KeyError, TypeError):
        return []


def _yaml(text):
    if _IPV6.match(text) or text.startswith("*"):  # no alias: the value stands alone
        return text
    try:
        pillarfile.refuse_depth(text)
        return yaml.load(text, yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError):
        raise UserError(
            "the value is not YAML", "Put it in quotes, twice for the shell: '\"...\"'."
        ) from None


def _keys(value):
    """All keys in *value*, however deep."""
    inside = list(value.values()) if isinstance(value, dict) else value
    own = list(value) if isinstance(value, dict) else []
    return (
        own + [key for each in inside for key in _keys(each)] if isinstance(inside, list) else own
    )


def new_problems(before, after):
    """The problems of the pillar file *after* that *before* does not have."""
    known = {(problem.path, problem.what) for _, problem in before.problems()}
    return [
        found for found in after.problems() if (found.problem.path, found.problem.what) not in known
    ]


def _report(args, old, new, path):
    if args.json:
        written = new != old and not args.dry_run
        say(
            json.dumps(
                {
                    "file": args.file,
                    "key": path_text(path),
                    "changed": new != old,
                    "written": written,
                }
            )
        )
        return
    if new == old:
        say(f"{args.file}: {path_text(path)} is so already")
    show_difference(args.file, old, new)


def show_difference(file, old, new):
    """Prints what changes in the text of *file*."""
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), file, f"{file} (new)", lineterm=""
    )
    for line in lines:
        say(_public(line), {"+": "green", "-": "red", "@": "cyan"}.get(line[0]))


def _public(line):
    """A line of the difference; the file may hold a secret that does not belong there."""
    key = _LINE_KEY.match(line)
    if looks_secret(line) or (key and names_a_secret(key[1])):
        return f"{line[0]}(a line not shown: it looks like a secret)"
    return line
