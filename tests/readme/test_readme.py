# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command in README.md and the pages after it runs as it is written, and does as it says."""

import difflib
import json
import re
import shlex
import stat

import pytest
from generator.cases import secrets_of
from generator.relay_lists import api_list, relay
from in_qube import skip_where_impossible
from readme.document import IN_A_QUBE, LOGIN, Document
from readme.dom0 import STAND_INS
from readme.shell import in_vpn_qube, sh

import qubes_vpn_credentials
from qubes_vpn_formula import bundle

TOP, TRY, LAB = "qubes-vpn-formula", "Try it", "Watch it hold"
PILLAR, DOM0 = "Make your pillar", "Install it in dom0"
RELAYS, FETCH = "Keep relays current", "Where the list comes from"
ASK = "Ask a machine, follow a machine"
AUDIT = "Find the ways round it"
NAMES = "Names"
DOCS = "qubes/network/docs/"
UNDO = "Take it back"
DAILY = "Every day"
SEE = "See that it works"
COMMAND = "The command in dom0"
IN_SYS_VPN = "sudo qubesctl --skip-dom0 --show-output --targets=sys-vpn"
#: As nft writes the one endpoint of the profile.
ENDPOINT = "203.0.113.68 . udp . 51820"


def output(command, folder):
    """What a command prints that has to work."""
    done = sh(command, folder)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def test_no_command_without_a_test(readme, checkout):
    """A block of commands under another heading, or another command in a sentence, needs a test.

    Commands in the sentences of the other pages: test_docs.py.
    """
    commands = [block for block in readme.blocks if block.kind != "text"]
    assert {block.section for block in commands} == {
        TOP, TRY, LAB, PILLAR, RELAYS, DOM0, LOGIN, NAMES, DAILY, SEE, ASK, AUDIT, UNDO, FETCH,
        COMMAND,
    }  # fmt: skip
    assert {block.kind for block in commands} == {"sh", "indented"}
    assert readme.commands(TRY) == ["make demo", "make test"]
    # Where the provider's app is, or the internet.
    assert [shlex.split(line)[0] for line in readme.commands(FETCH)] == ["cp", "curl"]
    programs = ("make", "qubes-vpn", "qubesctl", "qvm-", "sudo", "salt-", ".venv/")
    spans = Document((checkout / "README.md").read_text(encoding="utf-8")).spans
    assert {span for span in spans if span.startswith(programs)} == {
        "make demo", "make test", "make lab", "make lint", "make bench", "make docs",
        "qubes-vpn set", "qubes-vpn prove pillar.sls", *IN_A_QUBE,
    }  # fmt: skip


def test_it_is_short(checkout):
    """The rest is in docs/."""
    assert len((checkout / "README.md").read_text(encoding="utf-8").splitlines()) <= 250


def test_make_demo_draws_the_tree_of_the_readme(readme, ready_checkout):
    printed = output("make demo", ready_checkout)
    assert readme.output(TRY) in printed
    assert "\x1b" not in printed


def test_make_test_is_what_runs_in_continuous_integration(checkout):
    """Shows which commands `make test` stands for, not that they pass: this is one of them."""
    said = output("make --dry-run test", checkout).splitlines()
    assert ".venv/bin/pytest --ignore=tests/salt --ignore=tests/booted" in said
    assert '.venv/bin/pytest -n 2 --dist loadfile -m "not slow or finding" tests/booted' in said
    assert ".venv/bin/pytest tests/salt" in said
    assert 'PYTHONPATH=. .venv-3006/bin/pytest -m "not slow and not one_salt" tests/salt' in said
    assert (checkout / ".ci/run").read_text().splitlines()[-1] == "exec make test"


@pytest.mark.parametrize(
    "target", ["lab", "lab-boot", "rpm", "lint", "docs", "docs-links", "bench"]
)
def test_make_for_developers(target, checkout):
    """Shows that the target exists; test_lint.py and test_pages.py run what two of them run."""
    assert ".venv/bin/" in output(f"make --dry-run {target}", checkout)


def test_the_lab_prints_what_the_readme_shows(readme, in_checkout, qubes):
    """R90. Real packets; the exit code is that of a killswitch of ours that withstood."""
    skip_where_impossible()
    folder = qubes / "dev/qubes-vpn-formula"
    (command,) = readme.commands(LAB)
    done = sh(f"PATH={shlex.quote(str(STAND_INS))}:$PATH; {command}", folder)
    assert (done.returncode, done.stdout) == (0, readme.output(LAB)), done.stdout + done.stderr
    assert len(list((folder / "build/report/captures").iterdir())) >= 6


