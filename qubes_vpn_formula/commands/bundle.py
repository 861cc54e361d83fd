# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn bundle``: one file with all that dom0 needs."""

import json

from qubes_vpn_formula import bundle, pillarfile
from qubes_vpn_formula.commands import check
from qubes_vpn_formula.commands.parser import command, json_option
from qubes_vpn_formula.console import say, tell

_EPILOG = """\
The formula and, if one is named, a pillar, which is checked first. The same files give the same
bytes on every machine, so that a checksum can be compared with somebody else's.

What to type in dom0 is printed: two lines bring the bundle there and show its checksum, and nothing
of it is run or unpacked until you have compared that with the one here. The next one installs it,
removes what an older bundle had and this one has not, and has Salt take the modules over. A file
that somebody changed is kept, a pillar that was changed in dom0 stays. Nothing is enabled.

--sign has gpg sign it, too, with a key of yours, into FILE.asc. In a qube with split GPG:
--gpg qubes-gpg-client-wrapper.

exit codes: 0 done, 2 problems of the pillar, or nothing could be written

examples:
  qubes-vpn bundle pillar.sls
  qubes-vpn bundle --output formula.tar --sign me@example.org
"""


def add(subparsers):
    parser = command(
        subparsers, "bundle", "put the formula and a pillar into one file for dom0", _EPILOG
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="a pillar file (YAML)")
    parser.add_argument(
        "--output", metavar="FILE", default="qubes-vpn.tar", help="default: %(default)s"
    )
    parser.add_argument("--force", action="store_true", help="overwrite the file that is there")
    parser.add_argument("--sign", metavar="KEY", help="sign it with this key, into FILE.asc")
    parser.add_argument(
        "--gpg", metavar="PROGRAM", default="gpg", help="what signs; default: %(default)s"
    )
    json_option(parser)
    parser.set_defaults(run=run)


def run(args):
    pillar = None
    if args.file:
        pillar = pillarfile.read(args.file)
        if pillar.problems():
            return check.report([args.file])
    checksum = bundle.build(args.output, pillar, args.sign, args.force, args.gpg)
    bring, install = bundle.in_dom0(args.output)
    if args.json:
        signature = f"{args.output}.asc" if args.sign else None
        made = {"file": args.output, "sha256": checksum, "signature": signature}
        say(json.dumps({**made, "bring": bring, "install": install}, indent=2))
        return 0
    say(f"{checksum}  {args.output}")
    tell("Next:", "bold")
    tell(
        "  In dom0: take it over from this qube, here QUBE, and compare the sum with the one above."
    )
    for line in bring:
        tell(f"       {line}", "cyan")
    tell("  If it is the same: install it.")
    for line in install:
        tell(f"       {line}", "cyan")
    return 0
