# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's qrexec policy for templates' updates: who serves them, and the formula's own file of it.

A template has no netvm.  Its package manager asks qrexec for the service ``qubes.UpdatesProxy`` of
no qube in particular, and the policy names the qube that fetches.  The rules are those of all files
of both folders, by name, the first that matches (qubes-core-qrexec, ``qrexec/policy/parser.py``;
R4.2 and R4.3 alike): ``30-qubes-vpn.policy`` goes before the user's ``30-user.policy``, before
``50-config-updates.policy`` of Qubes' settings and before Qubes' defaults in ``90-default.policy``.
"""

import contextlib
import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import qubes_vpn_told

FILE = "30-qubes-vpn.policy"
#: Another one of the formula's: no qube calls another's services.
SERVICES_FILE = "30-qubes-vpn-services.policy"
SERVICE = "qubes.UpdatesProxy"
#: The tag by which Whonix' templates are known: they update over Tor and by nothing else.
WHONIX = "whonix-updatevm"
_OURS = "## Written by qubes-vpn-formula"
_HEADER = f"""\
{_OURS} (qubes_vpn.updates.templates in the pillar).
## Put rules of your own into another file: this one is written anew. The first match counts.
"""
#: Both folders hold the whole policy; of two files of one name the first counts.
_FOLDERS = ("run/qubes/policy.d", "etc/qubes/policy.d")
#: Policy as of R4.0, which ``!compat-4.0`` reads.
_OLD_FOLDER = "etc/qubes-rpc/policy"
_CHECKER = "usr/bin/qubes-policy-lint"


#: What :meth:`Policy.lines` gives of a policy that cannot be read; its line is no rule.
NOT_READABLE = {"not-readable.policy": ["!not-readable"]}
#: Files that Qubes comes with or writes: what another one says is the user's own.
_SHIPPED = re.compile(r"(50|80|90)-.*\.policy")
_UUID = "uuid:"
_NAME = r"[a-zA-Z][a-zA-Z0-9_.-]*"
#: What a rule's source can be, and where a call can be sent (qrexec/policy/parser.py).
_SOURCE = re.compile(
    rf"\*|@anyvm|@adminvm|@dispvm|@(type|tag):[a-zA-Z0-9_.-]+|@dispvm:\S+|{_UUID}[0-9a-f-]+|{_NAME}"
)
_SERVER = re.compile(rf"@adminvm|(@dispvm:)?({_UUID}[0-9a-f-]+|{_NAME})")
#: Targets of a rule for a call that names none.
_NOBODY_ELSE = ("@default", "@anyvm", "*")
#: The lines that :func:`text` writes, whoever serves.
_LINE = re.compile(
    rf"{re.escape(SERVICE)} \* (@tag:{WHONIX}|@type:TemplateVM)"
    rf" (@default allow target={_NAME}|@anyvm deny)"
)


def services_text():
    """The text of ``SERVICES_FILE``.  dom0's own calls ask no policy."""
    services = (f"{qubes_vpn_told.PREFIX}{name}" for name in qubes_vpn_told.SERVICES)
    return f"{_OURS}: only dom0 calls these.\n" + "".join(
        f"{service} * @anyvm * deny\n" for service in services
    )


class NotPolicy(Exception):
    """The policy cannot be read, or is not what it has to be: the text says why."""


class Rule(NamedTuple):
    """One rule.  *where*: file and line.  *service*, *argument*: ``*`` for any."""

    source: str
    target: str
    action: str
    redirect: str | None
    where: str
    service: str = SERVICE
    argument: str = "*"

    def text(self):
        """The line, without what does not count here."""
        option = "default_target" if self.action == "ask" else "target"
        redirect = f" {option}={self.redirect}" if self.redirect else ""
        call = f"{self.service} {self.argument}"
        return f"{call} {self.source} {self.target} {self.action}{redirect}"

    def is_for(self, name, klass, tags):
        """Whether it is for calls of the qube *name*, of class *klass*, which has *tags*."""
        if self.source in (name, "*", "@anyvm", f"@type:{klass}"):
            return True
        return self.source.startswith("@tag:") and self.source.removeprefix("@tag:") in tags


class Answer(NamedTuple):
    """Who serves a template: *qube*, or None when nobody does, and *where* that is said.

    *action*: that rule's; *by_name*: whether it is for this template alone.
    """

    qube: str | None
    where: str | None
    action: str = "deny"
    by_name: bool = False

    def same(self, other):
        """Whether a template gets the same answer by another rule."""
        return (self.qube, self.action) == (other.qube, other.action)

    def forbids(self, other):
        """Whether *other* must not take this one's place: a deny, or the user's own choice."""
        if self.where is None or self.same(other):
            return False
        file = Path(self.where.rpartition(":")[0]).name
        chosen = self.by_name and not _SHIPPED.fullmatch(file)
        return chosen or (self.action == "deny" and other.action != "deny")

    def shown(self):
        """In words."""
        return f"{self.qube or 'nobody'}{' when asked' if self.action == 'ask' else ''}"