class TestLogin:
    """R33. "Bring the login into the VPN qube", with a stand-in for sudo and for /rw.

    tests/booted/test_tunnel.py does it in a qube.
    """

    @pytest.fixture
    def home(self, tmp_path):
        made = tmp_path / "home"
        for sender in ("dev", "work"):
            (made / "QubesIncoming" / sender).mkdir(parents=True)
        return made

    def test_a_profile(self, readme, home):
        """Typed twice, with a file from two qubes: it is there, and nowhere else."""
        folder, take, _ = readme.commands(LOGIN)
        assert [folder, take] == qubes_vpn_credentials.bring(["wg-se.conf"])
        copies = [home / "QubesIncoming" / qube / "wg-se.conf" for qube in ("dev", "work")]
        for copy in copies:
            copy.write_text("[Interface]\n")
        for _ in range(2):
            in_vpn_qube(folder, home)
            place = in_vpn_qube(take, home)
            assert [copy for copy in copies if copy.exists()] == []
            assert (place / "wg-se.conf").read_text() == "[Interface]\n"
            modes = [stat.S_IMODE(path.stat().st_mode) for path in (place, place / "wg-se.conf")]
            assert modes == [0o700, 0o600]

    def test_an_account(self, readme, home):
        folder, _, account = readme.commands(LOGIN)
        in_vpn_qube(folder, home)
        place = in_vpn_qube(account, home, "1234123412341234\n")
        assert (place / "mullvad-account").read_text() == "1234123412341234\n"
        assert stat.S_IMODE((place / "mullvad-account").stat().st_mode) == 0o600


class TestPillar:
    """In the qube that holds the profile: "Make your pillar"."""

    def test_the_commands_work(self, in_checkout):
        for done in in_checkout:
            assert done.returncode == 0, f"{done.args}: {done.stdout}{done.stderr}"
        venv, init, check, plan, bundled = in_checkout
        assert venv.stdout == "make: Nothing to be done for 'venv'.\n"
        assert "/rw/config/vpn/credentials" in init.stderr
        assert check.stderr == ""
        assert "sys-vpn" in plan.stdout
        assert bundled.stdout.endswith("  qubes-vpn.tar\n")

    def test_no_secret_gets_out(self, in_checkout, qubes, profile):
        """R33."""
        pillar = (qubes / "dev/qubes-vpn-formula/pillar.sls").read_text()
        printed = "".join(done.stdout + done.stderr for done in in_checkout)
        secrets = secrets_of(profile)
        assert secrets
        assert [secret for secret in secrets if secret in pillar + printed] == []

    def test_mistakes_are_reported_as_shown(self, in_checkout, qubes, readme, tmp_path):
        pillar = (qubes / "dev/qubes-vpn-formula/pillar.sls").read_text()
        pillar, topology = re.subn(r"^  topology:", "  topolgy:", pillar, flags=re.MULTILINE)
        pillar, endpoint = re.subn(r"- [0-9.]+:", "- se.vpn.example:", pillar)
        assert (topology, endpoint) == (1, 1)
        (tmp_path / "pillar.sls").write_text(pillar)
        qubes_vpn = qubes / "dev/qubes-vpn-formula/.venv/bin/qubes-vpn"
        done = sh(f"{qubes_vpn} check pillar.sls", tmp_path)
        assert done.returncode != 0
        assert readme.output(PILLAR) in (done.stdout, done.stderr)

    def test_set_keeps_comments(self, in_checkout, qubes, tmp_path):
        before = (qubes / "dev/qubes-vpn-formula/pillar.sls").read_text()
        (tmp_path / "pillar.sls").write_text(before)
        qubes_vpn = qubes / "dev/qubes-vpn-formula/.venv/bin/qubes-vpn"
        output(f"{qubes_vpn} set pillar.sls routes.qubes.work none", tmp_path)
        after = (tmp_path / "pillar.sls").read_text()
        differing = [
            line for line in difflib.ndiff(before.splitlines(), after.splitlines())
            if line.startswith(("+", "-"))
        ]  # fmt: skip
        assert differing == ["-       work: sys-firewall", "+       work: none"]


