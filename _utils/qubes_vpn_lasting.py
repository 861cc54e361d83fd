# SPDX-License-Identifier: GPL-2.0-or-later
"""A switch that lasts: a tunnel's profiles exchanged in the file of dom0's pillar (R15, R67).

Which file that is, Salt is asked, and nobody guesses: its own renderer reads the pillar once more,
and names what it reads.  Before anything is written, the same renderer reads the new text in place
of the file, for dom0 and for the qube that has the tunnel.  Both get the pillar that is wanted, or
nothing is written.
"""

import contextlib
import copy
import fcntl
import logging
import os
import stat
from pathlib import Path

import salt.pillar
import yaml

import qubes_vpn_model
import qubes_vpn_pillaredit
from qubes_vpn_error import UserError
from qubes_vpn_problem import os_words

#: What Salt would evaluate before it reads the YAML.
_JINJA = ("{{", "{%", "{#")
#: Renderers that a first line ``#!...`` may name: of text without Jinja, the second makes the same.
_RENDERERS = {"yaml", "jinja", "yaml_jinja"}


class NotLasting(Exception):
    """The pillar's file cannot be changed: the text says why, without a full stop."""


class Edit:
    """What becomes of a file.

    path: of the file.  former: the profile that it has.  old, new: bytes, all of them.
    """

    def __init__(self, path, former, old, new):
        self.path, self.former, self.old, self.new = path, former, old, new

    def write(self):
        """Makes the file so, at once or not at all; raises :class:`NotLasting`."""
        try:
            self._write()
        except OSError as error:
            raise NotLasting(os_words(error)) from None

    def _write(self):
        place, name = os.path.split(self.path)
        # Salt takes no file for a pillar that does not end in .sls; the next one replaces what a
        # kill has left.
        part = f".{name}.part"
        folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # else another one's part may be put in place
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(part, flags, 0o600, dir_fd=folder), "wb") as file:
                try:
                    file.write(self.new)
                    file.flush()
                    _like(file.fileno(), self.path)
                    os.fsync(file.fileno())
                    if _read(self.path) != self.old:
                        raise NotLasting(f"{self.path} was changed in between")
                    os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
                except BaseException:
                    os.unlink(part, dir_fd=folder)
                    raise
            os.fsync(folder)
        finally:
            os.close(folder)


def edit(opts, grains, document, service, profile):
    """The :class:`Edit` by which *profile*, one of its others, becomes the *service*'s; no write.

    opts, grains: this minion's.  document: the ``qubes_vpn`` that it has from its pillar, and
    service: of the model of that.  Raises :class:`NotLasting`.
    """
    if opts.get("file_client") != "local":
        raise NotLasting("the pillar comes from a Salt master, and is changed there")
    minions = dict.fromkeys((opts["id"], service.home()))
    files = {minion: _expect(opts, grains, minion, document) for minion in minions}
    path = _file(files[opts["id"]], service.name)
    try:
        old = _read(path)
        if not os.access(Path(path).parent, os.W_OK):
            raise NotLasting(f"nothing can be written beside {path}")
        text = _text(path, old)
        new = qubes_vpn_pillaredit.exchange(text, service.name, profile)
    except OSError as error:
        raise NotLasting(os_words(error)) from None
    except UserError as error:
        raise NotLasting(f"{path}: {error.what}") from None
    if new.count("\n") != text.count("\n"):
        raise NotLasting(f"{path}: a profile is not written on one line")
    wanted = copy.deepcopy(document)
    tunnel = wanted["tunnels"][service.name]
    place = tunnel["profiles"].index(profile)
    tunnel["profile"], tunnel["profiles"][place] = profile, service.profile
    if problems := qubes_vpn_model.read(wanted)[1]:
        raise NotLasting(problems[0].text().removesuffix("."))
    new = old[: len(old) - len(text.encode())] + new.encode()  # a byte order mark stays
    for minion in minions:
        _expect(opts, grains, minion, wanted, path, new)
    return Edit(path, service.profile, old, new)


