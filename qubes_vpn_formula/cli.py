# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line ``qubes-vpn``."""

import argparse
import os
import sys

from qubes_vpn_formula import __version__
from qubes_vpn_formula.commands import COMMANDS
from qubes_vpn_formula.console import tell
from qubes_vpn_formula.errors import UserError

_EPILOG = """\
exit codes:
  0  done
  1  there is a finding or a difference
  2  bad input; one message says where, what and how to put it right

examples:
  qubes-vpn init --from wg-se.conf --route work --vault vault --output pillar.sls
  qubes-vpn check pillar.sls
  qubes-vpn relays --from relays.json --refresh pillar.sls
  qubes-vpn set pillar.sls tunnels.sys-vpn.memory 500

Each command has its own help: qubes-vpn COMMAND --help
"""


def parser():
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="qubes-vpn",
        description="One pillar for a Qubes OS machine's VPN, DNS and firewall qubes: "
        "made from a provider's profile, checked, edited, planned.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(subparsers)
    return parser


def main(argv=None):
    """Runs one command; returns the exit code.  *argv*: the words after the program's name."""
    try:
        args = parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said why
        return stop.code
    try:
        code = args.run(args)
        sys.stdout.flush()
    except UserError as error:
        tell(str(error), "bold red")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code
