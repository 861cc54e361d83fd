# SPDX-License-Identifier: GPL-2.0-or-later
"""Every difference between Qubes OS R4.2 and R4.3 that this model knows, as data.

Compared: qubes-core-admin 4.2.39 and 4.3.50. A method that exists in one release only says so where
it is defined (`@method(..., only="4.3")`).
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """What one release does; the comment says what the other one does."""

    version: str
    classes: tuple[str, ...]
    name_pattern: re.Pattern  # R4.3 allows dots
    highest_port: int  # R4.2 lets 65536 through
    list_shows_uuid: bool  # admin.vm.List
    strict_destination: bool  # a badly formed name is an error of its own, uuid:... is understood
    strict_features: bool  # character sets of feature names and values, features nobody may set
    shutdown_in_use: str  # error class for a netvm or audiovm in use
    netvm_flag_matters: bool  # only providers look after clients; R4.2 does it for every qube
    defers_netvm_when_paused: bool
    typed_readonly: bool  # xid and stubdom_xid are int; R4.2 calls them str
    bootmodes: bool  # bootmode, appvm_default_bootmode
    device_policy: bool  # devices_denied, stubdom_uuid
    preload: bool  # preloaded disposables: is_preload, feature checks
    custom_persist: bool
    app_dispvm_services: bool  # service.app-dispvm.* may be long, and is hashed into QubesDB
    prohibit_start: bool
    revisions_may_be_off: bool  # revisions_to_keep -1
    ephemeral_needs_halt: bool
    failed_start_removes_any_disposable: bool  # R4.2: only with auto_cleanup
    pool_options_required: bool


RELEASES = {
    "4.3": Release(
        version="4.3",
        classes=("AdminVM", "AppVM", "DispVM", "RemoteVM", "StandaloneVM", "TemplateVM"),
        name_pattern=re.compile(r"[a-zA-Z][a-zA-Z0-9_.-]*"),
        highest_port=65535,
        list_shows_uuid=True,
        strict_destination=True,
        strict_features=True,
        shutdown_in_use="QubesVMInUseError",
        netvm_flag_matters=True,
        defers_netvm_when_paused=True,
        typed_readonly=True,
        bootmodes=True,
        device_policy=True,
        preload=True,
        custom_persist=True,
        app_dispvm_services=True,
        prohibit_start=True,
        revisions_may_be_off=True,
        ephemeral_needs_halt=False,
        failed_start_removes_any_disposable=True,
        pool_options_required=True,
    ),
    "4.2": Release(
        version="4.2",
        classes=("AdminVM", "AppVM", "DispVM", "StandaloneVM", "TemplateVM"),
        name_pattern=re.compile(r"[a-zA-Z][a-zA-Z0-9_-]*"),
        highest_port=65536,
        list_shows_uuid=False,
        strict_destination=False,
        strict_features=False,
        shutdown_in_use="QubesVMError",
        netvm_flag_matters=False,
        defers_netvm_when_paused=False,
        typed_readonly=False,
        bootmodes=False,
        device_policy=False,
        preload=False,
        custom_persist=False,
        app_dispvm_services=False,
        prohibit_start=False,
        revisions_may_be_off=False,
        ephemeral_needs_halt=True,
        failed_start_removes_any_disposable=False,
        pool_options_required=False,
    ),
}
