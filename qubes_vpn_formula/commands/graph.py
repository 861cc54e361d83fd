# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn graph``: a machine's network as a picture, now and after a run."""

import json
import sys
from pathlib import Path

import qubes_vpn_observers
from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.commands import check
from qubes_vpn_formula.commands.parser import command, json_option, machine_options
from qubes_vpn_formula.console import tell
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.files import write_new

FORMATS = ("text", "svg", "png")
_EPILOG = """\
Qubes are drawn in their labels' colours, with what they hang on: tunnels, what is on its way into
one, what is in clear (red), who is offline. With a pillar, who is in clear by choice is known, and
the ways round the VPN that no wire shows are listed; --after draws the machine as a run would
leave it, and with a layout as one of qubes.layout after that would. Without a pillar, tunnels are
known by their flag. --observers adds who outside of the machine may see what: your line, VPN
providers, Tor's relays, resolvers, the servers that you visit.

PNG needs resvg (pip install resvg-py). The machine's inventory is taken in dom0: qubes-vpn plan
--help says how.

exit codes: 0 drawn; 1 drawn, but the run would be refused on the way; 2 bad input

examples:
  qubes-vpn graph --inventory inventory.json
  qubes-vpn graph pillar.sls --inventory inventory.json --before --after --output network.svg
  qubes-vpn graph pillar.sls --embedded fresh --after --format png --output network.png
  qubes-vpn graph pillar.sls --embedded fresh --before --after --observers
"""


def add(subparsers):
    parser = command(subparsers, "graph", "draw a machine's network, now or after a run", _EPILOG)
    parser.add_argument("pillar", metavar="PILLAR", nargs="?", help="a pillar file (YAML)")
    machine_options(parser.add_mutually_exclusive_group(required=True))
    parser.add_argument("--before", action="store_true", help="as it is now (default)")
    parser.add_argument(
        "--after", action="store_true", help="as a run of the pillar would leave it"
    )
    parser.add_argument("--observers", action="store_true", help="with who may see what")
    parser.add_argument(
        "--format", choices=FORMATS, help="default: by the ending of --output, else text"
    )
    parser.add_argument("--output", metavar="FILE", help="write it there (mode 0600)")
    parser.add_argument("--force", action="store_true", help="overwrite the file that is there")
    json_option(parser)
    parser.set_defaults(run=run)


def run(args):
    if args.after and not args.pillar:
        raise UserError("--after needs a pillar", "qubes-vpn graph PILLAR --after ...")
    kind = "json" if args.json else args.format or _by_ending(args.output)
    if kind == "png" and not args.output and sys.stdout.isatty():
        raise UserError("a PNG is nothing for a terminal", "Name a file: --output network.png")
    model = None
    if args.pillar:
        file = pillarfile.read(args.pillar)
        if file.problems():
            return check.report([args.pillar])
        model = file.model
    views, refused = _views(args, model)
    drawn = _draw(views, kind, args.output)
    if drawn is not None and args.output:
        write_new(args.output, drawn, force=args.force)
    elif drawn is not None:
        sys.stdout.buffer.write(drawn if isinstance(drawn, bytes) else drawn.encode())
    if refused:
        tell(f"The run would be refused: {refused}", "bold red")
    return 1 if refused else 0


def _by_ending(output):
    ending = Path(output or "").suffix[1:].lower()
    return ending if ending in FORMATS else "text"


def _views(args, model):
    """What to draw, and why the run would be refused on the way."""
    from qubes_vpn_formula import seen  # not for every command: it loads an embedded Qubes

    with seen.machine(args.inventory, args.embedded) as asked:
        before = seen.now(asked, model)
        views, refused = [before], None
        if args.after:
            after, refused = seen.after(asked, model, before)
            views = [before, after] if args.before else [after]
    if args.observers:
        plain = qubes_vpn_observers.plain(model) if model else ()
        ways = [tuple(qubes_vpn_observers.ways_of(view.qubes, plain)) for view in views]
        views = [view._replace(ways=each) for view, each in zip(views, ways, strict=True)]
    return views, refused


def _draw(views, kind, output):
    """The drawing; None when it has been printed."""
    if kind == "json":
        return json.dumps([_plain(view) for view in views], indent=2) + "\n"
    if kind == "text":
        return _text(views, output)
    from qubes_vpn_formula.picture import png, svg

    drawn = svg.draw(views)
    return png.draw(drawn) if kind == "png" else drawn


def _plain(view):
    return {
        "title": view.title,
        "qubes": [qube._asdict() for qube in view.qubes],
        "notes": [text for text, _way in view.notes],
        "was": view.was,
        "observers": qubes_vpn_observers.data(view.ways),
    }


def _text(views, output):
    from io import StringIO

    from rich.console import Console  # it costs 50 ms

    from qubes_vpn_formula.picture import text

    stream = StringIO() if output else sys.stdout
    console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)
    for place, view in enumerate(views):
        if len(views) > 1:
            console.print(("\n" if place else "") + view.title, style="bold")
        text.draw(console, view)
    return stream.getvalue() if output else None
