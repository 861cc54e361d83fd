# SPDX-License-Identifier: GPL-2.0-or-later
"""Secrets that are planted in a VPN qube are nowhere else, whatever is done with it (R33).

Every output, log, file and process of the way is searched for every secret, also in halves and in
other encodings.  Where they belong: credentials/, what is made of it in the qube's memory for
NetworkManager, and the Mullvad app's own folder; these are root's alone.

Each search is shown to find: what has to be in credentials/, and what is leaked on purpose.

Not secret from the programs in the VPN qube itself is an OpenVPN login's user name: NetworkManager
tells it to whoever asks it there (`nmcli connection show NAME`); the password it does not.
"""

import base64
import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from generator.relay_lists import RELAYS, api_list
from mullvad_stand_in import PROGRAMS
from planted import MARK, Evidence, Secrets, made_up, new_files
from provider import Provider

from qubes_vpn_formula import cli
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.lab import tunnelfiles
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted, Template
from qubes_vpn_formula.lab.booted.salt import SLS, Salt
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.qube import Inside
from qubes_vpn_formula.masterless import Masterless
from qubes_vpn_formula.paths import formula_root

pytestmark = pytest.mark.timeout(900)

TUNNEL = "/usr/lib/qubes-vpn/tunnel"
CONFIG = "/rw/config/vpn"
CREDENTIALS = f"{CONFIG}/credentials"
#: Where secrets belong.
TO_NETWORKMANAGER = ("/run/NetworkManager/system-connections/", "/run/qubes-vpn/")
OF_THE_APP = ("/etc/mullvad-vpn/", "/rw/bind-dirs/etc/mullvad-vpn/")
PLACES = (f"{CREDENTIALS}/", *TO_NETWORKMANAGER, *OF_THE_APP)
PACKAGES = ["network-manager", "network-manager-openvpn", "conntrack", "dbus", "nftables"]
ENDPOINTS = ["198.51.100.1:1194/udp", "198.51.100.1:51820/udp"]
OPENVPN = {
    "kind": "openvpn",
    "interface": "tun0",
    "template": "t-vpn",
    "profile": "one.ovpn",
    "profiles": ["two.ovpn"],
    "endpoints": ENDPOINTS,
}


class Stage(NamedTuple):
    """since: when it all began.  files: of credentials/.  broken: profiles that are refused.

    own: names of the qubes with secrets of their own.
    """

    lab: Booted
    since: float
    secrets: Secrets
    files: dict[str, str]
    broken: dict[str, str]
    evidence: Callable[[str], Evidence]
    own: set[str]


