# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn demo``: the whole way once, on an embedded Qubes."""

import tempfile
from pathlib import Path

from qubes_vpn_formula.commands.parser import command
from qubes_vpn_formula.errors import UserError

_EPILOG = """\
From a provider's profile to a pillar to a routed machine, by the real commands and a real Salt.
Nothing outside a temporary folder (or FOLDER) is touched.

exit codes: 0 all of it worked, 1 a step did not do what it should

examples:
  qubes-vpn demo
  qubes-vpn demo --topology simple --keep demo
"""


def add(subparsers):
    parser = command(subparsers, "demo", "the whole way once, on an embedded Qubes", _EPILOG)
    parser.add_argument("--topology", choices=("dns", "simple"), default="dns", help="default: dns")
    parser.add_argument(
        "--keep", metavar="FOLDER", help="work in FOLDER, new or empty, and keep it"
    )
    parser.set_defaults(run=run)


def run(args):
    if not args.keep:
        with tempfile.TemporaryDirectory(prefix="qubes-vpn-demo-") as folder:
            return _play(Path(folder), args.topology)
    folder = Path(args.keep).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("it is not an empty folder", "Name a new one.", file=args.keep)
    folder.mkdir(parents=True, exist_ok=True)
    return _play(folder, args.topology)


def _play(folder, topology):
    # Imported here: they load Salt's configuration and rich, which no other command needs.
    from rich.console import Console

    from qubes_vpn_formula.cli import main
    from qubes_vpn_formula.demonstration import Demonstration, Failed

    console = Console(highlight=False, soft_wrap=True)
    try:
        Demonstration(console, folder, topology, main).play()
    except Failed as failed:
        console.print(f"\nThe demo failed: {failed}", style="bold red", markup=False)
        return 1
    return 0
