# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn fleet``: many machines' pillars, checked, proven and built in one run."""

import importlib.util
import json
import os
import time

from qubes_vpn_formula import files
from qubes_vpn_formula.commands.parser import command, json_option
from qubes_vpn_formula.console import say
from qubes_vpn_formula.errors import UserError

_EPILOG = """\
A file NAME.sls for each machine, NAME being that of its Salt minion, and base.sls for what they
share; folders may have a base.sls of their own. Salt's rules of merging pillars hold: mappings key
by key, all else is replaced, and what is nearer to the machine wins. docs/fleet.md has it all.

exit codes: 0 all is well, 1 something is refuted or could not be proven, 2 something cannot be used

examples:
  qubes-vpn fleet check machines
  qubes-vpn fleet build machines --output build-7

Each command has its own help: qubes-vpn fleet check --help
"""
_CHECK = """\
Each machine's files are merged, and what comes out is checked as by qubes-vpn check, planned, and
proven as by qubes-vpn prove. Machines with the same rules have one proof. A machine with a mistake
does not stop the others; each mistake is told once, with the machines that have it.

The proof needs nft, unshare, and the solver: pip install 'qubes-vpn-formula[prove]'

exit codes: 0 all is well, 1 something is refuted or could not be proven, 2 something cannot be used

examples:
  qubes-vpn fleet check machines
  qubes-vpn fleet check machines --no-proof --json
"""
_BUILD = """\
As qubes-vpn fleet check; then, for each machine that has nothing wrong:
  NEWFOLDER/pillar   a tree for a Salt master's pillar_roots: each minion gets its own, and no other
  NEWFOLDER/bundles  a bundle for each machine, as of qubes-vpn bundle
  NEWFOLDER/SHA256SUMS
A machine that has something wrong is in neither. The same files give the same folder, byte by
byte (signatures apart). The folder is there whole, or, after Ctrl-C, not at all.

exit codes: 0 all are built, 1 something is refuted or could not be proven, 2 something cannot be
used; in both cases the others are built

examples:
  qubes-vpn fleet build machines --output build-7
  qubes-vpn fleet build machines --output build-8 --sign 0x8A3C2B1D
"""


def add(subparsers):
    parser = command(subparsers, "fleet", "check and build many machines' pillars", _EPILOG)
    below = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    checked = command(below, "check", "check, plan and prove all machines", _CHECK)
    _options(checked)
    checked.set_defaults(run=_run_check)
    built = command(below, "build", "the same, and write what is delivered", _BUILD)
    _options(built)
    built.add_argument("--output", metavar="NEWFOLDER", required=True, help="made anew")
    built.add_argument("--sign", metavar="KEY", help="sign each bundle with this key")
    built.add_argument(
        "--gpg", metavar="PROGRAM", default="gpg", help="what signs; default: %(default)s"
    )
    built.set_defaults(run=_run_build)


def _options(parser):
    parser.add_argument("folder", metavar="FOLDER", help="the machines' files")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one for a core)"
    )
    parser.add_argument("--no-proof", action="store_true", help="check and plan, prove nothing")
    parser.add_argument("--page", metavar="HTML", help="also write the report as a page")
    json_option(parser)


def _run_check(args):
    from qubes_vpn_formula.fleet import workers

    _refuse(args)
    begin = time.monotonic()
    with workers.workers(args.jobs) as shared:
        return _report(args, *_examine(args, shared), {}, begin)


def _run_build(args):
    # Imported here: what a fleet needs, no other command does.
    from qubes_vpn_formula.fleet import report, tree, workers

    _refuse(args)
    begin = time.monotonic()
    # In this order: the processes have ended when a folder that was not finished is removed.
    with tree.new(args.output) as folder, workers.workers(args.jobs) as shared:
        machines, errors, answers = _examine(args, shared)
        good = [one for one in machines if report.verdict(one, answers) in report.GOOD]
        signing = tree.Signing(args.sign, args.gpg)
        built = tree.write(folder, good, signing, shared) if good else {}
    return _report(args, machines, errors, answers, built, begin)


def _refuse(args):
    if args.jobs < 1:
        raise UserError("somebody has to do it", "Say --jobs 1.", key="--jobs")
    if not args.no_proof and importlib.util.find_spec("z3") is None:
        what = "the solver is not installed"
        fix = "Install it: pip install 'qubes-vpn-formula[prove]'. Or say --no-proof."
        raise UserError(what, fix)


def _examine(args, shared):
    """(machines, what is none, answers by name or None)"""
    from qubes_vpn_formula.fleet import examine, folder

    found, errors = folder.find(args.folder)
    machines = examine.examine(found, shared)
    if args.no_proof:
        return machines, errors, None
    from qubes_vpn_formula.fleet import proof  # it needs the solver

    proofs = proof.prove(machines, shared)
    return machines, errors, {one.name: list(proofs.of(one)) for one in machines}


def _report(args, machines, errors, answers, built, begin):
    from qubes_vpn_formula.fleet import report

    content = report.data(args.folder, machines, errors, answers, built)
    if args.page:
        files.write_new(args.page, report.page(content), force=True)
    if args.json:
        say(json.dumps(content, indent=1))
    else:
        for line, style in report.lines(content):
            say(line, style)
        seconds = time.monotonic() - begin
        say(f"{seconds:.1f} s, {len(machines) / seconds:.1f} machines a second")
    return report.exit_code(content)
