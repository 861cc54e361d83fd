# SPDX-License-Identifier: GPL-2.0-or-later
"""Name servers in the lab's internet: real dnsdist with made-up answers and nothing behind it.

- `dnscrypt` and `doh` are a resolver qube's upstreams, on 443.  `doh` hands out a signed resolver
  list too: :data:`LIST_URL`.
- `plain` answers on 53 and 853 at every address there is, so that a question that gets out in clear
  is not only seen but answered, and a client that took that way would look as if it worked.  In the
  tunnels' own networks it is the resolver that a VPN provider has.

Each has an answer of its own, :data:`ANSWERS`, so that an answer tells who gave it.  Nothing is
installed on this machine: dnsdist is Debian 13's, unpacked (:mod:`qubes_vpn_formula.lab.debian`).
"""

import base64
import subprocess
import time
from pathlib import Path

from qubes_vpn_formula.lab import debian
from qubes_vpn_formula.lab.qube import CommandFailed, Process, Qube

ANSWERS = {
    "dnscrypt": "203.0.113.10",
    "doh": "203.0.113.20",
    "tunnel": "203.0.113.30",
    "plain": "203.0.113.66",
}
ADDRESSES = {"dnscrypt": "198.51.100.53", "doh": "198.51.100.54"}
LIST_URL = f"https://{ADDRESSES['doh']}/resolvers.md"
#: What providers have inside their tunnels.
_TUNNELS = "10.64.0.0/16"
_PACKAGES = ("dnsdist", "dnsperf", "minisign", "openssl")
_PROVIDER, _HOST = "2.dnscrypt-cert.lab.example", "doh.lab.example"
_SIX = "2001:db8::{}"
_DAY = 86400
_COMMON = """
setACL({"0.0.0.0/0", "::/0"})
setSecurityPollSuffix("")
-- A name that must not be there, by which dnscrypt-proxy knows a resolver that lies.
addAction("test.dnscrypt.", RCodeAction(DNSRCode.NXDOMAIN))
-- What every resolver knows.
addAction(AndRule{QNameRule("."), QTypeRule(DNSQType.NS)},
          SpoofRawAction("\\001a\\012root-servers\\003net\\000"))
"""
_STARTED = 10.0  # seconds