def test_relays_are_kept_current(readme, qubes):
    """R36. In the qube with the checkout: a relay whose address changed, and that is in use."""
    folder = qubes / "dev/qubes-vpn-formula"
    others = [relay("se-got-wg-001", "203.0.113.7"), relay("de-ber-wg-001", "203.0.113.8")]
    for name, address in (("relays.json", "185.65.135.68"), ("new.json", "185.65.135.71")):
        listed = api_list([*others, relay("se-sto-wg-003", address)])
        (folder / name).write_text(json.dumps(listed))
    init, diff, refresh = (sh(command, folder) for command in readme.commands(RELAYS))
    assert [done.returncode for done in (init, diff, refresh)] == [0, 1, 0]
    assert diff.stdout == readme.output(RELAYS)
    text = (folder / "mullvad.sls").read_text()
    for address in ("203.0.113.7", "185.65.135.68", "185.65.135.71"):
        assert f"- {address}:51820/udp" in text
    output(f"{readme.commands(RELAYS)[2].partition(' --in-use')[0]}", folder)
    assert "185.65.135.68" not in (folder / "mullvad.sls").read_text()


def worked(ran):
    """Whether all went well but the tunnel, whose profile is brought to the VPN qube by hand."""
    said = ran.stdout + ran.stderr
    failed = re.findall(r"Function: (\S+)\n +Name: .*\n +Result: False", said)
    profile = "credentials/wg-se.conf: not there. In the qube that has the provider's file"
    # What comes after the tunnel requires it.
    expected = failed in (["qubes_vpn.tunnel"], ["qubes_vpn.tunnel", "qubes_vpn.dnat_dns"])
    return ran.code == 0 or (expected and profile in re.sub(r"\s+", " ", said))


