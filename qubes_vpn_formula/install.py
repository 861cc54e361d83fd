# SPDX-License-Identifier: GPL-2.0-or-later
"""usage in dom0, as root: install.py BUNDLE | install.py --remove

Puts a bundle's files below /srv, where dom0's Salt finds them, and has Salt take the modules over;
and one command, to /usr/local/bin, which hands its words to these modules.
It travels in the bundle, and dom0 has Python's standard library alone:

    tar -xOf qubes-vpn.tar install.py | sudo python3 -I - qubes-vpn.tar
    sudo python3 -I /var/lib/qubes-vpn-formula/install.py --remove

All of the bundle is looked at before anything is written.  What an older bundle had put there and
this one does not have is removed.  What somebody else wrote is never lost: a changed file of the
formula's is kept aside, and a pillar that was changed since stays, with the new one beside it.
Whatever else is called /usr/local/bin/qubes-vpn stays, and there is no such command then.
Nothing is enabled, no state is run, and nothing of the network changes.

exit codes: 0 done; 1 done, but something is left to the user; 2 not done
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

#: What may be in a bundle.
NAMES = re.compile(
    r"LICENSE|install\.py|bin/qubes-vpn|pillar/qubes_vpn/init\.(sls|top)"
    r"|salt/qubes/(layout|network|tests)/"
    r"([a-z-]+\.(sls|jinja)|files/[a-z0-9-]+(\.[a-z]+)?|docs/[a-z-]+\.(md|example))"
    r"|salt/_(modules|states|utils)/qubes_vpn[a-z0-9_]*\.py"
)
#: Bytes of a bundle; the formula has 1.2 MB.
_LARGEST = 32 << 20
_SRV = Path("/srv")
#: The command's name in a bundle, and its place: where no package has anything.
_COMMAND, _COMMAND_PLACE = "bin/qubes-vpn", Path("/usr/local/bin/qubes-vpn")
_FILE_LISTS = Path("/var/cache/salt/minion/file_lists")
_OWN = Path("/var/lib/qubes-vpn-formula")
#: What is there of ours, as sha256sum writes it; see :func:`_known`.
_MANIFEST = _OWN / "installed"
_KEPT = _OWN / "kept"
_PACKAGE = "qubes-vpn-formula"
_ENABLE = "sudo qubesctl top.enable qubes_vpn pillar=True"


class Refused(Exception):
    """What the user has to put right first, in one sentence."""


def main(words):
    """Runs with the *words* after the program's name; returns the exit code."""
    os.umask(0o022)
    try:
        if len(words) != 1:
            raise Refused("usage: install.py BUNDLE | install.py --remove")
        return _remove() if words[0] == "--remove" else _install(words[0])
    except Refused as refused:
        print(refused, file=sys.stderr)
    except OSError as error:
        print(
            f"{error.filename}: {error.strerror}. See to it, and run this again.", file=sys.stderr
        )
    return 2


def _install(bundle):
    """Puts the files of the file *bundle* there."""
    members = read(bundle)
    if _packaged():
        raise Refused(
            f"The package {_PACKAGE} is installed, and has these files. Upgrade that, or remove "
            f"it first: sudo dnf remove {_PACKAGE}"
        )
    known = _known()
    wanted = {name: data for name, data in members.items() if name.startswith("salt/")}
    pillar = {name: data for name, data in members.items() if name.startswith("pillar/")}
    command = {name: data for name, data in members.items() if name == _COMMAND}
    told = []
    for data in list(command.values()):
        if _is_others(known.get(_COMMAND, set()) | {_sum(data)}):
            command = {}
            told.append(
                f"{_COMMAND_PLACE} was changed here, or is not from a bundle, and stays. For the "
                "formula's, move it away, and run this again; qubesctl qubes_vpn.NAME does the same"
            )
    for name in (*wanted, *pillar, *known):
        _look(_place(name))
    _tidy(known)
    # First: a package that takes the place of a killed run calls it.
    _write(_OWN / "install.py", members["install.py"], 0o644)
    # From here on, whatever a killed run leaves is known as ours to the next one.
    new = {name: {_sum(data)} for name, data in (wanted | pillar | command).items()}
    _write_known({name: known.get(name, set()) | new.get(name, set()) for name in known | new})
    changed = sum(_put(name, data, known, 0o644, told) for name, data in wanted.items())
    for name, data in command.items():
        _put(name, data, known, 0o755, told)
    gone = [name for name in known if name.startswith("salt/") and name not in wanted]
    removed = sum(_take(name, known, told) for name in gone)
    if _COMMAND in known and not command:
        gone.append(_COMMAND)
        _take_command(known)
    other = sum(_pillar(name, data, known, new, told) for name, data in pillar.items())
    _write_known({name: new.get(name) or known[name] for name in known | new if name not in gone})
    print(f"/srv/salt: {len(wanted)} files, {changed} of them new, {removed} old ones removed.")
    if pillar:
        print(f"/srv/pillar: {len(pillar)} files, {other} of them new.")
    _sync(told)
    for line in told:
        print(line, file=sys.stderr)
    print(f"Nothing is enabled. If it was not before: {_ENABLE}")
    return 1 if told else 0