class Nameservers:
    """Certificates, keys and configurations below `folder`; nothing is served yet.

    ca: the certificate that a qube has to trust for `doh`.  stamps: by server.
    minisign_key: the public key of the list.  Raises :class:`debian.NotReachable`.
    """

    def __init__(self, folder: Path, internet: Qube) -> None:
        self._folder, self._internet = folder, internet
        self._tree = debian.tree("trixie", "nameservers", _PACKAGES)
        self._running: dict[str, Process] = {}
        self._now = int(time.time())
        self.ca = folder / "ca.crt"
        self._new_key("ca")
        words = "req -x509 -days 9 -key ca.key -out ca.crt -subj /CN=names.lab.example"
        self._tool("openssl", *words.split())
        self._new_key("doh")
        public = folder / "provider.public"
        self._lua(f'generateDNSCryptProviderKeys("{public}", "{folder}/provider.private")')
        self.stamps = {
            "dnscrypt": _stamp(1, f"{ADDRESSES['dnscrypt']}:443", public.read_bytes(), _PROVIDER),
            "doh": _stamp(2, f"{ADDRESSES['doh']}:443", b"", _HOST, "/dns-query"),
        }
        self._tool("minisign", "-G", "-W", "-p", "list.pub", "-s", "list.key")
        self.minisign_key = (folder / "list.pub").read_text().splitlines()[1]
        self.signed_list()

    def signed_list(self, *servers: str) -> tuple[str, str]:
        """A resolver list with these servers, by default all, and its .minisig."""
        names = servers or tuple(self.stamps)
        parts = [f"## lab-{name}\n\nMade up.\n{self.stamps[name]}\n" for name in names]
        return self.sign("\n\n".join(["# Resolvers of the lab\n", *parts]))

    def sign(self, text: str) -> tuple[str, str]:
        """Any text as a list, with a right signature."""
        file = self._folder / "resolvers.md"
        file.write_text(text)
        self._tool("minisign", "-S", "-s", "list.key", "-m", str(file))
        return text, Path(f"{file}.minisig").read_text()

    def serve(self, name: str, valid: tuple[int, int] = (-1, 1)) -> None:
        """(Re)starts a server.

        valid: days from now in which its certificate begins and ends.  It is the same certificate
        again for the same days: one that a proxy has fetched stays good.
        """
        self.vanish(name)
        begin, end = (self._now + days * _DAY for days in valid)
        config = self._folder / f"{name}.conf"
        config.write_text(_COMMON + getattr(self, f"_{name}")(begin, end))
        words = [*self._program("dnsdist"), "--supervised", "--disable-syslog", "-C", str(config)]
        with (self._folder / f"{name}.log").open("w") as log:
            self._running[name] = self._internet.popen(words, stdout=log, stderr=log)
        self._wait(name)

    def vanish(self, name: str) -> None:
        """A server that is gone without a word; nothing when it does not run."""
        if process := self._running.pop(name, None):
            process.kill()
            process.wait()

    def dnsperf(self) -> list[str]:
        """The first words of dnsperf's command line."""
        return self._program("dnsperf")

    def _dnscrypt(self, begin: int, end: int) -> str:
        pair = [self._folder / f"{begin}-{end}.{kind}" for kind in ("cert", "key")]
        key = ", ".join(f'"{path}"' for path in pair)
        private = f"{self._folder}/provider.private"
        valid = f"{begin}, {end}, DNSCryptExchangeVersion.VERSION2"
        if not pair[0].exists():
            self._lua(f'generateDNSCryptCertificate("{private}", {key}, {begin}, {valid})')
        return f"""
addDNSCryptBind("{ADDRESSES["dnscrypt"]}:443", "{_PROVIDER}", {key})
{_answer("dnscrypt")}"""

    def _doh(self, begin: int, end: int) -> str:
        self._certify("doh", begin, end)
        pair = f'"{self._folder}/doh.crt", "{self._folder}/doh.key"'
        pages = "".join(
            f'newDOHResponseMapEntry("^/{name}$", 200, [[{text}]]),'
            for name in ("resolvers.md", "resolvers.md.minisig")
            for text in [(self._folder / name).read_text()]
        )
        return f"""
addDOHLocal("{ADDRESSES["doh"]}:443", {pair},
    {{ "/dns-query", "/resolvers.md", "/resolvers.md.minisig" }})
getDOHFrontend(0):setResponsesMap({{ {pages} }})
{_answer("doh")}"""

    def _plain(self, begin: int, end: int) -> str:
        self._certify("doh", begin, end)
        pair = f'"{self._folder}/doh.crt", "{self._folder}/doh.key"'
        return f"""
for _, every in ipairs({{"0.0.0.0", "[::]"}}) do
    addLocal(every .. ":53")
    addTLSLocal(every .. ":853", {pair})
end
provider = newNMG()
provider:addMask("{_TUNNELS}")
{_answer("tunnel", "NetmaskGroupRule(provider, false)")}
{_answer("plain")}"""

    def _new_key(self, name: str) -> None:
        words = f"genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {name}.key"
        self._tool("openssl", *words.split())

    def _certify(self, name: str, begin: int, end: int) -> None:
        """A certificate for a time that need not be now."""
        names = f"DNS:{_HOST},IP:{ADDRESSES['doh']}"
        words = f"req -x509 -CA ca.crt -CAkey ca.key -key {name}.key -out {name}.crt -subj /CN=doh"
        when = [f"-not_before={_date(begin)}", f"-not_after={_date(end)}"]
        when = [word for pair in when for word in pair.split("=")]
        extensions = ["-addext", f"subjectAltName={names}", "-addext", "basicConstraints=CA:FALSE"]
        self._tool("openssl", *words.split(), *when, *extensions)

    def _wait(self, name: str) -> None:
        port = {"plain": 53}.get(name, 443)
        address = ADDRESSES.get(name, "0.0.0.0")  # noqa: S104 - as `ss` prints it
        words = ["ss", "-Hltn", f"sport = {port} and src = {address}"]
        until = time.monotonic() + _STARTED
        while not self._internet.run(words).stdout:
            if time.monotonic() > until or self._running[name].poll() is not None:
                log = (self._folder / f"{name}.log").read_text()
                raise CommandFailed(f"dnsdist {name} did not start: {log}")
            time.sleep(0.05)

    def _lua(self, text: str) -> None:
        """Lets dnsdist do something and end."""
        config = self._folder / "once.conf"
        config.write_text(f"{text}\n")
        self._tool("dnsdist", "--check-config", "-C", str(config))

    def _tool(self, name: str, *words: str) -> None:
        command = [*self._program(name), *words]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True)
        if done.returncode:
            raise CommandFailed(f"{name} {words}: {done.stdout}{done.stderr}")

    def _program(self, name: str) -> list[str]:
        return debian.command(self._tree, f"usr/bin/{name}")


def _answer(name: str, rule: str = "AllRule()") -> str:
    """Lines for addresses as an answer to a rule's questions; what else is asked is not there."""
    four = ANSWERS[name]
    return f"""addAction({rule}, SpoofAction({{"{four}", "{_SIX.format(four.split(".")[3])}"}}))
addAction({rule}, RCodeAction(DNSRCode.NOERROR))
"""


def _date(seconds: int) -> str:
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(seconds))


def _stamp(protocol: int, address: str, key: bytes, *names: str) -> str:
    """A server's stamp, as dnscrypt.info/stamps-specifications has it: no logs, no filter."""
    fields = [address.encode(), key, *(name.encode() for name in names)]
    data = bytes([protocol]) + (7).to_bytes(8, "little")
    data += b"".join(bytes([len(field)]) + field for field in fields)
    return "sdns://" + base64.urlsafe_b64encode(data).decode().rstrip("=")