class TestDom0:
    """In dom0: "Install it in dom0"."""

    def test_the_commands_work(self, installed):
        for ran in installed.values():
            assert worked(ran), f"{ran.command}: {ran.stdout}{ran.stderr}"
            assert ran.code or ran.stderr == "", ran.command

    def test_the_sum_is_the_one_that_was_printed_in_the_qube(self, installed, in_checkout):
        """R86."""
        (line,) = [line for line in installed if line.startswith("sha256sum ")]
        assert installed[line].stdout == in_checkout[-1].stdout

    def test_all_of_the_formula_is_installed_and_nothing_else(self, installed, dom0, checkout):
        docs = " ".join(["pillar.example", *(f"docs/{name}" for name in bundle.DOCS)])
        listed = output(f"git ls-files salt _modules _states _utils {docs}", checkout).splitlines()
        assert len(listed) > 5
        places = {name: name.removeprefix("salt/").replace("docs/", DOCS) for name in listed}
        places["pillar.example"] = f"{DOCS}pillar.example"
        expected = {place: (checkout / name).read_bytes() for name, place in places.items()}
        salt = dom0.folder / "srv/salt"
        assert {str(path.relative_to(salt)): path.read_bytes() for path in files(salt)} == expected

    def test_installing_enables_nothing_and_an_upgrade_forgets_what_is_gone(
        self, fresh_dom0, in_checkout, readme, qubes
    ):
        """R86. By Salt's own cache, in which `sync_all` keeps the modules."""
        content = bundle.members()
        content["salt/_utils/qubes_vpn_gone.py"] = b""
        (qubes / "dev/older.tar").write_bytes(bundle.tar(content))
        bring, _, install, *_ = readme.commands(DOM0)
        utils = fresh_dom0.folder / "var/cache/salt/minion/extmods/utils"
        older = bring.replace("qubes-vpn-formula/qubes-vpn.tar", "older.tar")
        for line, gone in ((older, True), (bring, False)):
            assert fresh_dom0.run(line).code == 0
            ran = fresh_dom0.run(install)
            assert (ran.code, ran.stderr, ran.writes) == (0, "", 0)
            assert (utils / "qubes_vpn_plan.py").is_file()
            assert (utils / "qubes_vpn_gone.py").exists() == gone
        ran = fresh_dom0.run("sudo qubesctl state.sls qubes.network.sys-vpn")
        assert (ran.code, ran.writes) == (1, 0)
        assert "no such pillar, or an empty one. Start from pillar.example." in ran.stdout

    def test_only_root_can_write_what_is_installed(self, installed, dom0):
        for path in (dom0.folder / "srv").rglob("*"):
            status = path.lstat()
            assert (status.st_uid, status.st_gid) == (0, 0), path
            assert stat.S_IMODE(status.st_mode) in (0o755, 0o644, 0o600), path
        assert stat.S_IMODE((dom0.folder / "srv/pillar/qubes_vpn/init.sls").stat().st_mode) == 0o600

    def test_salt_has_nothing_but_what_was_synced(self, installed, dom0):
        """The checkout, from which it could be imported anyway, is out of reach."""
        imports = "import salt.version, qubesadmin, qubes_vpn_plan"
        found = dom0.run(f'"$DOM0_PYTHON" -S -c "{imports}"')
        assert "No module named 'qubes_vpn_plan'" in found.stderr
        extmods = dom0.folder / "var/cache/salt/minion/extmods"
        assert (extmods / "modules/qubes_vpn.py").is_file()
        assert (extmods / "utils/qubes_vpn_plan.py").is_file()

    def test_looking_first_changes_nothing(self, installed, readme):
        """R69. The real run's steps are those that were shown, and those that a dry run named."""
        show, dry, real = (installed[line] for line in readme.commands(DOM0)[-4:-1])
        assert (show.writes, dry.writes) == (0, 0)
        assert real.writes > 0
        assert ids(dry.stdout) == ids(real.stdout)
        assert set(ids(real.stdout)) <= set(re.findall(r"^    (\S.*):$", show.stdout, re.MULTILINE))
        (changed,) = re.findall(r"\(unchanged=\d+, changed=(\d+)\)", dry.stdout)
        assert f"(changed={changed})" in real.stdout

    def test_the_machine_is_routed(self, installed, dom0):
        """R03: firewall, resolver, tunnel, uplink."""
        chain = ["work"]
        while chain[-1] != "sys-net":
            answer = dom0.machine.call(chain[-1], "admin.vm.property.Get", "netvm").decode()
            chain.append(answer.split()[-1])
        assert chain == ["work", "sys-firewall", "sys-dns", "sys-vpn", "sys-net"]

    def test_a_machine_that_is_off_is_told_and_stays_off(self, installed, dom0, readme):
        """R67, R68. Qubes that answer: tests/salt/test_status.py, tests/lab/test_services.py."""
        status, doctor, *switches = (dom0.run(line) for line in readme.commands(DAILY))
        assert [ran.code for ran in (status, doctor)] == [1, 1]
        assert "sys-vpn  halted" in status.stdout, status.stderr
        assert "Drift from the pillar (0): none" in status.stdout
        assert "D102  A service qube does not run" in doctor.stdout
        assert len(switches) == 2
        for ran in switches:
            assert ran.code != 0
            assert "sys-vpn: does not run (Halted). In dom0: qvm-start sys-vpn." in ran.stderr
        assert {ran.writes for ran in (status, doctor, *switches)} == {0}

    def test_the_command_says_the_same_in_fewer_words(self, installed, dom0, readme):
        """R15, R67. tests/delivery/test_command.py has what it hands on, word by word."""
        commands = readme.commands(COMMAND)
        status, switch, lasting, bypass, events = (dom0.run(line) for line in commands)
        assert (status.code, status.stderr) == (1, "")
        assert "\nsys-vpn  halted" in status.stdout
        assert (switch.code, lasting.code, bypass.code, events.code) == (1, 1, 1, 0)
        for ran in (switch, lasting):
            assert "wg-de.conf is no profile of sys-vpn in the pillar" in ran.stderr
        assert "bypass" in bypass.stderr
        assert {ran.writes for ran in (status, switch, lasting, bypass, events)} == {0}

    def test_a_second_run_changes_nothing(self, installed, dom0, readme):
        """And it is the one command that the README begins with."""
        (command,) = readme.commands(TOP)
        assert command == readme.commands(DOM0)[-2]
        again = dom0.run(command)
        assert worked(again)
        assert again.writes == 0
        assert ids(again.stdout) == ids(installed[command].stdout)
        assert "changed=" not in again.stdout

    def test_the_resolvers_template_gets_its_part(self, installed, dom0, readme):
        """R51. In sys-dns there is nobody to ask here: tests/booted has the servers for that."""
        (command,) = readme.commands(NAMES)
        ran = dom0.run(command.replace(",sys-dns", ""))
        assert ran.code == 0, ran.stdout + ran.stderr
        assert ran.stdout.splitlines()[-1] == "t-dns: OK"
        said = dom0.run("sudo qubesctl state.show_sls qubes.network.sys-vpn").stdout
        (targets,) = re.findall(r"--targets=(\S+)", " ".join(said.split()))
        both = [*re.findall(r"--targets=(\S+)", readme.commands(TOP)[0] + command)]
        assert sorted(targets.split(",")) == sorted(",".join(both).split(","))

    def test_the_killswitch_holds_in_the_vpn_qube(self, installed, dom0, readme):
        """R41, R45, R82. By the template's files, dom0's service, the qube's /rw, and no more."""
        command = readme.commands(DOM0)[-1]
        assert command == f"{IN_SYS_VPN} qubes_vpn.status"
        said = re.sub(r"\s+", " ", installed[command].stdout)
        assert said.startswith("sys-vpn: ")
        assert "state: open" in said
        assert "installed: /usr/lib/qubes-vpn " in said
        rules = dom0.run(f"{IN_SYS_VPN} cmd.run 'nft list ruleset'").stdout
        assert re.findall(r"elements = \{ (.*) \}", rules) == ['"wg0"', ENDPOINT]
        assert rules.count("policy drop") == 5
        assert 'device "eth0"' in rules

    def test_what_could_not_be_seen_has_not_passed(self, installed, dom0, readme):
        """R60. Here nobody runs qubes' programs: tests/booted/test_verify_booted.py has them."""
        vpn, names, destructive = readme.commands(SEE)
        for command in (vpn, names, destructive):
            ran = dom0.run(command)
            assert ran.code, ran.stdout
            assert ran.writes == 0
            what = ids(ran.stdout)
            assert what[-1] == "what came of it"
            passed = re.findall(r"\d+ passed: (.*)$", ran.stdout, re.MULTILINE)
            # What dom0 itself knows.
            assert passed in (["wiring, vaults"], []), ran.stdout
            assert "NOT RUN" in ran.stdout

    def test_the_vpn_qube_starts_closed_when_its_configuration_cannot_be_used(
        self, installed, dom0, readme
    ):
        """R45, R82. And the one command of the README opens it again."""
        spoil = "echo 0.0.0.0/0 > /rw/config/vpn/endpoints.txt"
        assert dom0.run(f"{IN_SYS_VPN} cmd.run '{spoil}'").code == 0
        rules = dom0.run(f"{IN_SYS_VPN} cmd.run 'nft list ruleset'").stdout
        assert rules.count("policy drop") == 5
        assert "elements" not in rules
        assert worked(dom0.run(readme.commands(TOP)[0]))
        rules = dom0.run(f"{IN_SYS_VPN} cmd.run 'nft list ruleset'").stdout
        assert ENDPOINT in rules

    def test_a_target_without_a_part_is_told_so(self, installed, dom0):
        """R33. The pillar is for those that the top file names."""
        ran = dom0.run("sudo qubesctl --skip-dom0 --targets=work state.sls qubes.network.sys-vpn")
        assert ran.code != 0
        assert "work is given no qubes_vpn" in ran.stderr

    def test_a_wrong_pillar_stops_it_before_anything_is_changed(self, installed, dom0, readme):
        pillar = dom0.folder / "srv/pillar/qubes_vpn/init.sls"
        right = pillar.read_text()
        pillar.write_text(right.replace("  topology:", "  topolgy:"))
        try:
            ran = dom0.run(readme.commands(TOP)[0])
        finally:
            pillar.write_text(right)
        assert (ran.code, ran.writes) == (1, 0)
        assert "Did you mean 'topology'?" in ran.stdout

    def test_yaml_that_cannot_be_read_stops_it_too(self, installed, dom0, readme):
        pillar = dom0.folder / "srv/pillar/qubes_vpn/init.sls"
        right = pillar.read_text()
        pillar.write_text(right + "  - [\n")
        try:
            ran = dom0.run(readme.commands(TOP)[0])
        finally:
            pillar.write_text(right)
        assert ran.code != 0
        assert ran.writes == 0

    def test_no_secret_comes_to_dom0(self, installed, dom0, profile):
        """R33."""
        text = b"\n".join(path.read_bytes() for path in files(dom0.folder))
        text += "".join(ran.stdout + ran.stderr for ran in installed.values()).encode()
        assert [secret for secret in secrets_of(profile) if secret.encode() in text] == []

    def test_it_is_taken_back(self, installed, dom0, readme):
        """R92. And the command of the README's beginning does it again."""

        def way():
            names = ["work"]
            while names[-1]:
                answer = dom0.machine.call(names[-1], "admin.vm.property.Get", "netvm").decode()
                names.append(answer.split(" ", 2)[2])
            return names[:-1]

        dry, undo, remove, clean = readme.commands(UNDO)
        routed = way()
        assert "Undo them first" in dom0.run(clean).stdout
        said, done = dom0.run(dry), dom0.run(undo)
        assert (said.code, said.writes, done.code) == (0, 0, 0), said.stdout + done.stdout
        assert ids(said.stdout) == ids(done.stdout)
        assert way() == ["work", "sys-firewall", "sys-net"]
        removed = dom0.run(remove)
        assert removed.code == 0, removed.stdout
        qubes = dom0.machine.snapshot()["qubes"]
        assert not {"sys-vpn", "sys-dns", "t-vpn"} & set(qubes)
        assert dom0.run(clean).code == 0
        assert not (dom0.folder / "record").exists()
        assert worked(dom0.run(readme.commands(TOP)[0]))
        assert way() == routed

    def test_init_gives_the_same_way(self, in_checkout, qubes, readme):
        """What `qubes-vpn init` says about dom0 is what stands here, as far as it goes."""
        here, step = re.findall(
            r"^  [12]\. .*\n((?: {7}.*\n)+)", in_checkout[1].stderr, re.MULTILINE
        )[:2]
        assert readme.commands(PILLAR)[-1] == f".venv/bin/{here.strip()}"
        step = step.replace(f"{qubes}/dev/", "").replace("QUBE", "dev")
        lines = [line.strip() for line in step.splitlines()]
        left_out = (f"{IN_SYS_VPN} qubes_vpn.status", "sudo qubesctl state.show_sls")
        assert lines == [line for line in readme.commands(DOM0) if not line.startswith(left_out)]