def _remove():
    """Takes away what was installed; the pillar and the network stay as they are."""
    known = _known()
    if not known:
        raise Refused("No bundle is installed here.")
    told = []
    for name in known:
        _look(_place(name))
    _tidy(known)
    removed = sum(_take(name, known, told) for name in known if name.startswith("salt/"))
    if _COMMAND in known and not _take_command(known):
        told.append(f"{_COMMAND_PLACE} was changed here, and stays.")
    print(f"/srv/salt: {removed} files removed. The pillar and the network stay as they are.")
    _MANIFEST.unlink()
    (_OWN / "install.py").unlink(missing_ok=True)
    if not any(_OWN.iterdir()):
        _OWN.rmdir()
    _sync(told)
    for line in told:
        print(line, file=sys.stderr)
    return 1 if told else 0


def read(bundle):
    """``{name: bytes}`` of the file *bundle*; raises :class:`Refused` for what is no bundle."""
    path, members = Path(bundle), {}
    try:
        left = path.stat().st_size
        if left > _LARGEST:
            raise Refused(f"{bundle}: too large for a bundle. Get it again.")
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not NAMES.fullmatch(member.name) or member.type != tarfile.REGTYPE:
                    raise Refused(f"{bundle}: {member.name!a} is in no bundle. Nothing was done.")
                if member.name in members:
                    raise Refused(f"{bundle}: {member.name} is there twice. Get it again.")
                # What other headers say, tar and Python may read differently: who has looked at
                # the files by tar has then not seen what is installed.
                if member.offset_data - member.offset != tarfile.BLOCKSIZE:
                    raise Refused(f"{bundle}: headers that are in no bundle. Nothing was done.")
                if not 0 <= member.size <= left:
                    raise Refused(f"{bundle}: it is not whole. Get it again.")
                left -= member.size
                members[member.name] = tar.extractfile(member).read()
                if len(members[member.name]) != member.size:
                    raise Refused(f"{bundle}: it is not whole. Get it again.")
    # The last three: what Python's tarfile lets through of headers that nobody wrote.
    except (tarfile.TarError, ValueError, OverflowError, RecursionError):
        raise Refused(f"{bundle}: no bundle of qubes-vpn, or not whole. Get it again.") from None
    if not {"install.py", "salt/qubes/network/sys-vpn.sls"} <= set(members):
        raise Refused(f"{bundle}: no bundle of qubes-vpn, or not whole. Get it again.")
    return members


def _known():
    """``{name in a bundle: SHA-256 sums that ours had}`` of what was installed."""
    if not _MANIFEST.exists():
        return {}
    known = {}
    for line in _MANIFEST.read_text("utf-8", "replace").splitlines():
        found = re.fullmatch(r"([0-9a-f]{64})  (/\S+)", line)
        name = found and found[2].removeprefix(f"{_SRV}/")
        if name == str(_COMMAND_PLACE):
            name = _COMMAND
        if not name or not NAMES.fullmatch(name):
            raise Refused(f"{_MANIFEST}: not as it was written. Move it away, and run this again.")
        known.setdefault(name, set()).add(found[1])
    return known


def _write_known(known):
    lines = [f"{one}  {_place(name)}\n" for name in sorted(known) for one in sorted(known[name])]
    _write(_MANIFEST, "".join(lines).encode(), 0o600)


