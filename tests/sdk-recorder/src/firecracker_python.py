"""firecracker-python: one VM from its creation to its deletion. The folder is the argument.

Left out is what has nothing to do with the VMM: Docker, the machine's public address, its firewall.
"""

import subprocess
import sys

import docker

folder = sys.argv[1].rstrip("/")
# It asks for the interface of the default route.
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["ip", "route", "add", "default", "dev", "lo"], check=True)
docker.from_env = lambda: None

import firecracker.microvm as microvm
from firecracker.config import MicroVMConfig
from firecracker.network import NetworkManager

# Where its files and the program are is no argument of anything but this.
defaults = list(MicroVMConfig.__init__.__defaults__)
defaults[:3] = [f"{folder}/vms", f"{folder}/bin/firecracker", f"{folder}/snapshots"]
MicroVMConfig.__init__.__defaults__ = tuple(defaults)
microvm.get_public_ip = lambda: "192.0.2.1"
microvm.generate_id = lambda: "recorded"
for name in ["add_nat_rules", "create_masquerade", "delete_nat_rules", "delete_masquerade", "delete_all_port_forward"]:
    setattr(NetworkManager, name, lambda *_arguments: True)

vm = microvm.MicroVM(
    name="one",
    kernel_file=f"{folder}/kernel",
    base_rootfs=f"{folder}/disk",
    vcpu=1,
    memory=128,
    ip_addr="172.16.0.2",
    mmds_enabled=True,
    user_data="#cloud-config\n",
    vsock_enabled=True,
    vsock_guest_cid=3,
)


def expect(answer, words):
    if words not in str(answer):
        sys.exit(f"expected {words!r}, not {answer!r}")


expect(vm.create(), "created")
expect(vm.config(), "boot-source")
expect(vm._vmm.get_vmm_state("recorded"), "Running")
expect(vm._vmm.get_vmm_ip_addr("recorded"), "172.16.0.2")
expect(vm.pause(), "paused")
expect(vm._vmm.get_vmm_state("recorded"), "Paused")
expect(vm.resume(), "resumed")
expect(vm.list(), "recorded")
expect(vm.delete(), "is deleted")