class TestAsk:
    """In dom0, then in the qube: "Ask a machine, follow a machine"."""

    def test_the_commands_work(self, installed, dom0, readme, qubes):
        """R69. On the machine that the README has routed; a client is then moved by hand."""
        take, carry, plan, adopt, *_ = readme.commands(ASK)
        folder = qubes / "dev/qubes-vpn-formula"
        dom0.run(readme.commands(TOP)[0])
        for hand, code, said in ((None, 0, "nothing to do"), (b"sys-vpn", 1, "(set by hand)")):
            if hand:
                dom0.machine.call("work", "admin.vm.property.Set", "netvm", hand)
            for command in (take, carry):
                ran = dom0.run(command)
                assert (ran.code, ran.stderr, ran.writes) == (0, "", 0), command
            planned = sh(plan, folder)
            assert planned.returncode == code, planned.stdout + planned.stderr
            assert said in planned.stdout
        before = (folder / "pillar.sls").read_text()
        adopted = output(adopt, folder)
        assert "-      work: sys-firewall\n+      work: sys-vpn\n" in adopted
        assert (folder / "pillar.sls").read_text() == before
        dom0.machine.call("work", "admin.vm.property.Set", "netvm", b"sys-firewall")

    def test_the_audit_finds_what_the_readme_shows(self, installed, dom0, readme, qubes):
        """R93. The machine that the README has routed is closed but for what the pillar keeps."""
        take, carry, *_ = readme.commands(ASK)
        here, there = readme.commands(AUDIT)
        for command in (take, carry):
            assert dom0.run(command).code == 0
        ran = dom0.run(here)
        assert (ran.code, ran.stderr, ran.writes) == (1, "", 0)
        done = sh(there, qubes / "dev/qubes-vpn-formula")
        assert done.returncode == 1, done.stderr
        assert readme.output(AUDIT) in done.stdout
        assert "A101" not in done.stdout
        told = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        assert [line for line in told if line not in ran.stdout] == []

    def test_pictures_and_tables(self, installed, dom0, readme, qubes):
        """R65, R66."""
        take, carry, _, _, both, now, table, *in_dom0 = readme.commands(ASK)
        folder = qubes / "dev/qubes-vpn-formula"
        said = [dom0.run(command) for command in (take, carry, *in_dom0)]
        for ran in said:
            assert (ran.code, ran.stderr, ran.writes) == (0, "", 0), ran.command
        output(both, folder)
        assert ">work</text>" in (folder / "network.svg").read_text()
        assert "── work\n" in output(now, folder)
        shown = "".join([output(table, folder), *(ran.stdout for ran in said)])
        work = re.findall(r"^ *work +10\.137\.\S+ +sys-\S+ +sys-vpn ", shown, re.MULTILINE)
        assert len(work) == 2


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def ids(printed):
    """The states in Salt's own output, in order."""
    return re.findall(r"^ +ID: (.*)$", printed, re.MULTILINE)