def _place(name):
    return _COMMAND_PLACE if name == _COMMAND else _SRV / name


def _is_others(sums):
    """Whether what is at the command's place is none of ours, of which these are the sums."""
    if _COMMAND_PLACE.is_symlink() or not _COMMAND_PLACE.is_file():
        return os.path.lexists(_COMMAND_PLACE)
    return _sum(_COMMAND_PLACE.read_bytes()) not in sums


def _look(path):
    """Refuses what this program would have to go through or over: links, folders, devices."""
    if path == _COMMAND_PLACE:
        return  # what is there, and is not ours, is left alone
    for folder in (one for one in path.parents if one.is_relative_to(_SRV)):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise Refused(f"{folder}: not a folder. Move it away, and run this again.")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise Refused(f"{path}: not a plain file. Move it away, and run this again.")


def _tidy(known):
    """Removes what a killed run had begun to write."""
    for name in known:
        for path in (_place(name), _beside(_place(name))):
            _part(path).unlink(missing_ok=True)


def _put(name, data, known, mode, told):
    """Writes a file; whether it was another before."""
    path = _place(name)
    if path.exists():
        there = path.read_bytes()
        if there == data and stat.S_IMODE(path.stat().st_mode) == mode:
            os.chown(path, 0, 0)
            return False
        if there != data and _sum(there) not in known.get(name, ()):
            _keep(name, there, told)
    _write(path, data, mode)
    return True


def _take(name, known, told):
    """Removes a file of ours, and folders that are empty then; whether it was there."""
    path = _SRV / name
    if not path.exists():
        return False
    there = path.read_bytes()
    if _sum(there) not in known[name]:
        _keep(name, there, told)
    path.unlink()
    for folder in path.parents:
        if folder == _SRV / "salt" or any(folder.iterdir()):
            break
        folder.rmdir()
    return True


def _take_command(known):
    """Removes the command; whether it is gone: somebody else's stays."""
    if _is_others(known[_COMMAND]):
        return False
    _COMMAND_PLACE.unlink(missing_ok=True)
    return True


def _keep(name, there, told):
    """A copy of what is no longer, or never was, a file of ours."""
    place = _KEPT / name
    number = 1
    while place.exists() and place.read_bytes() != there:
        number += 1
        place = _KEPT / f"{name}.{number}"
    _write(place, there, 0o600)
    told.append(f"/srv/{name} was not as it was installed. It is kept as {place}")


def _pillar(name, data, known, new, told):
    """Writes a file of the pillar, unless somebody has changed it; whether it was another."""
    path = _SRV / name
    there = path.read_bytes() if path.exists() else None
    if there in (None, data) or _sum(there) in known.get(name, ()):
        _write(path, data, 0o600)
        return there != data
    beside = _beside(path)
    _look(beside)
    _write(beside, data, 0o600)
    new[name] |= known.get(name, set())
    told.append(f"{path} was changed here, or not by a bundle, and stays. The new one is {beside}")
    return False


def _write(path, data, mode):
    """A whole file of root's, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _part(path)
    temporary.unlink(missing_ok=True)
    with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
        stream.write(data)
        os.fchown(stream.fileno(), 0, 0)
        os.fchmod(stream.fileno(), mode)
    temporary.replace(path)


def _beside(path):
    """Where a pillar goes when another one stays."""
    return path.with_name(f"{path.name}.new")


def _part(path):
    return path.with_name(f".{path.name}.part")


def _sum(data):
    return hashlib.sha256(data).hexdigest()


def _packaged():
    """Whether the RPM has put these files there."""
    try:
        done = subprocess.run(["rpm", "-q", _PACKAGE], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def _sync(told):
    """Has Salt look again: it keeps a list of files, and copies of the modules."""
    shutil.rmtree(_FILE_LISTS, ignore_errors=True)
    try:
        done = subprocess.run(
            ["qubesctl", "--dom0-only", "saltutil.sync_all"], capture_output=True, check=False
        )
        failed = done.returncode
    except OSError:
        failed = True
    if failed:
        told.append("Salt did not look at the modules again. Run: sudo qubesctl saltutil.sync_all")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
