# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a toolstack writes into xenstore for a domain and its disks, and what it removes again.

The nodes, their order and their permissions are those of libxl's domain creation and device addition, without the ones
that only a real guest's kernel or a device model would use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from uuid import UUID

from gxl.simhost.domains import Kind
from gxl.simhost.tree import READ, Permission, Permissions


class Entry(NamedTuple):
    """One node to write."""

    path: str
    value: str
    permissions: Permissions


class DomainPlan(NamedTuple):
    """What the store needs to know of a new domain."""

    domid: int
    name: str
    uuid: UUID
    kind: Kind
    memory_kb: int
    vcpus: int


def domain_directory(domid: int) -> str:
    return f"/local/domain/{domid}"


def dom0() -> Iterator[Entry]:
    """What xen-init-dom0 writes at boot."""
    private = (Permission(0, 0),)
    yield Entry("/local/domain/0/domid", "0", private)
    yield Entry("/local/domain/0/name", "Domain-0", private)


def domain(plan: DomainPlan) -> Iterator[Entry]:
    """A new domain's own nodes."""
    directory, vm, libxl = domain_directory(plan.domid), f"/vm/{plan.uuid}", f"/libxl/{plan.domid}"
    private = (Permission(0, 0),)
    shown = (Permission(0, 0), Permission(plan.domid, READ))
    guests = (Permission(plan.domid, 0),)
    yield Entry(directory, "", shown)
    yield Entry(vm, "", shown)
    yield Entry(libxl, "", private)
    yield Entry(f"{libxl}/device", "", private)
    yield Entry(f"{directory}/vm", vm, shown)
    yield Entry(f"{directory}/name", plan.name, shown)
    for name in ("cpu", "memory", "device"):
        yield Entry(f"{directory}/{name}", "", shown)
    yield Entry(f"{directory}/control", "", shown)
    for name in ("shutdown", "feature-poweroff", "feature-reboot", "feature-suspend", "sysrq"):
        yield Entry(f"{directory}/control/{name}", "", guests)
    for name in ("data", "drivers", "feature", "attr", "error"):
        yield Entry(f"{directory}/{name}", "", guests)
    yield Entry(f"{vm}/uuid", str(plan.uuid), shown)
    yield Entry(f"{vm}/name", plan.name, shown)
    yield Entry(f"{libxl}/type", plan.kind.value, private)
    yield Entry(f"{directory}/memory/static-max", str(plan.memory_kb), shown)
    yield Entry(f"{directory}/memory/target", str(plan.memory_kb), shown)
    yield Entry(f"{directory}/domid", str(plan.domid), shown)
    for vcpu in range(plan.vcpus):
        yield Entry(f"{directory}/cpu/{vcpu}/availability", "online", shown)


def stub_domain(guest: int, stub: int) -> Iterator[Entry]:
    """That `stub` runs the device model of `guest`."""
    yield Entry(f"{domain_directory(guest)}/image/device-model-domid", str(stub), (Permission(0, 0),))
    yield Entry(f"{domain_directory(stub)}/target", str(guest), (Permission(0, 0), Permission(stub, READ)))


class DiskPlan(NamedTuple):
    """A disk of a domain; `devid` is the number that its name stands for."""

    domid: int
    vdev: str
    devid: int
    backend_type: str
    backend_domid: int
    target: str
    removable: bool

    @property
    def frontend(self) -> str:
        return f"{domain_directory(self.domid)}/device/vbd/{self.devid}"

    @property
    def backend(self) -> str:
        return f"{domain_directory(self.backend_domid)}/backend/{self.backend_type}/{self.domid}/{self.devid}"

    @property
    def record(self) -> str:
        """libxl's own copy, out of the guest's reach."""
        return f"/libxl/{self.domid}/device/vbd/{self.devid}"


def disk(plan: DiskPlan) -> Iterator[Entry]:
    """A disk that frontend and backend have both connected to.

    libxl itself writes no `dev` beside the frontend's other nodes, though its eject events take the disk's name from
    there; the frontend's directory belongs to the guest, and the simulated guest writes it.
    """
    front = (Permission(plan.domid, 0), Permission(plan.backend_domid, READ))
    back = (Permission(plan.backend_domid, 0), Permission(plan.domid, READ))
    private = (Permission(0, 0),)
    device_type = "cdrom" if plan.removable else "disk"
    backend_nodes = {
        "params": plan.target,
        "frontend-id": str(plan.domid),
        "online": "1",
        "removable": "1" if plan.removable else "0",
        "bootable": "1",
        "state": "4",
        "dev": plan.vdev,
        "type": plan.backend_type,
        "mode": "r" if plan.removable else "w",
        "device-type": device_type,
        "discard-enable": "0" if plan.removable else "1",
    }
    frontend_nodes = {
        "backend-id": str(plan.backend_domid),
        "state": "4",
        "virtual-device": str(plan.devid),
        "device-type": device_type,
        "trusted": "1",
        "dev": plan.vdev,
    }
    yield Entry(f"{plan.record}/frontend", plan.frontend, private)
    yield Entry(f"{plan.record}/backend", plan.backend, private)
    yield Entry(plan.frontend, "", front)
    yield Entry(f"{plan.frontend}/backend", plan.backend, front)
    for name, value in frontend_nodes.items():
        yield Entry(f"{plan.frontend}/{name}", value, front)
    yield Entry(plan.backend, "", back)
    yield Entry(f"{plan.backend}/frontend", plan.frontend, back)
    for name, value in backend_nodes.items():
        yield Entry(f"{plan.backend}/{name}", value, back)
    for name, value in backend_nodes.items():
        yield Entry(f"{plan.record}/{name}", value, private)


def remains(domid: int, uuid: UUID) -> list[str]:
    """What a toolstack removes when it destroys a domain, besides the backends of its devices."""
    return [f"/vm/{uuid}", domain_directory(domid), f"/libxl/{domid}"]