@pytest.fixture(scope="module")
def stage(lab: Booted, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    since = time.time()
    folder = tmp_path_factory.mktemp("provider")
    provider = Provider(folder, lab.internet)
    known = made_up()
    files = _openvpn(provider, known) | _wireguard(known)
    files["mullvad-account"] = known["account"]
    (folder / "login").write_text(f"{known['user']}:{known['password']}")
    check = f'#!/bin/sh\n[ "$username:$password" = "$(cat {folder}/login)" ]\n'
    (folder / "check").write_text(check)
    provider.serve(1, "--verify-client-cert", "require", "--tls-crypt", "ta.key")
    place = tmp_path_factory.mktemp("secrets")
    secrets = Secrets(place / "needles", known)
    broken = _broken(files, known)
    return Stage(
        lab, since, secrets, files, broken, lambda name: Evidence(place / name, secrets), set()
    )


def _openvpn(provider: Provider, known: dict[str, str]) -> dict[str, str]:
    """Two profiles: all inside; and with files beside it, of which the key has a passphrase."""
    folder = provider.folder
    (folder / "passphrase").write_text(known["passphrase"])
    for script in (
        "openssl genpkey -algorithm ed25519 -out client.key",
        "openssl req -new -key client.key -out client.csr -subj /CN=client",
        "openssl x509 -req -days 2 -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial"
        " -out client.crt",
        "openssl pkcs8 -topk8 -v2 aes256 -in client.key -out locked.key -passout file:passphrase",
        "openvpn --genkey secret ta.key",
    ):
        subprocess.run(script.split(), cwd=folder, check=True, capture_output=True)
    key, crypt, locked = (
        (folder / name).read_text() for name in ("client.key", "ta.key", "locked.key")
    )
    body = key.splitlines()[1]
    known["inline key"] = body[22:]  # the bits before are the same in each Ed25519 key
    known["inline key, its bytes"] = base64.b64decode(body)[16:].hex()
    known["locked key"] = "".join(locked.splitlines()[-2:-1])
    for at, line in enumerate(crypt.splitlines()[-17:-1]):
        known[f"tls-crypt key, line {at}"] = line
    inside = provider.profile(1) + "".join(
        f"<{tag}>\n{(folder / name).read_text()}</{tag}>\n"
        for tag, name in (("cert", "client.crt"), ("key", "client.key"), ("tls-crypt", "ta.key"))
    )
    beside = "cert client.crt\nkey locked.key\ntls-crypt ta.key\naskpass pass.txt\n"
    two = provider.profile(1).replace("auth-user-pass", "auth-user-pass login.txt")
    login = f"{known['user']}\n{known['password']}\n"
    return {
        "one.ovpn": inside,
        "one.auth": login,
        "two.ovpn": two + beside,
        "client.crt": (folder / "client.crt").read_text(),
        "locked.key": locked,
        "ta.key": crypt,
        "pass.txt": known["passphrase"],
        "login.txt": login,
    }


def _wireguard(known: dict[str, str]) -> dict[str, str]:
    for name in ("private key", "preshared key"):
        known[f"{name}, its bytes"] = base64.b64decode(known[name]).hex()
    public = base64.b64encode(b"a public key of thirty-two bytes").decode()
    return {
        "wg0.conf": f"[Interface]\nPrivateKey = {known['private key']}\nAddress = 10.0.0.2/32\n\n"
        f"[Peer]\nPublicKey = {public}\nPresharedKey = {known['preshared key']}\n"
        f"AllowedIPs = 0.0.0.0/0\nEndpoint = {ENDPOINTS[1].partition('/')[0]}\n"
    }


def _broken(files: dict[str, str], known: dict[str, str]) -> dict[str, str]:
    """What people get wrong, with a secret where it is wrong."""
    one, wg, private = files["one.ovpn"], files["wg0.conf"], known["private key"]
    user, password = known["user"], known["password"]
    word = f'"{known["passphrase"]}"'
    return {
        "option.ovpn": one + f"their-login {user} '{password}'\n",
        "inline.ovpn": one + f"<auth-user-pass>\n{user}\n{password}\n",
        "no-end.ovpn": one.replace("</key>", ""),
        "no-begin.ovpn": one.replace("<key>", ""),
        "words.ovpn": one.replace("auth-user-pass", f"auth-user-pass {user} '{password}'"),
        "user.ovpn": one.replace("auth-user-pass", f"auth-user-pass {user}"),
        "askpass.ovpn": one + f"askpass {word}\n",
        "askpass-word.ovpn": one + f"askpass {password.split()[1]}\n",
        "quote.ovpn": one + f"setenv LOGIN '{password}\n",
        "setenv.ovpn": one + f"setenv LOGIN '{password}'\n",
        "proxy.ovpn": one + f"http-proxy {user} '{password}'\n",
        "mssfix.ovpn": one + f"mssfix {known['account']}\n",
        "names.conf": wg.replace("PrivateKey", "PrivateKye"),
        "longer.conf": wg.replace(private, f"{private}x"),
        "colon.conf": wg.replace("PrivateKey =", "PrivateKey:"),
        "twice.conf": wg.replace("[Peer]", f"PrivateKey = {private}\n[Peer]"),
        "endpoint.conf": wg.replace("Endpoint = ", f"Endpoint = {private}"),
        "public.conf": wg.replace("PublicKey = ", f"PublicKey = {private}"),
        "hook.conf": wg.replace("[Peer]", f"PostUp = wg set wg0 private-key {private}\n[Peer]"),
        "section.conf": wg.replace("[Peer]", f"[{private}]"),
        "address.conf": wg.replace("Address = ", f"Address = {private}"),
    }


def _template(lab: Booted, name: str) -> Template:
    template = lab.template(name)
    template.install(["--no-install-recommends", *PACKAGES])
    for path, (text, mode) in (Ours().files() | tunnelfiles.files()).items():
        template.write(path, text, mode)
    units = (*Ours().units, *tunnelfiles.UNITS)
    template.run(["systemctl", "enable", *(unit.rpartition("/")[2] for unit in units)])
    return template


def _plant(stage: Stage, qube: AppVM, files: dict[str, str]) -> None:
    """As the README tells users to."""
    stage.own.add(qube.name)
    qube.run(["install", "-d", "-m700", CREDENTIALS])
    for name, text in files.items():
        qube.write(f"{CREDENTIALS}/{name}", text, 0o600)


def _leaks(stage: Stage, evidence: Evidence, *qubes: AppVM) -> dict[str, set[str]]:
    """Where secrets are that do not belong there -> which; qubes have theirs in PLACES."""
    found = evidence.leaks()
    room = [stage.lab.room.path(f"/run/{name}") for name in ("layers", "qubesdb", "volumes")]
    for file, names in stage.secrets.grep(room).items():
        path = file.partition("/run/")[2]
        owner, _, inside = path.removeprefix("volumes/").partition("/")
        if not (owner in stage.own and _belongs(f"/rw/{inside.removeprefix('rw/')}")):
            found[path] = names
    for qube in qubes:
        found |= {f"{qube.name}:{path}": names for path, names in _inside(stage, qube).items()
                  if not _belongs(path)}  # fmt: skip
    return found


def _belongs(path: str) -> bool:
    return path.startswith(PLACES)


def _inside(stage: Stage, qube: Inside, *places: str) -> dict[str, set[str]]:
    """Path -> secrets, of all that was written in a running qube (in these places of it)."""
    root = f"/proc/{qube.pid}/root"
    files = [f"{root}{path}" for path in new_files(qube, stage.since, *places)]
    assert files, "nothing was looked at"
    found = stage.secrets.grep(files)
    # The volume is seen twice.
    return {
        path.removeprefix(root).replace("/run/private-volume/", "/rw/"): names
        for path, names in found.items()
    }


def _journal(evidence: Evidence, qube: AppVM) -> None:
    for options in ([], ["--output=export"]):
        evidence.note(f"journal of {qube.name}", qube.journal("--all", *options))
    evidence.note(f"kernel of {qube.name}", qube.run("dmesg", check=False))


def _modes(qube: AppVM, *places: str) -> list[str]:
    """What in these places is another's than root's."""
    done = qube.run(["find", *places, "(", "-type", "f", "-o", "-type", "d", ")",
                     "(", "-perm", "/077", "-o", "!", "-user", "root", ")",
                     "-printf", "%m %u %p\\n"])  # fmt: skip
    return done.stdout.splitlines()


# --- the search itself


@pytest.mark.parametrize("shape", [
    lambda text: text,
    lambda text: f"Password={text};",
    lambda text: text[:20] if len(text) > 20 else text,
    lambda text: text[-20:],
    lambda text: f"x{text[:20]}" if len(text) > 20 else text,
    lambda text: base64.b64encode(text.encode()).decode(),
    lambda text: base64.b64encode(b"a" + text.encode() + b"b").decode(),
    lambda text: base64.b64encode(b"ab" + text.encode() + b"abc").decode(),
    lambda text: text.encode().hex(),
    json.dumps,
    repr,
])  # fmt: skip
def test_each_shape_of_each_secret_is_found(stage, tmp_path, shape):
    for number, secret in enumerate(stage.secrets.known.values()):
        (tmp_path / str(number)).write_text(f"log: {shape(secret)}\nmore\n")
    found = stage.secrets.grep([tmp_path])
    for number, name in enumerate(stage.secrets.known):
        assert name in found[str(tmp_path / str(number))]


def test_what_is_no_secret_is_not_found(stage, tmp_path):
    (tmp_path / "text").write_text(Path(__file__).read_text())
    assert stage.secrets.grep([tmp_path]) == {}


# --- where the pillar is made, and dom0


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this test starts is known to the sampler."""
    monkeypatch.setenv(MARK, "yes")


@pytest.fixture
def pillar_qube(stage: Stage, tmp_path: Path) -> Path:
    """The folder of the qube where the pillar is made: what is meant to have the profiles."""
    folder = tmp_path / "dev"
    (folder / "broken").mkdir(parents=True)
    for name, text in (stage.files | stage.broken).items():
        (folder / name).write_text(text)
    (folder / "relays.json").write_text(json.dumps(api_list(RELAYS)))
    status = {"account": stage.secrets.known["account"], "endpoint": "203.0.113.1:51820/udp"}
    (folder / "status.json").write_text(json.dumps(status))
    return folder


#: Ending -> the pillar whose tunnel is of that kind, and what it calls its profile.
_TAKEN = ("setenv.ovpn", "twice.conf")  # not broken enough
_USES = {"ovpn": ("pillar.sls", "one.ovpn"), "conf": ("wg.sls", "wg0.conf")}


def _qubes_vpn(evidence: Evidence, folder: Path, command: str) -> int:
    """Its exit code."""
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(out),
    ):
        code = cli.main(command.split())
    evidence.note(f"qubes-vpn {command}", out.getvalue())
    return code


@pytest.mark.usefixtures("marked")
def test_nothing_of_the_profile_comes_to_dom0(stage, pillar_qube, tmp_path):
    evidence = stage.evidence("dom0")
    minion = Masterless(tmp_path / "dom0")
    minion.folder.mkdir()
    machine = EmbeddedQubes(tmp_path / "qubes.json")
    with evidence.sampler("dom0"):
        for command in (
            "init --from one.ovpn --route work --vault vault --output pillar.sls",
            "set pillar.sls tunnels.sys-vpn.profiles [two.ovpn]",
            "init --from two.ovpn --json",
            "init --from wg0.conf --route work --output wg.sls",
            "check pillar.sls --profile one.ovpn",
            "check pillar.sls --profile two.ovpn --json",
            "plan pillar.sls",
            "plan pillar.sls --json",
            "init --provider mullvad --relays relays.json --country se --output mullvad.sls",
            "relays --from relays.json --refresh mullvad.sls --status status.json",
        ):
            assert _qubes_vpn(evidence, pillar_qube, command) == 0, (evidence.folder, command)
        for name, text in stage.broken.items():
            _qubes_vpn(evidence, pillar_qube, f"init --from {name} --output {name}.sls")
            pillar, profile = _USES[name.partition(".")[2]]
            (pillar_qube / "broken" / profile).write_text(text)
            refused = _qubes_vpn(
                evidence, pillar_qube, f"check {pillar} --profile broken/{profile}"
            )
            assert refused or name in _TAKEN, name
        minion.prepare()
        minion.set_pillar((pillar_qube / "pillar.sls").read_text())
        for words in (
            ["state.sls", SLS, "test=True"],
            ["state.sls", SLS],
            ["state.show_sls", SLS],
            ["pillar.items"],
        ):
            done = minion.salt_call(*words, "--log-level=debug", machine=machine.path)
            assert done.code == 0, done.stdout + done.stderr
            evidence.note(f"salt-call {' '.join(words)}", f"{done.stdout}\n{done.stderr}")
    for made in pillar_qube.glob("*.sls"):
        evidence.note(f"made {made.name}", made.read_text())
    evidence.note("machine", machine.path.read_text())
    dom0 = stage.secrets.grep([minion.folder])
    assert (evidence.leaks(), dom0) == ({}, {})
    assert list((minion.folder / "qubes-vpn").iterdir()) != []  # its record was searched
    assert stage.secrets.known["account"] in (pillar_qube / "status.json").read_text()

    # What would be found.
    with evidence.sampler("leak"):
        words = [sys.executable, "-c", "import time; time.sleep(1)", stage.files["pass.txt"]]
        subprocess.run(words, check=True)
    minion.set_pillar(yaml.safe_dump({"qubes_vpn": {"note": stage.files["wg0.conf"]}}))
    assert evidence.leaks() == {"processes-leak": {"passphrase"}}
    assert {"private key", "preshared key"} <= set().union(
        *stage.secrets.grep([minion.folder / "pillar"]).values()
    )


# --- a VPN qube with NetworkManager


@pytest.fixture(scope="module")
def qube(stage: Stage) -> Iterator[AppVM]:
    template = _template(stage.lab, "t-vpn")
    template.stop()
    qube = stage.lab.appvm("sys-vpn", template, services=["qubes-vpn", "network-manager"])
    qube.start()
    _configure(qube, "openvpn", "tun0", "one.ovpn", "two.ovpn")
    _plant(stage, qube, stage.files)
    return qube


def _configure(qube: AppVM, kind: str, interface: str, profile: str, *further: str) -> None:
    """As the states do it."""
    lines = [f"kind = {kind}", f"interface = {interface}", f"profile = {profile}"]
    lines += [f"further = {name}" for name in further]
    qube.write(f"{CONFIG}/endpoints.txt", "\n".join(ENDPOINTS))
    qube.write(f"{CONFIG}/killswitch.conf", f"interface = {interface}\nlog = yes\n")
    qube.write(f"{CONFIG}/tunnel.conf", "\n".join([*lines, ""]))


def _say(evidence: Evidence, qube: AppVM, command: str, timeout: float = 80) -> int:
    done = qube.run(command, check=False, timeout=timeout)
    assert "Traceback" not in done.stderr, (command, done.stderr)
    evidence.note(f"in the qube: {command}", done)
    return done.returncode


def _up(evidence: Evidence, qube: AppVM, profile: str) -> None:
    until = time.monotonic() + 40
    while True:
        done = qube.run([TUNNEL, "status", "--json"], check=False)
        evidence.note("status", done)
        status = json.loads(done.stdout)
        if (status["state"], status["profile"]) == ("up", profile):
            return
        assert time.monotonic() < until, (status, qube.journal()[-5000:])
        time.sleep(0.3)


def test_nothing_leaves_its_place_in_a_vpn_qube(stage, qube):
    evidence = stage.evidence("qube")
    lab = stage.lab
    other = lab.appvm("other", qube.template, provides=False)
    client = lab.client("work", netvm=qube)
    qube.stop()
    qube.start(wait=False)
    other.start()
    with evidence.sampler("qube", qube), evidence.sampler("other", other):
        qube.wait()
        _up(evidence, qube, "one.ovpn")
        for command in (
            f"{TUNNEL} up two.ovpn",
            "nmcli connection show; nmcli device show; ip address; nft list ruleset",
            f"{TUNNEL} status; /usr/lib/qubes-vpn/killswitch status",
            f"{TUNNEL} up",
        ):
            assert _say(evidence, qube, command) == 0, (evidence.folder, command)
        _say(evidence, qube, "kill -SEGV $(pidof openvpn); sleep 0.5")  # a core would be a file
        _up(evidence, qube, "one.ovpn")
        client.run("ping -c1 -W1 198.51.100.77", check=False)
        # A wrong password, and the two lines in the wrong order.
        user, password = stage.files["one.auth"].splitlines()
        for login in (f"{user}\n{password}wrong\n", f"{password}\n{user}\n", f"{user}\n"):
            qube.write(f"{CREDENTIALS}/one.auth", login, 0o600)
            assert _say(evidence, qube, f"{TUNNEL} up") != 0
            _say(evidence, qube, f"{TUNNEL} status --json")
        _say(evidence, qube, f"{TUNNEL} down")
        modes = _modes(qube, CREDENTIALS, *TO_NETWORKMANAGER)
        held = _inside(stage, qube)
        _refused(stage, evidence, qube)
        _journal(evidence, qube)
    held |= _inside(stage, qube)
    leaks = _leaks(stage, evidence, qube)
    own = ("/etc", "/usr", "/var", "/rw", "/run")  # all else is this machine's
    client.write("/rw/looked-at", "")
    leaks |= {f"client: {path}": names for path, names in _inside(stage, client, *own).items()}
    leaks |= {f"other: {path}": names for path, names in _inside(stage, other).items()}
    # The wish is the name of a profile.
    assert (leaks, [line for line in modes if "/wish" not in line]) == ({}, [])
    _everything_is_found(stage, held)
    _what_would_be_found(stage, evidence, qube, other)


def _refused(stage: Stage, evidence: Evidence, qube: AppVM) -> None:
    """Profiles that are broken, and NetworkManager with a WireGuard that the kernel lacks."""
    _plant(stage, qube, stage.broken)
    for kind, interface, good, ending in (
        ("openvpn", "tun0", "two.ovpn", ".ovpn"),
        ("wireguard", "wg0", "wg0.conf", ".conf"),
    ):
        broken = [name for name in stage.broken if name.endswith(ending)]
        _configure(qube, kind, interface, broken[0], *broken[1:], good)
        _say(evidence, qube, "/usr/lib/qubes-vpn/killswitch load")
        _say(evidence, qube, f"{TUNNEL} prepare")
        _say(evidence, qube, f"{TUNNEL} status --json")
        _say(evidence, qube, f"timeout 5 {TUNNEL} up {broken[0]}")
        _say(evidence, qube, f"timeout 10 {TUNNEL} up {good}")
        _say(evidence, qube, "nmcli connection show")
        _say(evidence, qube, f"{TUNNEL} status --json")


def _everything_is_found(stage: Stage, held: dict[str, set[str]]) -> None:
    """The same search finds every secret where it has to be."""
    found: dict[str, set[str]] = {"credentials": set(), "memory": set()}
    for path, names in held.items():
        if path.startswith(f"{CREDENTIALS}/"):
            found["credentials"] |= names
        if path.startswith(TO_NETWORKMANAGER):
            found["memory"] |= names
    in_files = {name for name in stage.secrets.known if not name.endswith("its bytes")}
    assert found["credentials"] == in_files
    assert found["memory"] >= {"private key", "preshared key", "password", "passphrase"}


def _what_would_be_found(stage: Stage, evidence: Evidence, qube: AppVM, other: AppVM) -> None:
    """One leak after the other, each of another kind; each is found where it is."""
    known = stage.secrets.known
    encoded = base64.b64encode(f"--{known['password']}".encode()).decode()
    qube.run(["logger", f"connecting with {known['account']}"])
    qube.write("/var/log/salt-debug", encoded)
    qube.write("/run/lock/cache", known["preshared key"][:20])
    qube.write("/rw/config/vpn/tunnel.conf.old", known["private key"].encode().hex())
    other.write("/rw/config/leak-of-other", known["user"])
    qube.template.write("/etc/leak-of-template", known["inline key"])
    qube.template.stop()
    with evidence.sampler("mutant", qube):
        time.sleep(0.3)
        qube.run(["sh", "-c", "sleep 1; :", known["passphrase"]])
        qube.run(["env", f"LOGIN={known['tls-crypt key, line 3']}", "sleep", "1"])
    _journal(evidence, qube)
    leaks = _leaks(stage, evidence, qube)
    assert leaks.pop("journal_of_sys-vpn") == {"account"}
    assert leaks.pop("processes-mutant") == {"passphrase", "tls-crypt key, line 3"}
    assert leaks.pop("sys-vpn:/var/log/salt-debug") == {"password"}
    assert leaks.pop("sys-vpn:/run/lock/cache") == {"preshared key"}
    assert leaks.pop("sys-vpn:/rw/config/vpn/tunnel.conf.old") == {"private key"}
    # What is found from outside of the qubes, too: volumes, and what a template wrote.
    journal, outside = "sys-vpn:/run/log/journal/", {}
    for path, names in leaks.items():
        if path.startswith(journal):
            assert names == {"account"}
            continue
        outside[path.rpartition("/")[2]] = names
        stage.lab.room.path(f"/run/{path}").unlink()
    assert outside == {
        "leak-of-template": {"inline key"},
        "leak-of-other": {"user"},
        "tunnel.conf.old": {"private key"},
    }


# --- a VPN qube with the Mullvad app


def _with_app(template: Template) -> None:
    """A stand-in that knows any account: the number itself must not be in its program."""
    for path, source in PROGRAMS.items():
        text = source.read_text().replace("account not in ACCOUNTS", "len(account) != 16")
        template.write(path, text, 0o755)
    unit = "[Service]\nExecStart=/usr/bin/mullvad-daemon\n[Install]\nWantedBy=multi-user.target\n"
    template.write("/usr/lib/systemd/system/mullvad-daemon.service", unit)
    template.run("systemctl daemon-reload; systemctl enable mullvad-daemon")


@pytest.mark.slow
def test_an_account_number_stays_where_it_is(stage):
    """R30. What the state does, by the core alone; first the app takes the number for wrong."""
    evidence = stage.evidence("mullvad")
    template = _template(stage.lab, "t-mullvad")
    _with_app(template)
    template.stop()
    qube = stage.lab.appvm("sys-mullvad", template, services=["qubes-vpn"])
    qube.start()
    for path in (formula_root() / "_utils").glob("*.py"):
        qube.write(f"/home/core/{path.name}", path.read_text())
    account = stage.secrets.known["account"]
    with evidence.sampler("mullvad", qube):
        _plant(stage, qube, {"mullvad-account": f"{account}0\n"})
        assert "Mullvad knows no account" in _app(evidence, qube)
        _plant(stage, qube, {"mullvad-account": f"{account}\n"})
        assert '"new": "logged in"' in _app(evidence, qube, "dry")
        assert '"new": "logged in"' in _app(evidence, qube)
        assert "account" not in _app(evidence, qube)
        qube.run("systemctl restart mullvad-daemon")
        _say(evidence, qube, "mullvad status")
        _journal(evidence, qube)
    held = _inside(stage, qube)
    leaks = _leaks(stage, evidence, qube)
    assert (leaks, _modes(qube, CREDENTIALS)) == ({}, [])
    for place in (f"{CREDENTIALS}/mullvad-account", "/rw/bind-dirs/etc/mullvad-vpn/device.json"):
        assert held[place] == {"account"}, held
    with evidence.sampler("leak", qube):
        qube.run(["mullvad", "account", "login", account], check=False)
        qube.run(["sh", "-c", "sleep 0.5; :", account])
    assert evidence.leaks() == {"processes-leak": {"account"}}


def _app(evidence: Evidence, qube: AppVM, *words: str) -> str:
    done = qube.run(["python3", "-c", _APPLY, *words], timeout=180)
    evidence.note("mullvad state", done)
    return done.stdout


_APPLY = """
import json, sys
sys.path.insert(0, "/home/core")
import qubes_vpn_mullvad, qubes_vpn_mullvad_pillar
settings = qubes_vpn_mullvad_pillar.settings(None, None)
print(json.dumps(qubes_vpn_mullvad.apply(settings, True, "dry" in sys.argv)))
"""


# --- all of it by Salt


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("marked")
def test_salt_tells_nobody(stage, tmp_path):
    """The SLS by salt-ssh, logging at `debug`: in the templates, in both kinds of VPN qube."""
    evidence = stage.evidence("salt")
    lab = stage.lab
    salt = Salt(tmp_path / "master", log_level="debug")
    relay = ["45.83.223.196:443/tcp", "203.0.113.1:51820/udp"]
    pillars = {
        "salt": {"tunnels": {"sys-salt": OPENVPN | {"template": "t-salt"}}},
        "app": {"tunnels": {"sys-app": {"kind": "mullvad", "template": "t-app"}}},
    }
    pillars["app"]["tunnels"]["sys-app"]["endpoints"] = relay
    templates = {name: lab.template(name) for name in ("t-salt", "t-app")}
    for template in templates.values():
        template.install(["--no-install-recommends", *PACKAGES])
    _with_app(templates["t-app"])
    with evidence.sampler("master"):
        for template in templates.values():
            _applied(evidence, salt, template, pillars, "state.sls")
            template.stop()
        services = ["qubes-vpn", "network-manager"]
        qubes = [
            lab.appvm(f"sys-{name}", templates[f"t-{name}"], services=services)
            for name in ("salt", "app")
        ]
        for qube in qubes:
            qube.start()
            with evidence.sampler(qube.name, qube):
                _plant(stage, qube, stage.files)
                for function in ("state.sls test=True", "state.sls", "state.sls", "state.show_sls"):
                    last = _applied(evidence, salt, qube, pillars, function)
                assert f"{qube.name}: " in last
                # What fails is told as well.
                qube.write(f"{CREDENTIALS}/one.ovpn", stage.broken["words.ovpn"], 0o600)
                qube.write(f"{CREDENTIALS}/two.ovpn", stage.broken["inline.ovpn"], 0o600)
                assert "BEGIN" not in _applied(evidence, salt, qube, pillars, "state.sls")
                _journal(evidence, qube)
    leaks = _leaks(stage, evidence, *qubes)
    assert (leaks, stage.secrets.grep([tmp_path])) == ({}, {})


@pytest.mark.slow
def test_a_state_that_tells_the_profile_is_found(stage, qube, tmp_path):
    """In what Salt prints."""
    evidence = stage.evidence("mutant")
    salt = Salt(tmp_path / "master", log_level="debug")
    _mutant(salt.dom0.srv / "salt/_states")
    _plant(stage, qube, stage.files)
    _applied(evidence, salt, qube, {"vpn": {"tunnels": {"sys-vpn": OPENVPN}}}, "state.sls")
    told = {"inline key", "tls-crypt key, line 0"}
    assert told <= evidence.leaks()["sys-vpn_state.sls"]


def _applied(evidence: Evidence, salt: Salt, qube: Any, pillars: Any, function: str) -> str:
    salt.give(pillars[qube.name.rpartition("-")[2]])
    name, *words = function.split()
    done = salt.call(qube, name, SLS, *words)
    evidence.note(f"{qube.name} {function}", done)
    return done.stdout


def _mutant(states: Path) -> None:
    text = (states / "qubes_vpn_vm.py").read_text()
    old = '    ret = {"name": name, "changes": {}, "result": False, "comment": ""}\n    settings ='
    assert old in text
    told = f'"changes": {{"profile": open("{CREDENTIALS}/" + profile).read()}}'
    new = old.replace('"changes": {}', told)
    new = new.replace("    settings =", "    return ret\n    settings =")
    (states / "qubes_vpn_vm.py").write_text(text.replace(old, new))