def text(proxy, whonix_gateway):
    """The file's text: *proxy* (None: nobody) serves templates, and the gateway those of Whonix."""
    lines = [
        f"@tag:{WHONIX} @default allow target={whonix_gateway}",
        f"@tag:{WHONIX} @anyvm deny",
        f"@type:TemplateVM @default allow target={proxy}" if proxy else None,
        "@type:TemplateVM @anyvm deny",
    ]
    return _HEADER + "".join(f"{SERVICE} * {line}\n" for line in lines if line)


def answer(rules, name, klass, tags):
    """The :class:`Answer` to template *name*, which has *tags* and calls nobody in particular."""
    for rule in rules:
        if rule.target not in _NOBODY_ELSE:
            continue
        if rule.is_for(name, klass, tags):
            qube = rule.redirect if rule.action != "deny" else None
            return Answer(qube, rule.where, rule.action, rule.source == name)
    return Answer(None, None)


def about_updates(service, argument):
    """Whether a rule for such calls counts for templates' updates."""
    return service in (SERVICE, "*") and argument in ("*", "+")


def about_ours(service, _argument=None):
    """Whether it counts for the formula's own services."""
    return service == "*" or service.startswith(qubes_vpn_told.PREFIX)


def _about_either(service, argument):
    return about_updates(service, argument) or about_ours(service)


def is_directive(line):
    """Whether a line of policy is no rule, and says what else is to be read."""
    return line.lstrip().startswith("!")


def of_lines(lines, about=about_updates):
    """The rules of what :meth:`Policy.lines` gave, which may be somebody else's machine.

    NotPolicy when it could not be read there, or names files, which would be the reader's.
    """
    if lines == NOT_READABLE:
        raise NotPolicy("it could not be read there")
    for name in sorted(lines):
        if any(map(is_directive, lines[name])):
            raise NotPolicy(f"{name}: it names other files, which are not in an inventory")
    reader = Policy(about=about)
    return [
        rule
        for name in sorted(lines)
        for rule in reader._file(Path(name), Path(), "\n".join(lines[name]))
    ]


