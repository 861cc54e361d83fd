# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole way once, on a screen: profile, pillar, dry run, real run, second run.

Real commands and a real Salt, on the embedded Qubes.  What is printed is what happened, and a step
that does not do what it should raises :class:`Failed`.
"""

import base64
import contextlib
import io
import shlex

import qubes_vpn_model
import qubes_vpn_plan
from qubes_vpn_formula import pillarfile, salt_result
from qubes_vpn_formula.embedded import dom0
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.masterless import Masterless
from qubes_vpn_formula.picture import View, text
from qubes_vpn_guard import guard_of
from qubes_vpn_network import look

_SLS = "qubes.network.sys-vpn"
_TITLES = 7
#: As a provider hands it out; the keys are counting numbers, the address is one for documents.
_PROFILE = f"""\
[Interface]
PrivateKey = {base64.b64encode(bytes(range(32))).decode()}
Address = 10.64.0.7/32, fc00:bbbb:bbbb:bb01::7/128
DNS = 10.64.0.1

[Peer]
PublicKey = {base64.b64encode(bytes(range(32, 64))).decode()}
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = 203.0.113.7:51820
"""


class Failed(Exception):
    """A step that did not do what it should."""


class Demonstration:
    """One run.

    console: a ``rich.console.Console``.  folder: an empty folder for everything it writes.
    topology: ``dns`` or ``simple``.  qubes_vpn: the command line's ``main``.
    """

    def __init__(self, console, folder, topology, qubes_vpn):
        self.console, self.folder, self.topology = console, folder, topology
        self.qubes_vpn = qubes_vpn
        self.qubes = EmbeddedQubes(folder / "qubes.json")
        self.salt = Masterless(folder / "salt")
        self.number = 0

    def play(self):
        """All of it."""
        self._title("An embedded Qubes as it is installed, with work running")
        self.qubes.call("work", "admin.vm.Start")
        self._draw()
        self._title("From a provider's profile to a pillar")
        pillar = self._pillar()
        self._title("The steps, in order")
        self._show_sls(pillar)
        self._title("A dry run: says what would be changed, and changes nothing")
        self._state("test=True", changed=True, writes=False)
        self._title("The real run")
        self._state(changed=True, writes=True)
        self._title("The same again: changes nothing")
        self._state(changed=False, writes=False)
        self._title("The machine now")
        self._draw(_guard(pillar))
        self.console.print(
            "\nThis was dom0's part.  The same state puts the software into the templates, the\n"
            "killswitch and the tunnel into the VPN qube, and clients' DNS into the tunnel;\n"
            "qubes-vpn lab attacks the killswitch.",
            style="yellow",
        )

    def _title(self, text):
        self.number += 1
        self.console.print(f"\n{self.number}/{_TITLES}  {text}", style="bold")

    def _line(self, text, style=None, indent=4):
        self.console.print(" " * indent + text, style=style, markup=False)

    def _pillar(self):
        profile, pillar = self.folder / "se-sto.conf", self.folder / "pillar.sls"
        profile.write_text(_PROFILE, encoding="utf-8")
        profile.chmod(0o600)
        head = {"dns": "sys-firewall", "simple": "sys-vpn"}[self.topology]
        self._run_qubes_vpn(
            *("init", "--from", profile, "--topology", self.topology, "--output", pillar),
            *("--route", "work", "--route", "personal", "--vault", "vault"),
        )
        self._run_qubes_vpn("set", pillar, "routes.qubes.untrusted", head)
        self._run_qubes_vpn("check", pillar)
        return pillar

    def _run_qubes_vpn(self, *arguments):
        arguments = [str(argument) for argument in arguments]
        inside = f"{self.folder}/"
        self._line(f"$ qubes-vpn {shlex.join(arguments)}".replace(inside, ""), "cyan", 2)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = self.qubes_vpn(arguments)
        for line in printed.getvalue().replace(inside, "").splitlines():
            self._line(line)
        if code:
            raise Failed(f"qubes-vpn {arguments[0]} ended with exit code {code}.")

    def _show_sls(self, pillar):
        self.salt.folder.mkdir()
        self.salt.prepare(grains_cache=True).set_pillar(pillar.read_text(encoding="utf-8"))
        data, calls, _ = self._run_salt("state.show_sls", _SLS)
        for name in salt_result.ids(data):
            self._line(name)
        if calls:
            raise Failed(f"state.show_sls made {calls} Admin API calls.")

    def _state(self, *options, changed, writes):
        data, calls, written = self._run_salt("state.sls", _SLS, *options)
        steps = salt_result.steps(data)
        for step in steps if written else ():
            if step.changes:
                self._line(step.id, "green")
                for line in step.lines():
                    self._line(line, indent=8)
        count = sum(bool(step.changes) for step in steps)
        self._line(
            f"{len(steps)} states, {count} {'would be changed' if options else 'changed'}; "
            f"{calls} Admin API calls, {written} of them writes",
            "bold",
        )
        if bool(count) != changed or bool(written) != writes:
            raise Failed("that is not what this run should do.")

    def _run_salt(self, *arguments):
        """One ``salt-call``: (its answer, Admin API calls, writes among them)."""
        self._line(f"$ qubesctl {shlex.join(arguments)}", "cyan", 2)
        self.qubes.forget_calls()
        with self.console.status("Salt is running"):
            run = self.salt.salt_call("--out=json", *arguments, machine=self.qubes.path)
        if run.code:
            raise Failed(f"Salt ended with exit code {run.code}: {salt_result.reason(run)}")
        calls = self.qubes.calls()
        return run.data, len(calls), sum(call.write for call in calls)

    def _draw(self, guard=None):
        machine = dom0.machine(self.qubes.path, dry=True)
        text.draw(self.console, View("", look(machine, guard)))


def _guard(pillar):
    model = qubes_vpn_model.build(pillarfile.read(str(pillar)).document)
    return guard_of(qubes_vpn_plan.guard(model))
