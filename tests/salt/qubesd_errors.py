# SPDX-License-Identifier: GPL-2.0-or-later
"""Every error that a call to qubesd can end with.

Source: qubes/exc.py of qubes-core-admin 4.2.39, 4.3.50 and 4.4.0.  4.2 and 4.3 answer empty where
4.4 names ProtocolError, PermissionDenied and what derives from them.
"""

ERRORS = [
    "QubesException",
    "QubesVMNotFoundError",
    "QubesVMInvalidUUIDError",
    "QubesVMAlreadyExistsError",
    "QubesVMError",
    "QubesVMInUseError",
    "QubesVMNotStartedError",
    "QubesVMNotRunningError",
    "QubesVMNotPausedError",
    "QubesVMCancelledPauseError",
    "QubesVMNotSuspendedError",
    "QubesVMNotHaltedError",
    "QubesVMShutdownTimeoutError",
    "QubesNoTemplateError",
    "QubesPoolInUseError",
    "QubesValueError",
    "QubesPropertyValueError",
    "QubesNoSuchPropertyError",
    "QubesNotImplementedError",
    "QubesMemoryError",
    "QubesFeatureNotFoundError",
    "QubesTagNotFoundError",
    "QubesLabelNotFoundError",
    "QubesLabelInUseError",
    "QubesNotesError",
    "StoragePoolException",
    "QubesVolumeCopyTokenNotFoundError",
    "QubesVolumeCopyInUseError",
    "QubesVolumeRevisionNotFoundError",
    "QubesPoolNotFoundError",
    "QubesVolumeNotFoundError",
    "QubesInvalidTagError",
    "ProtocolError",
    "PermissionDenied",
    "AnErrorOfALaterRelease",
    "QubesDaemonCommunicationError",  # the client's own: qubesd is not there
    "",  # no answer at all
]


def possible(error: str, method: str) -> bool:
    """Whether qubesd answers that to such a call: an attribute error only where one asks for one.

    qubesadmin's clone_vm takes it for a property that the copy does not have.
    """
    return error != "QubesNoSuchPropertyError" or ".property." in method
