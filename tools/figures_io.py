"""The measuring part of tools/figures-io; runs where VMs boot: figures_io.py DIST FIXTURES SECONDS ROUNDS [WHAT…]."""
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

dist, fixtures, seconds, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
only = set(sys.argv[5:])
sys.stdout.reconfigure(line_buffering=True)
vmm, kernel = f"{dist}/lib/vial/vial-vmm", f"{dist}/lib/vial/vmlinux"
initrd = f"{fixtures}/busybox.cpio"
# The scratch disk: what is measured should meet a real file system, and O_DIRECT.
work = tempfile.mkdtemp(prefix="figures-", dir="/var/lib/vial" if os.path.isdir("/var/lib/vial") else None)
MEMORY_MIB, DISK_MIB, CID, PORT = 256, 512, 77, 5000
JOBS = {
    "4 KiB random reads": "--rw=randread --bs=4k --iodepth=32",
    "4 KiB random writes": "--rw=randwrite --bs=4k --iodepth=32",
    "1 MiB sequential reads": "--rw=read --bs=1m --iodepth=4",
    "1 MiB sequential writes": "--rw=write --bs=1m --iodepth=4",
}
# Words of a script on the kernel's command line are parted by ${IFS}, so it is short and goes on from the second disk.
MOUNT = "mount${IFS}-t${IFS}erofs${IFS}-o${IFS}ro${IFS}/dev/"
SCRIPT = f"{MOUNT}vdb${{IFS}}/tmp||{MOUNT}vda${{IFS}}/tmp;exec${{IFS}}sh${{IFS}}/tmp/guest"
GUEST = """
mount -t proc none /tmp/proc; mount -t sysfs none /tmp/sys; mount -t devtmpfs none /tmp/dev; mount -t tmpfs none /tmp/tmp
grep -q "^/dev/vda /tmp " /proc/mounts && ln -s vdb /dev/data || ln -s vda /dev/data
export PATH=/bin:/usr/bin:/sbin:/usr/sbin
ip link set lo up; ip addr add 10.99.0.2/24 dev eth0 && ip link set eth0 up
echo @ready
while read -r line; do
    [ "$line" = end ] && break
    chroot /tmp /bin/sh -c "$line" </dev/null 2>&1
    echo @done $?
done
poweroff -f
"""


def run(*command, **more):
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, **more).stdout


def tools():
    """A read-only disk with this machine's fio, iperf3 and socat and the libraries that they load."""
    root = f"{work}/tools"
    for folder in ("proc", "sys", "dev", "tmp", "bin"):
        os.makedirs(f"{root}/{folder}")
    programs = [shutil.which(name) for name in ("fio", "iperf3", "socat")]
    files = set(programs)
    for program in programs:
        files.update(re.findall(r"(/\S+) \(0x", run("ldd", program)))
    for file in files:
        os.makedirs(root + os.path.dirname(file), exist_ok=True)
        shutil.copy(os.path.realpath(file), root + file)
    shutil.copy(shutil.which("busybox"), f"{root}/bin/sh")
    with open(f"{root}/guest", "w") as file:
        file.write(GUEST)
    run("mkfs.erofs", f"{work}/tools.erofs", root)


def tap(name):
    run("ip", "tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr")
    run("ip", "addr", "add", "10.99.0.1/24", "dev", name)
    run("ip", "link", "set", name, "up")