class Policy:
    """The policy files below *root* (a folder; in dom0 ``/``).

    named: called with a uuid (R4.3 takes ``uuid:...`` for a name), it gives the name, or None.
    file: the name of ours.  about: which rules count, by service and argument.
    """

    def __init__(self, root="/", named=lambda _: None, file=FILE, about=about_updates):
        self.root = Path(root)
        self._named, self._about = named, about
        self.path = self.root / _FOLDERS[-1] / file

    def current(self):
        """Our file's text; None when there is none.  NotPolicy when it is not ours."""
        try:
            found = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise NotPolicy(f"{self.path} cannot be read: {error}") from error
        if not found.startswith(_OURS):
            raise NotPolicy(
                f"{self.path} is not the formula's: it does not begin with '{_OURS}'. Rename it; "
                "until then it stays as it is"
            )
        return found

    def added(self):
        """Where our file has a line that is not of ours, ``file:line``; None: nowhere."""
        for number, line in enumerate((self.current() or "").splitlines(), 1):
            if line.strip() and line not in _HEADER.splitlines() and not _LINE.fullmatch(line):
                return f"{self.path}:{number}"
        return None

    def rules(self, ours=()):
        """The rules that count, in order.

        ours: a text in place of what our file has, None if it is not to be there.

        Raises NotPolicy when there is something in it that cannot be read.
        """
        return [rule for _, found in self.files(ours) for rule in found]

    def files(self, ours=()):
        """The same by file: ``[(name, rules)]``."""
        files = {}
        try:
            for folder in _FOLDERS:
                for path in sorted((self.root / folder).glob("*.policy")):
                    if path.is_file() and not path.name.startswith("."):
                        files.setdefault(path.name, path)
            given = {}
            if ours != ():
                files.setdefault(FILE, self.path)  # one of that name in /run would go first
                given = {self.path: ours or ""}
            return [
                (name, self._file(path, path.parent, given.get(path)))
                for name, path in sorted(files.items())
            ]
        except (OSError, UnicodeDecodeError) as error:
            raise NotPolicy(f"dom0's qrexec policy cannot be read: {error}") from error

    def lines(self):
        """All that counts for updates or our services, ``{name: [line]}``; our own files whole.

        When there is something that cannot be read, or they include others, a line that cannot be
        read either.
        """
        every = Policy(self.root, self._named, about=_about_either)
        try:
            found = {name: [rule.text() for rule in rules] for name, rules in every.files()}
        except NotPolicy:
            return NOT_READABLE
        for name in (FILE, SERVICES_FILE):
            with contextlib.suppress(NotPolicy):
                if (ours := Policy(self.root, file=name).current()) is not None:
                    found[name] = ours.splitlines()
        lines = (line for ours in (FILE, SERVICES_FILE) for line in found.get(ours, ()))
        return NOT_READABLE if any(map(is_directive, lines)) else found

    def write(self, new):
        """Makes *new* our file's text, at once; None removes it.

        NotPolicy when it cannot be, or dom0's own checker refuses it.
        """
        if new is None:
            self._remove()
            return
        draft = self.path.with_name(f".{self.path.name}.new")  # a hidden file is no policy
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # dom0's user may write to this folder, too: a link that is there is not followed.
            draft.unlink(missing_ok=True)
            with draft.open("x", encoding="utf-8") as file:
                file.write(new)
                file.flush()
                os.fsync(file.fileno())
            draft.chmod(0o644)
            self._check(draft)
            draft.replace(self.path)
        except OSError as error:
            raise NotPolicy(f"{self.path} cannot be written: {error}") from error
        finally:
            with contextlib.suppress(OSError):  # where nothing can be written, there is no draft
                draft.unlink(missing_ok=True)

    def _remove(self):
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise NotPolicy(f"{self.path} cannot be removed: {error}") from error

    def _check(self, draft):
        checker = self.root / _CHECKER
        if not checker.exists():
            return  # what the text says was read back by `answer` already
        done = subprocess.run([checker, draft], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotPolicy(f"{checker} refuses the policy: {done.stdout or done.stderr}")

    def _file(self, path, folder, given=None, call=None, depth=0):
        """The rules of one file.  *call*: service and argument of an ``!include-service``."""
        if depth > 8:
            raise NotPolicy(f"{path}: files that include each other")
        lines = (path.read_text(encoding="utf-8") if given is None else given).splitlines()
        found = []
        for number, line in enumerate(lines, 1):
            if call:
                line = _modern(line)
            words, where = line.split(), f"{path}:{number}"
            if not words or words[0].startswith("#"):
                continue
            if words[0].startswith("!"):
                found += self._directive(words, where, folder, call, depth + 1)
                continue
            words = [*call, *words] if call else words
            if len(words) < 5:
                raise NotPolicy(f"{where} is no rule")
            if self._about(*words[:2]):
                found.append(self._rule(words, where))
        return found

    def _rule(self, words, where):
        service, argument, source, target, action, *options = words
        if action not in ("allow", "ask", "deny"):
            raise NotPolicy(f"{where}: '{action}' is not known here")
        options = dict(option.partition("=")[::2] for option in options)
        redirect = options.get("target") or options.get("default_target")
        checked = [(source, _SOURCE)]
        if redirect and target in _NOBODY_ELSE:
            checked.append((redirect, _SERVER))
        for word, known in checked:
            if not known.fullmatch(word):
                raise NotPolicy(
                    f"{where}: '{word}' is not known here, so that nobody can say whom it is for. "
                    "Write the qube's name there"
                )
        names = [self._by_name(word) for word in (source, target, redirect)]
        return Rule(*names[:2], action, names[2], where, service, argument)

    def _by_name(self, word):
        before, uuid, number = (word or "").partition(_UUID)
        name = self._named(number) if uuid else None
        return before + name if name else word

    def _directive(self, words, where, folder, call, depth):
        kind, *rest = words
        if kind == "!include" and len(rest) == 1:
            return self._file(folder / rest[0], folder, call=call, depth=depth)
        if kind == "!include-dir" and len(rest) == 1:
            inside = sorted((folder / rest[0]).glob("*.policy"))
            return [rule for path in inside for rule in self._file(path, folder, depth=depth)]
        if kind == "!include-service" and len(rest) == 3:
            if not self._about(*rest[:2]):
                return []
            return self._file(folder / rest[2], folder, call=rest[:2], depth=depth)
        if kind == "!compat-4.0" and not rest:
            return self._compat(self.root / _OLD_FOLDER, depth)
        raise NotPolicy(f"{where}: '{kind}' is not known here")

    def _compat(self, folder, depth):
        """Of a folder of files, each for a service, or for one with an argument: those go first."""
        calls = {}
        for path in sorted(folder.glob("*"), reverse=True):
            service, plus, argument = path.name.partition("+")
            if path.is_file() and self._about(service, plus + argument or "*"):
                calls[path] = (service, plus + argument or "*")
        return [
            rule
            for path, call in calls.items()
            for rule in self._file(path, folder, call=call, depth=depth)
        ]


def _modern(line):
    """A line of the form that policy had in R4.0."""
    return line.replace("$include:", "!include ").replace("$", "@").replace(",", " ")
