# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn lab``: killswitches attacked with real packets."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from qubes_vpn_formula.commands.parser import command, json_option
from qubes_vpn_formula.console import say
from qubes_vpn_formula.errors import UserError

_EPILOG = """\
Each attack of docs/attacks.md on each killswitch, in network namespaces with real tunnels, as root.
Nothing of the machine's own network is touched.

Killswitches: ours, none, those of public guides, and mutants: ours with one fault each.
--proof adds, for each attack, the mutants that it must find broken.
--replay sends the packets of what qubes-vpn prove has refuted, and says whether the kernel agrees.

exit codes:
  0    ours withstood every attack, and each mutant of --proof was found broken
  1    a finding: in ours (without it: in any that was asked for), a mutant not found broken,
       a kernel that does not agree
  2    bad input, or a machine that cannot run the lab
  130  ended by Ctrl-C; what was done until then is reported

examples:
  sudo qubes-vpn lab --fast
  sudo qubes-vpn lab --proof --report report
  sudo qubes-vpn lab --attack T01 B03 --killswitch ours none s0-mullvad --report report
  sudo qubes-vpn lab --replay proof.json
  qubes-vpn lab --list
"""


def add(subparsers):
    parser = command(
        subparsers, "lab", "attack killswitches with real packets, and report", _EPILOG
    )
    which = parser.add_argument_group("what is run")
    which.add_argument("--attack", metavar="ID", nargs="+", help="only these, such as T01")
    which.add_argument("--fast", action="store_true", help="only the fast ones, as in make test")
    which.add_argument(
        "--killswitch",
        metavar="NAME",
        nargs="+",
        help="only these (default: ours, none, and the guides')",
    )
    which.add_argument(
        "--proof", action="store_true", help="also the mutants that each attack must find broken"
    )
    which.add_argument(
        "--agent",
        choices=["restated", "real"],
        default="restated",
        help="Qubes' own rules and scripts: restated (default), or unchanged from the checkout of "
        "qubes-core-agent-linux that QUBES_SRC names",
    )
    which.add_argument("--jobs", type=int, default=2, help="cells at a time (default: 2)")
    parser.add_argument(
        "--report", metavar="DIR", help="a new folder for report.html, report.json and captures"
    )
    parser.add_argument(
        "--replay", metavar="FILE", help="instead: the counterexamples of qubes-vpn prove --json"
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    json_option(parser)
    parser.set_defaults(run=run)


def run(args):
    # Imported here: what the lab needs, no other command does.
    from qubes_vpn_formula.lab import programs

    if missing := programs.missing():
        packages = " ".join(missing)
        raise UserError(
            f"not installed: {packages}", f"Install it; Debian: sudo apt-get install {packages}"
        )
    if args.replay:
        return _replay(args)
    from qubes_vpn_formula.lab import attacks, matrix
    from qubes_vpn_formula.lab.run import Run

    known = {one.id: one for one in attacks.all()}
    columns = matrix.columns()
    ids = _known(args.attack, known, "--attack") or list(known)
    chosen = [known[id] for id in ids if known[id].fast or not args.fast]
    names = _known(args.killswitch, columns, "--killswitch") or matrix.compared()
    if args.list:
        _list(args, chosen, columns)
        return 0
    if not chosen:
        raise UserError("none of these attacks is a fast one", "Leave --fast out.", key="--attack")
    if args.jobs < 1:
        raise UserError("at least one cell must run at a time", "Say --jobs 2.", key="--jobs")
    source = _source(args)
    _must_run()
    with _folder(args.report) as folder:
        done = Run(chosen, {name: columns[name] for name in names}, args.proof, source, folder)
        done.play(args.jobs)
        if args.report:
            done.write()
        _show(args, done)
    return 130 if done.interrupted else bool(done.findings)


def _must_run():
    from qubes_vpn_formula.lab import programs

    if refused := programs.refusal():
        raise UserError(f"the lab cannot run here: {refused}", "Run it as root: sudo qubes-vpn lab")


def _replay(args):
    """Each counterexample through a kernel: what it says, and whether that is what was proven."""
    from qubes_vpn_formula.lab import replay

    counterexamples = replay.read(args.replay)
    _must_run()
    results = []
    for found in counterexamples:
        try:
            done = replay.replay(found)
            agrees, left = done.agrees, list(done.left)
        except replay.CannotReplay as error:
            agrees, left = None, [str(error)]
        results.append(
            {"property": found["property"], "told": found["told"], "agrees": agrees, "left": left}
        )
        if not args.json:
            word = {True: "agrees", False: "DOES NOT AGREE", None: "not replayed"}[agrees]
            line = f"the kernel {word}: {found['property']}: {found['told']}"
            say(line, None if agrees else "red")
            for line in left or ["nothing came out"]:
                say(f"  {line}")
    if args.json:
        say(json.dumps(results, indent=2))
    elif not results:
        say("no counterexample in it: there is nothing to replay")
    return int(not all(one["agrees"] for one in results))


def _known(wanted, known, key):
    """What was asked for, in the order that it is known in; each must exist."""
    wanted = set(wanted or ())
    if unknown := sorted(wanted - known.keys()):
        raise UserError(
            f"there is no {', '.join(unknown)}", "See what there is: qubes-vpn lab --list", key=key
        )
    return [name for name in known if name in wanted]


def _source(args):
    """The checkout whose scripts are run; None for the restatement."""
    if args.agent == "restated":
        return None
    source = os.environ.get("QUBES_SRC", "")
    if not (Path(source) / "qubesagent/firewall.py").is_file():
        raise UserError(
            f"QUBES_SRC ({source or 'not set'}) is no checkout of qubes-core-agent-linux",
            "Set it to one: QUBES_SRC=~/qubes-core-agent-linux qubes-vpn lab --agent real",
            key="--agent",
        )
    return Path(source)


@contextlib.contextmanager
def _folder(report):
    """The report's folder, made anew; a temporary one when no report is wanted."""
    if not report:
        with tempfile.TemporaryDirectory(prefix="qubes-vpn-lab-") as folder:
            yield Path(folder)
        return
    folder = Path(report)
    if folder.exists() and not (folder / "report.json").is_file() and _full(folder):
        raise UserError("it is neither an empty folder nor a report", "Name a new one.", report)
    shutil.rmtree(folder / "captures", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _full(folder):
    return not folder.is_dir() or any(folder.iterdir())


def _list(args, chosen, columns):
    if args.json:
        what = {
            "attacks": {
                one.id: {"title": one.title, "fast": one.fast, "mutants": one.mutants}
                for one in chosen
            },
            "killswitches": list(columns),
        }
        say(json.dumps(what, indent=2))
        return
    for one in chosen:
        say(f"{one.id}  {'fast' if one.fast else '    '}  {one.title}")
    say()
    say(f"killswitches: {', '.join(columns)}")


def _show(args, done):
    """The result on the screen: a line for each finding, and one for each killswitch."""
    if args.json:
        say(json.dumps(done.content, indent=2))
        return
    for finding in done.findings:
        say(finding, "red")
    for column in done.tallies():
        say(column)
    if args.report:
        say(f"{args.report}/report.html")
