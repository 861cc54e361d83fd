# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands' parsers have in common."""

import argparse


def command(subparsers, name, summary, epilog):
    """The parser of one command: its one line of help, and its examples as written."""
    return subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def json_option(parser):
    """Adds ``--json``."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def inventory_option(parser, **more):
    """Adds ``--inventory``; *more* as argparse has it."""
    what = "the machine, as dom0's qubes_vpn.inventory took it"
    parser.add_argument("--inventory", metavar="FILE", help=what, **more)


def machine_options(group):
    """Adds the ways to name a machine that is not this one."""
    inventory_option(group)
    group.add_argument(
        "--embedded",
        metavar="STATE",
        help="an embedded Qubes: its state file, or 'fresh' for one as it is installed",
    )
