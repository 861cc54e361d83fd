# SPDX-License-Identifier: GPL-2.0-or-later
"""The errors of the Admin API, by name, with the parents that the real client gives them.

Source of names and parents: qubesadmin/exc.py of qubes-core-admin-client 4.3.34. Errors of backups
and devices are left out; as an unknown class they arrive as QubesException.
"""


class QubesException(Exception):
    """Something qubesd refused. `message` is a %-format for `args`, as it comes over the wire."""

    def __init__(self, message: str, *args: str) -> None:
        super().__init__(message % tuple(int(arg) if arg.isdigit() else arg for arg in args))

    # Some are KeyErrors too, which would show their text in quotes.
    __str__ = Exception.__str__


class QubesVMNotFoundError(QubesException, KeyError):
    """No such qube."""


class QubesFeatureNotFoundError(QubesException, KeyError):
    """The feature is not set."""


class QubesTagNotFoundError(QubesException, KeyError):
    """The tag is not set."""


class QubesLabelNotFoundError(QubesException, KeyError):
    """No such label."""


class QubesVMInvalidUUIDError(QubesException):
    """Not a UUID of a qube."""


class QubesVMError(QubesException):
    """The qube's state does not allow it."""


class QubesVMInUseError(QubesVMError):
    """Something else uses the qube."""


class QubesVMNotStartedError(QubesVMError):
    """The qube is halted."""


class QubesVMNotRunningError(QubesVMNotStartedError):
    """The qube is halted or paused."""


class QubesVMNotPausedError(QubesVMNotStartedError):
    """The qube is not paused."""


class QubesVMNotSuspendedError(QubesVMError):
    """The qube is not suspended."""


class QubesVMNotHaltedError(QubesVMError):
    """The qube is not halted."""


class QubesVMShutdownTimeoutError(QubesVMError):
    """The qube did not halt in time."""


class QubesNoTemplateError(QubesVMError):
    """The qube's template is gone."""


class QubesMemoryError(QubesVMError, MemoryError):
    """Not enough memory to start."""


class QubesPoolInUseError(QubesException):
    """A qube uses the storage pool."""


class QubesValueError(QubesException, ValueError):
    """A value that cannot be set."""


class QubesPropertyValueError(QubesValueError):
    """A value that the property does not take."""


class QubesNoSuchPropertyError(QubesException, AttributeError):
    """No such property."""


class QubesNotImplementedError(QubesException, NotImplementedError):
    """qubesd cannot do this."""


class QubesNotesError(QubesException):
    """The qube's notes could not be read or written."""


class StoragePoolException(QubesException):
    """Storage failed."""


class ProtocolError(AssertionError):
    """A request that qubesd takes as malformed. 4.3.50 answers it empty; later ones by name."""


class PermissionDenied(Exception):
    """A request that qubesd's policy or checks refuse.

    4.3.50 answers it empty; later ones by name.
    """


class QubesDaemonCommunicationError(QubesException):
    """qubesd could not be reached, or its answer not understood."""


class QubesDaemonAccessError(QubesDaemonCommunicationError):
    """qubesd answered nothing at all: it took the request as malformed or forbidden."""


QubesDaemonNoResponseError = QubesDaemonAccessError


class QubesPropertyAccessError(QubesDaemonAccessError, AttributeError):
    """The property could not be read or set; qubesd gave no reason, or the qube is gone."""

    def __init__(self, name: str) -> None:
        super().__init__("no access to property %s", name)