class Guest:
    """A VM whose console is a shell; there is one at a time."""

    running = None

    def __init__(self, name):
        self.name = name
        tap("figures0")
        append = f"console=hvc0 quiet panic=-1 mitigations=off net.ifnames=0 script={SCRIPT}"
        command = self.command(append)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=open(f"{work}/errors", "a"), text=True, errors="replace")
        Guest.running = self.process
        self.until("@ready")
        progress(name, "is up")

    def until(self, word):
        lines = []
        for line in self.process.stdout:
            if word in line:
                return lines, line
            lines.append(line)
        with open(f"{work}/errors") as file:
            sys.exit(f"{self.name} ended before {word}: {''.join(lines[-40:])} {file.read()[-2000:]}")

    def ask(self, line):
        self.begin(line)
        lines, end = self.until("@done")
        return "".join(lines), int(end.split()[-1])

    def begin(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def exits(self):
        """VM exits so far, by KVM's own count, which knows those that never reach the process."""
        base = "/sys/kernel/debug/kvm"
        folders = [entry for entry in os.listdir(base) if entry.startswith(f"{self.process.pid}-")]
        with open(f"{base}/{folders[0]}/exits") as file:
            return int(file.read())

    def private_mib(self):
        """Private memory of the process that is not the guest's: mappings that are smaller than that."""
        total = size = 0
        with open(f"/proc/{self.process.pid}/smaps") as file:
            for line in file:
                if line.startswith("Size:"):
                    size = int(line.split()[1])
                elif line.startswith("Anonymous:") and size < (MEMORY_MIB << 10) - 4096:
                    total += int(line.split()[1])
        return total / 1024

    def end(self):
        self.begin("end")
        self.process.stdout.read()
        self.process.wait()
        self.process.stdin.close()
        run("ip", "link", "del", "figures0")


class Vial(Guest):
    def __init__(self, name, drive=None, interface=None):
        self.drive, self.interface = drive or {}, interface or {}
        super().__init__(name)

    def command(self, append):
        for path in (f"{work}/vsock",):
            if os.path.exists(path):
                os.unlink(path)
        config = {
            "boot-source": {"kernel_image_path": kernel, "initrd_path": initrd, "boot_args": append},
            "machine-config": {"vcpu_count": 1, "mem_size_mib": MEMORY_MIB},
            "drives": [
                {"drive_id": "data", "path_on_host": f"{work}/disk", "cache_type": "Writeback", "direct": True, **self.drive},
                {"drive_id": "tools", "path_on_host": f"{work}/tools.erofs", "is_read_only": True, "io_engine": "Sync"},
            ],
            "network-interfaces": [{"iface_id": "eth0", "host_dev_name": "figures0", **self.interface}],
            "vsock": {"guest_cid": CID, "uds_path": f"{work}/vsock"},
            "vial": {"console": {"input": "/dev/stdin", "output": "/dev/stdout"}},
        }
        with open(f"{work}/config.json", "w") as file:
            json.dump(config, file)
        return [vmm, "--no-api", "--config-file", f"{work}/config.json"]

    def connect(self):
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(f"{work}/vsock")
        stream.sendall(f"CONNECT {PORT}\n".encode())
        # Refused is closed.
        while (byte := stream.recv(1)) != b"\n":
            if not byte:
                raise ConnectionRefusedError
        return stream


class Qemu(Guest):
    """microvm with an I/O thread, io_uring, vhost-net and vhost-vsock: all that it has."""

    def __init__(self, name, direct="on"):
        self.direct = direct
        super().__init__(name)

    def command(self, append):
        disk = f"driver=raw,cache.direct={self.direct},file.driver=file,file.aio=io_uring"
        return ["qemu-system-x86_64", "-M", "microvm,acpi=on,rtc=off,pit=off,pic=off,isa-serial=off", "-accel", "kvm", "-cpu", "host",
                "-m", str(MEMORY_MIB), "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-kernel", kernel, "-initrd", initrd, "-append", append,
                "-object", "iothread,id=io0",
                "-blockdev", f"{disk},node-name=data,file.filename={work}/disk",
                "-device", "virtio-blk-device,drive=data,iothread=io0",
                "-blockdev", f"driver=raw,read-only=on,node-name=tools,file.driver=file,file.filename={work}/tools.erofs",
                "-device", "virtio-blk-device,drive=tools",
                "-netdev", "tap,id=net0,ifname=figures0,script=no,downscript=no,vhost=on",
                "-device", "virtio-net-device,netdev=net0",
                "-device", f"vhost-vsock-device,guest-cid={CID}",
                "-chardev", "stdio,id=console", "-device", "virtio-serial-device", "-device", "virtconsole,chardev=console"]

    def connect(self):
        stream = socket.socket(socket.AF_VSOCK)
        stream.connect((CID, PORT))
        return stream


class Figures:
    """What was measured, each of it once in every round: by measure and by VMM."""

    def __init__(self):
        self.measures = {}

    def add(self, what, name, value):
        self.measures.setdefault(what, {}).setdefault(name, []).append(value)

    def table(self, title, unit):
        """One line for each measure, one column for each VMM: the median, and that of the first two's ratio with its extremes."""
        names = list(next(iter(self.measures.values())))
        print(f"\n{title}, {unit}; medians of {rounds}\n{'':40}" + "".join(f"{name:>18}" for name in names) + f"{'ratio':>8}")
        for what, values in self.measures.items():
            cells = "".join(f"{statistics.median(values[name]):18.1f}" for name in names)
            ratios = [first / second for first, second in zip(*(values[name] for name in names[:2])) if second]
            spread = f"{statistics.median(ratios):8.2f} [{min(ratios):.2f}–{max(ratios):.2f}]" if ratios else ""
            print(f"{what:40}{cells}{spread}")


def in_turns(guests):
    """Every VMM once in each round, so that a machine that slows down slows all of them."""
    for _ in range(rounds):
        for name, make in guests.items():
            guest = make(name)
            yield name, guest
            guest.end()


def progress(*words):
    print(*words, file=sys.stderr, flush=True)


def disks(how, guests):
    rates, exits = Figures(), Figures()
    for name, guest in in_turns(guests):
        for what, options in JOBS.items():
            before = guest.exits()
            output, code = guest.ask(f"fio --name=j --filename=/dev/data --direct=1 --ioengine=libaio --time_based --runtime={seconds}"
                                     f" --norandommap --randrepeat=1 --output-format=json {options}")
            if code:
                sys.exit(f"fio in {name}: {output}")
            job = json.loads(output[output.index("{"):])["jobs"][0]
            way = job["read"] if "read" in options else job["write"]
            rate = way["iops"] if "4 KiB" in what else way["bw"] / 1024
            rates.add(what, name, rate)
            exits.add(what, name, (guest.exits() - before) / max(way["total_ios"], 1))
            progress(name, what, rate)
    rates.table(f"Disk on the scratch disk, {how}, 1 vCPU, 4 KiB at QD 32 and 1 MiB at QD 4", "IOPS or MiB/s")
    exits.table("The same, VM exits (KVM's own count, those of fio's start and end too)", "a request")


def iperf(guest, *options):
    report = json.loads(run("iperf3", "-c", "10.99.0.2", "-t", str(seconds), "-J", *options))
    return report["end"]


def networks(guests):
    rates, exits = Figures(), Figures()
    for name, guest in in_turns(guests):
        guest.ask("iperf3 -s -D")
        for what, options in {"TCP, host to guest": (), "TCP, guest to host": ("-R",)}.items():
            before = guest.exits()
            end = iperf(guest, *options)["sum_received"]
            rate = end["bits_per_second"] / 1e6
            rates.add(what, name, rate)
            exits.add(what, name, (guest.exits() - before) / max(end["bytes"] / (1 << 20), 1))
            progress(name, what, rate)
        for what, options in {"UDP, host to guest": (), "UDP, guest to host": ("-R",)}.items():
            before = guest.exits()
            end = iperf(guest, "-u", "-b", "0", "-l", "1400", *options)["sum"]
            arrived = end["packets"] - end["lost_packets"]
            rates.add(f"{what}, 1000 packets/s", name, arrived / end["seconds"] / 1000)
            exits.add(f"{what}, per 100 packets", name, (guest.exits() - before) / max(arrived, 1) * 100)
    rates.table("Network, iperf3, one stream", "Mbit/s unless said")
    exits.table("The same, VM exits", "per MiB unless said")


def sockets(guests):
    """Bytes from the host into the guest and back out again."""
    rates, memory = Figures(), Figures()
    block = bytes(1 << 20)
    for name, guest in in_turns(guests):
        memory.add("private memory, idle", name, guest.private_mib())
        for what, shell in {"host to guest": "socat -b 65536 -u VSOCK-LISTEN:5000 OPEN:/dev/null",
                            "guest to host": "socat -b 65536 -u OPEN:/dev/zero VSOCK-LISTEN:5000"}.items():
            guest.begin(f"(sleep 0; {shell}) 2>/dev/null")
            stream = connect(guest)
            start, moved = time.monotonic(), 0
            while time.monotonic() - start < seconds:
                moved += stream.send(block) if "host to" in what else len(stream.recv(1 << 20))
            rates.add(what, name, moved / (time.monotonic() - start) / (1 << 20))
            stream.close()
            guest.until("@done")
    rates.table("Sockets (vsock)", "MiB/s")
    memory.table("Memory of the VMM that is not the guest's", "MiB")


def connect(guest):
    """Until somebody listens; there is nothing that would tell."""
    while True:
        try:
            return guest.connect()
        except OSError:
            if guest.process.poll() is not None:
                raise


def main():
    tools()
    with open(f"{work}/disk", "wb") as file:
        for _ in range(DISK_MIB):
            file.write(os.urandom(1 << 16) * 16)
        os.fsync(file.fileno())
    subprocess.run(["mount", "-t", "debugfs", "none", "/sys/kernel/debug"], stderr=subprocess.DEVNULL, check=False)
    wanted = only or {"disk", "cache", "net", "vsock"}
    if "disk" in wanted:
        disks("O_DIRECT on the host", {
            "vial": Vial,
            "QEMU": Qemu,
            "vial, own thread": lambda name: Vial(name, {"io_threads": 1}),
            "vial, Sync": lambda name: Vial(name, {"io_engine": "Sync"}),
        })
    if "cache" in wanted:
        cached = {"direct": False}
        disks("the host's page cache", {
            "vial": lambda name: Vial(name, cached),
            "QEMU": lambda name: Qemu(name, "off"),
            "vial, Sync": lambda name: Vial(name, {"io_engine": "Sync", **cached}),
        })
    if "net" in wanted:
        networks({
            "vial, vhost-net": lambda name: Vial(name, interface={"vhost_net": "/dev/vhost-net"}),
            "QEMU, vhost-net": Qemu,
            "vial": Vial,
        })
    if "vsock" in wanted:
        sockets({"vial": Vial, "QEMU": Qemu})


try:
    main()
finally:
    if Guest.running and Guest.running.poll() is None:
        Guest.running.kill()
        Guest.running.wait()
        subprocess.run(["ip", "link", "del", "figures0"], stderr=subprocess.DEVNULL, check=False)
    shutil.rmtree(work, ignore_errors=True)
