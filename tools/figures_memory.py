"""The measuring part of tools/figures-memory; runs where VMs boot: figures_memory.py DIST FIXTURES MIB."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

dist, fixtures, memory = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.stdout.reconfigure(line_buffering=True)
work = tempfile.mkdtemp(prefix="figures-", dir="/var/lib/vial" if os.path.isdir("/var/lib/vial") else None)
HUGE = "/sys/kernel/mm/transparent_hugepage/enabled"
# The words are separated by what a kernel's command line leaves alone.
SCRIPT = "sleep 7;head -n 2 /proc/meminfo;echo @idle;sleep 1000".replace(" ", "${IFS}")
LIMIT_S = 300


def idle_mb(load, reports):
    """What the VM's process has as its share of the host's memory, and what its guest uses as it sees it; MB."""
    output = f"{work}/console"
    open(output, "w").close()
    # A block of one page: what Linux reports by itself is 2 MiB and larger.
    order = "page_reporting.page_reporting_order=0 " if reports else ""
    config = {
        "boot-source": {
            "kernel_image_path": f"{dist}/lib/vial/vmlinux",
            "initrd_path": f"{fixtures}/busybox.cpio",
            "load": load,
            "boot_args": f"console=hvc0 quiet panic=-1 {order}script={SCRIPT}",
        },
        "machine-config": {"vcpu_count": 1, "mem_size_mib": memory},
        "vial": {"console": {"output": output}},
    }
    if reports:
        config["balloon"] = {"amount_mib": 0, "deflate_on_oom": False, "free_page_reporting": True}
    with open(f"{work}/config", "w") as file:
        json.dump(config, file)
    vmm = subprocess.Popen([f"{dist}/lib/vial/vial-vmm", "--no-api", "--config-file", f"{work}/config"], stdin=subprocess.DEVNULL)
    try:
        by = time.monotonic() + LIMIT_S
        while "@idle" not in (said := open(output, errors="replace").read()):
            if vmm.poll() is not None or time.monotonic() > by:
                sys.exit(f"figures-memory: the VM did not come up; its console:\n{said}")
            time.sleep(0.2)
        share = int(re.search(r"^Pss:\s+(\d+)", open(f"/proc/{vmm.pid}/smaps_rollup").read(), re.M).group(1))
        total, free = (int(re.search(rf"{name}:\s+(\d+)", said).group(1)) for name in ("MemTotal", "MemFree"))
        return share / 1000, (total - free) / 1000
    finally:
        vmm.kill()
        vmm.wait()


if os.geteuid() != 0:
    sys.exit("figures-memory: the host's huge pages can be switched by root only; run it with sudo")
before = re.search(r"\[(\w+)\]", open(HUGE).read()).group(1)
print(f"An idle VM of {memory} MiB, MB: the share of its process (PSS), and what its guest uses as it sees it")
print(f"{'host huge pages':16}{'kernel':>8}{'reports':>9}{'PSS':>8}{'guest':>8}")
try:
    for huge in ("always", "never"):
        with open(HUGE, "w") as file:
            file.write(huge)
        for load in ("read", "map"):
            for reports in (False, True):
                share, used = idle_mb(load, reports)
                print(f"{huge:16}{load:>8}{'yes' if reports else 'no':>9}{share:>8.1f}{used:>8.1f}")
finally:
    with open(HUGE, "w") as file:
        file.write(before)
    shutil.rmtree(work)
