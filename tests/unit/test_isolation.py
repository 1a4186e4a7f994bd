"""The words of isolation: what each option accepts, what it refuses, and how spec.json keeps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import rendering

from gear import isolation, tunables
from gear.errors import IntegrityError, UsageError
from gear.isolation import Isolation

Check = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("check", "text", "value"),
    [
        (isolation.capability, "net_admin", "CAP_NET_ADMIN"),
        (isolation.capability, "CAP_SYS_TIME", "CAP_SYS_TIME"),
        (isolation.capability, "all", "ALL"),
        (isolation.parse_device, "/dev/kvm", ("/dev/kvm", "/dev/kvm", "rwm")),
        (isolation.parse_device, "/dev/kvm:/dev/x", ("/dev/kvm", "/dev/x", "rwm")),
        (isolation.parse_device, "/dev/kvm:/dev/x:wr", ("/dev/kvm", "/dev/x", "rw")),
        (isolation.parse_device, "/dev/kvm:r", ("/dev/kvm", "/dev/kvm", "r")),
        (isolation.user_namespace, "auto", "auto"),
        (isolation.user_namespace, "host", "host"),
        (isolation.user_namespace, "200000", "200000:65536"),
        (isolation.user_namespace, "1000:1", "1000:1"),
        (isolation.user_namespace, "4294901759:65536", "4294901759:65536"),
        (tunables.parse_ulimit, "nofile=1024", ("nofile", "1024:1024")),
        (tunables.parse_ulimit, "nofile=1024:unlimited", ("nofile", "1024:infinity")),
        (tunables.parse_ulimit, "core=-1", ("core", "infinity:infinity")),
        (isolation.umask, "27", "0027"),
        (isolation.umask, "0", "0000"),
        (isolation.umask, "0777", "0777"),
        (isolation.timezone, "Etc/GMT+5", "Etc/GMT+5"),
        (isolation.timezone, "America/Argentina/Buenos_Aires", "America/Argentina/Buenos_Aires"),
        (isolation.timezone, "local", "local"),
        (tunables.sysctl_name, "net.ipv4.conf.eth0.rp_filter", "net.ipv4.conf.eth0.rp_filter"),
        (tunables.sysctl_name, "kernel.shm_rmid_forced", "kernel.shm_rmid_forced"),
        (tunables.sysctl_name, "fs.mqueue.msg_max", "fs.mqueue.msg_max"),
        (tunables.sysctl_name, "user.max_user_namespaces", "user.max_user_namespaces"),
        (tunables.oom_score, -1000, -1000),
        (isolation.systemd_mode, "always", "always"),
        (isolation.label, "level:s0:c100,c200", "level:s0:c100,c200"),
    ],
)
def test_good(check: Check, text: Any, value: Any) -> None:
    assert check(text) == value


@pytest.mark.parametrize(
    ("check", "text", "message"),
    [
        (isolation.capability, "NET_ADMINS", "'NET_ADMINS' is no capability."),
        (isolation.capability, "", "'' is no capability."),
        (isolation.parse_device, "kvm", "'kvm' is no device."),
        (isolation.parse_device, "/dev/a:b", "'/dev/a:b' is no device."),
        (isolation.parse_device, "/dev/a:/dev/b:rwm:x", "'/dev/a:/dev/b:rwm:x' is no device."),
        (isolation.parse_device, "/dev/a:/dev/b:rr", "'rr' is no access to a device."),
        (isolation.parse_device, "/dev/a:/proc/x", "No device can be put on /proc/x."),
        (isolation.parse_device, "/dev/a:/dev/../dev", "No device can be put on /dev."),
        (isolation.user_namespace, "0", "'0' is no range of user ids."),
        (isolation.user_namespace, "999", "'999' is no range of user ids."),
        (isolation.user_namespace, "1000:0", "'1000:0' is no range of user ids."),
        (isolation.user_namespace, "4294901760:65536", "'4294901760:65536' is no range of user ids."),
        (isolation.user_namespace, "keep-id", "'keep-id' is no range of user ids."),
        (isolation.user_namespace, "١٠٠٠", "'١٠٠٠' is no range of user ids."),
        (tunables.parse_ulimit, "files=1", "'files' is no resource limit."),
        (tunables.parse_ulimit, "nofile=2:1", "'2:1' is no value for the limit nofile."),
        (tunables.parse_ulimit, "nofile", "'' is no value for the limit nofile."),
        (tunables.parse_ulimit, "nofile=1:2:3", "'1:2:3' is no value for the limit nofile."),
        (isolation.umask, "8", "'8' is no umask."),
        (isolation.umask, "01777", "'01777' is no umask."),
        (isolation.timezone, "../etc/shadow", "'../etc/shadow' is no time zone."),
        (isolation.timezone, "/etc/shadow", "'/etc/shadow' is no time zone."),
        (isolation.timezone, "a\nb", "'a\\nb' is no time zone."),
        (tunables.sysctl_name, "kernel.panic", "kernel.panic is a setting of the whole machine, which no container "
         "may change."),
        (tunables.sysctl_name, "vm.swappiness", "vm.swappiness is a setting of the whole machine, which no container "
         "may change."),
        (tunables.sysctl_name, "kernel.hostname", "kernel.hostname is not set by --sysctl."),
        (tunables.sysctl_name, "net.../../kernel.panic", "'net.../../kernel.panic' is no kernel parameter."),
        (tunables.sysctl_name, "net", "'net' is no kernel parameter."),
        (tunables.oom_score, 1001, "1001 is no OOM score adjustment."),
        (tunables.oom_score, True, "True is no OOM score adjustment."),
        (isolation.systemd_mode, "true", "'true' is no choice for --systemd."),
        (isolation.label, "type:a b", "'type:a b' is no part of an SELinux label."),
        (isolation.apparmor, "a b", "'a b' can't name an AppArmor profile."),
    ],
)  # fmt: skip
def test_refused(check: Check, text: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(text)
    assert caught.value.message == message


def test_namespaces_are_private_or_the_hosts() -> None:
    assert isolation.namespace_mode("host", "--pid") == "host"
    with pytest.raises(UsageError) as caught:
        isolation.namespace_mode("container:db", "--pid")
    assert caught.value.message == "'container:db' is no choice for --pid."
    assert caught.value.hint is not None and "another container" in caught.value.hint


def test_security_options_are_dockers_and_podmans() -> None:
    found = isolation.security_options(
        ["no-new-privileges", "seccomp=unconfined", "apparmor:my", "label=type:t", "label=level:s0:c1",
         "mask=/proc/a:/sys/b", "unmask=/proc/*", "systempaths=unconfined"]
    )  # fmt: skip
    assert found == {
        "no_new_privileges": True,
        "seccomp": "unconfined",
        "apparmor": "my",
        "label": ("type:t", "level:s0:c1"),
        "mask": ("/proc/a", "/sys/b"),
        "unmask": ("/proc/*", "ALL"),
    }
    assert isolation.security_options(["no-new-privileges=false"])["no_new_privileges"] is False
    for wrong in (
        "seccomp",
        "no-new-privileges=1",
        "apparmor=",
        "label",
        "mask=",
        "systempaths=x",
        "x=y",
        "",
    ):
        with pytest.raises(UsageError):
            isolation.security_options([wrong])
    with pytest.raises(UsageError):
        isolation.security_options(["mask=proc/a"])


def test_spec_holds_only_what_differs() -> None:
    assert rendering.make_spec().to_mapping()["isolation"] == {}
    wanted = {"cap_drop": ["ALL"], "umask": "0027", "userns": "200000:1000"}
    found = rendering.make_spec(isolation=wanted, uid_base=200000)
    assert found.to_mapping()["isolation"] == wanted
    assert (found.id_count, found.own_ids) == (1000, True)
    assert found.isolation == Isolation(cap_drop=("ALL",), umask="0027", userns="200000:1000")


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"isolation": []}, "/isolation: not as expected (an object is wanted, not [])"),
        ({"isolation": {"x": 1}}, "/isolation/x: no such member"),
        ({"isolation": {"\0x": 1}}, "/isolation/'\\x00x': no such member"),
        ({"isolation": {"cap_add": ["X"]}}, "/isolation/cap_add: 'X' is no capability"),
        ({"isolation": {"privileged": 1}}, "/isolation/privileged: not as expected (true or false is wanted, not 1)"),
        ({"isolation": {"devices": [{}]}}, "/isolation/devices: not as expected ('kind')"),
        ({"isolation": {"init": "catatonit"}}, "/isolation/init: The reaper must be an absolute path in the "
         "container, not 'catatonit'"),
        ({"isolation": {"userns": "host"}}, "/uid_base: it is 0 for a container with the host's user ids"),
        ({"uid_base": 0}, "/uid_base: not as expected (0 can't begin a range of 65536 user ids)"),
        ({"isolation": {"userns": "200000:1"}}, "/uid_base: it is not that of the range 200000:1"),
    ],
)  # fmt: skip
def test_damaged(members: dict[str, Any], fault: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        rendering.make_spec(**members)
    assert caught.value.message == f"spec.json is damaged: {fault}."