def _expect(opts, grains, minion, document, path=None, new=b""):
    """Salt renders this ``qubes_vpn`` for *minion*; with *new* as the file *path*, if there is one.

    Returns the files that it read.
    """
    pillar, files = _rendered(opts, grains, minion, path, new)
    if "_errors" in pillar:
        raise NotLasting(f"Salt could not render the pillar of {minion}")
    if pillar.get("qubes_vpn") == document:
        return files
    if path is None:
        raise NotLasting(f"Salt renders another pillar for {minion} than this run has")
    raise NotLasting(f"with {path} changed, {minion} would not get the pillar that is wanted")


def _rendered(opts, grains, minion, path, new):
    """``(pillar, files that Salt read for it)``, as `pillar.items` has it, also by ``--id``."""
    files = []
    with os.fdopen(os.memfd_create("pillar", os.MFD_CLOEXEC), "wb") as file:
        file.write(new)
        file.flush()
        # A copy: Salt writes the grains into it.
        compiler = salt.pillar.Pillar(
            {**opts}, {**grains, "id": minion}, minion, None, pillarenv=opts.get("pillarenv")
        )
        get_state = compiler.client.get_state

        def named(*args, **kwargs):
            found = get_state(*args, **kwargs)
            files.append(found.get("dest"))
            if path and found.get("dest") == path:
                found = {**found, "dest": f"/proc/self/fd/{file.fileno()}"}
            return found

        compiler.client.get_state = named
        with _without_warnings():
            return compiler.compile_pillar(), files


@contextlib.contextmanager
def _without_warnings():
    """Salt warns that what is in memory is not called as an SLS is; Jinja alone would ask."""
    log = logging.getLogger("salt.utils.templates")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _file(files, name):
    """Which of *files* has the tunnel *name*: the one, or there is no change."""
    found = [path for path in dict.fromkeys(files) if path and _may_have(path, name)]
    if not found:
        raise NotLasting(f"no file of the pillar has the tunnel {name} in plain YAML")
    if len(found) > 1:
        raise NotLasting(f"several files of the pillar have it: {', '.join(found)}")
    return found[0]


def _may_have(path, name):
    try:
        text = Path(path).read_bytes()
        if b"qubes_vpn" not in text:
            return False
        return name in yaml.safe_load(text)["qubes_vpn"]["tunnels"]
    except OSError as error:
        raise NotLasting(os_words(error)) from None
    except (yaml.YAMLError, ValueError):
        return True  # nobody knows
    except (KeyError, TypeError):
        return False


def _text(path, data):
    """The text of *data*, without a byte order mark; of a kind that can be edited."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NotLasting(f"{path} is no UTF-8 text") from None
    first = text.partition("\n")[0].strip()
    if first.startswith("#!") and not {*first[2:].strip().split("|")} <= _RENDERERS:
        raise NotLasting(f"{path} is for another renderer of Salt's: {first!a}")
    if any(mark in text for mark in _JINJA):
        raise NotLasting(f"{path} has Jinja, and what that makes of an edit nobody knows")
    try:
        anchors = [event for event in yaml.parse(text) if getattr(event, "anchor", None)]
    except yaml.YAMLError:
        raise NotLasting(f"{path} is no YAML") from None
    if anchors:
        line = anchors[0].start_mark.line + 1
        raise NotLasting(f"{path}:{line} has an anchor or alias: an edit may change another place")
    return text


def _read(path):
    """The bytes of a plain file that no link leads to; raises ``OSError``, :class:`NotLasting`."""
    if os.path.realpath(path) != os.path.normpath(path):
        raise NotLasting(f"{path} is a link, or behind one")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise NotLasting(f"{path} is no plain file")
        if found.st_nlink > 1:
            raise NotLasting(f"{path} has another name, which would keep the old text")
        return file.read()


def _like(file, path):
    """Gives the opened *file* the owner, mode and attributes of *path*."""
    found = Path(path).lstat()
    os.fchown(file, found.st_uid, found.st_gid)
    os.fchmod(file, stat.S_IMODE(found.st_mode))
    for key in os.listxattr(path, follow_symlinks=False):
        os.setxattr(file, key, os.getxattr(path, key, follow_symlinks=False))
