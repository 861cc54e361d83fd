# SPDX-License-Identifier: GPL-2.0-or-later
"""The connection to qubesd, and what goes over it in words."""

import contextlib

import qubesadmin
import qubesadmin.exc

from qubes_vpn_problem import without_secret

#: What clone_vm asks of the source.
_OF_SOURCE = (
    "admin.vm.feature.Get",
    "admin.vm.feature.List",
    "admin.vm.notes.Get",
    "admin.vm.tag.List",
    "admin.vm.volume.Info",
    "admin.vm.volume.List",
)
#: Set as a property's value: nobody's choice.
INHERITED = object()
#: What a call to qubesd can raise.  Two are no QubesException where qubesadmin has them (R4.3):
#: what later releases of qubesd answer to a request that they do not let pass.
_QUBESD = (
    qubesadmin.exc.QubesException,
    OSError,
    *(
        getattr(qubesadmin.exc, name)
        for name in ("ProtocolError", "PermissionDenied")
        if hasattr(qubesadmin.exc, name)
    ),
)


class Refused(Exception):
    """A step that is not possible or not safe: the text says why and what to do."""


class _Qubes(qubesadmin.Qubes):
    """A connection that knows which call was left without an answer."""

    def qubesd_call(self, dest, method, arg=None, *rest, **more):
        try:
            return super().qubesd_call(dest, method, arg, *rest, **more)
        except qubesadmin.exc.QubesDaemonAccessError as error:
            error.call = f"{method}{'+' + arg if arg else ''} on {dest}"
            raise


def connect():
    """A new ``qubesadmin.Qubes``; raises :class:`Refused` when there is no qubesd."""
    with in_words("dom0's qubesd does not answer"):
        return _Qubes()


def cloner(app_class):
    """A class of apps that call ``_created()`` right after a qube is created.

    What they ask of ``_source`` they ask once: two templates are often cloned from one.
    """

    class Cloner(app_class):
        _created = _source = None

        def __init__(self):
            super().__init__()
            self._known = {}

        def qubesd_call(self, dest, method, *rest, **more):
            asked = (dest, method, *rest[:1])
            if asked in self._known:
                return self._known[asked]
            answer = super().qubesd_call(dest, method, *rest, **more)
            if dest == self._source and method in _OF_SOURCE:
                self._known[asked] = answer
            if method.startswith("admin.vm.Create"):
                self._created()
            return answer

    return Cloner


def shown(value):
    """A value in words."""
    if value is INHERITED:
        return "inherited"
    return "none" if value is None else value


def meant(name):
    """The qube's name, or None, that *name* in a step's arguments means: `shown` backwards."""
    return None if name == "none" else name


def rules_text(rules):
    """A firewall list in words, without comments that look like a secret."""
    return "\n".join(without_secret(rule) for rule in rules)


def plain(value):
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


@contextlib.contextmanager
def in_words(text):
    """Turns what qubesadmin raises into :class:`Refused` with *text* in front."""
    try:
        yield
    except _QUBESD as error:
        raise Refused(f"{text}: {_reason(error)}") from error


def _reason(error):
    """Why qubesd refused: the reason behind it, where qubesadmin tells of no access alone."""
    behind = error
    if isinstance(error, qubesadmin.exc.QubesPropertyAccessError) and error.__context__:
        behind = error.__context__
    if hasattr(behind, "call"):
        return (
            f"qubesd gave no answer to {behind.call}. It took a value for malformed, or failed "
            "itself: 'sudo journalctl -u qubesd' in dom0 says which"
        )
    if isinstance(behind, qubesadmin.exc.QubesVMNotFoundError):
        return "there is no such qube any more. Run this again"
    return str(error).strip() or "qubesd gave no reason; 'sudo journalctl -u qubesd' in dom0 may"
