"""The measuring part of tools/figures; runs where VMs boot: figures.py DIST FIXTURES RUNS."""
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

dist, fixtures, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
# What is measured so far stays readable when a run is cut short.
sys.stdout.reconfigure(line_buffering=True)
vial = f"{dist}/bin/vial"
vmm, kernel, initrd = (f"{dist}/lib/vial/{name}" for name in ("vial-vmm", "vmlinux", "initrd.cpio"))
# A scratch disk, not memory: what a start writes should meet a real file system.
work = tempfile.mkdtemp(prefix="figures-", dir="/var/lib/vial" if os.path.isdir("/var/lib/vial") else None)
environment = dict(os.environ, VIAL_DATA_DIR=f"{work}/data", VIAL_RUN_DIR=f"{work}/run")


def quiet(command, **more):
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, env=environment, **more)


def wall_ms(command):
    start = time.monotonic()
    quiet(command)
    return (time.monotonic() - start) * 1000


def table(title, rows, base):
    """One line for each row: median, range, and the median's ratio to the first row's."""
    print(f"\n{title}\n{'':44}{'median':>10}{'min':>10}{'max':>10}{'ratio':>8}")
    reference = statistics.median(rows[base])
    for name, values in rows.items():
        middle = statistics.median(values)
        print(f"{name:44}{middle:10.1f}{min(values):10.1f}{max(values):10.1f}{middle / reference:8.2f}")


def runc_bundle(name, args):
    bundle = f"{work}/{name}"
    os.makedirs(f"{bundle}/rootfs/bin")
    busybox = shutil.which("busybox")
    shutil.copy(busybox, f"{bundle}/rootfs/bin/busybox")
    for applet in ("true", "sleep"):
        os.symlink("busybox", f"{bundle}/rootfs/bin/{applet}")
    quiet(["runc", "spec"], cwd=bundle)
    with open(f"{bundle}/config.json") as file:
        spec = json.load(file)
    spec["process"].update(terminal=False, args=list(args))
    with open(f"{bundle}/config.json", "w") as file:
        json.dump(spec, file)
    return bundle


def execs():
    """One more command in what runs already: from the command line's start to its end."""
    if not shutil.which("runc"):
        return
    bundle = runc_bundle("exec", ("sleep", "100000"))
    quiet(["runc", "run", "--detach", "--bundle", bundle, "figures-exec"])
    quiet([vial, "run", "-d", "--name", "exec", "busybox", "sleep", "100000"])
    try:
        commands = {
            "vial exec (busybox true)": [vial, "exec", "exec", "true"],
            "runc exec (busybox true)": ["runc", "exec", "figures-exec", "true"],
        }
        times = {name: [] for name in commands}
        for turn in range(runs + 1):
            for name, command in commands.items():
                spent = wall_ms(command)
                if turn:
                    times[name].append(spent)
        table("One more command in a running container, wall clock, ms", times, "runc exec (busybox true)")
    finally:
        quiet([vial, "rm", "-f", "exec"])
        quiet(["runc", "delete", "--force", "figures-exec"])


class Agent:
    """One VMM with the agent's initrd, as a pod has it, started without anything around it."""

    def __init__(self, load):
        self.folder = tempfile.mkdtemp(dir=work)
        path = f"{self.folder}/vsock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{path}_1026")
        listener.listen()
        config = {
            "boot-source": {"kernel_image_path": kernel, "initrd_path": initrd, "load": load,
                            "boot_args": "quiet loglevel=4 panic=-1"},
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
            "vsock": {"guest_cid": 3, "uds_path": path},
            "entropy": {},
            "vial": {"status": f"{self.folder}/status"},
        }
        with open(f"{self.folder}/config.json", "w") as file:
            json.dump(config, file)
        open(f"{self.folder}/status", "w").close()
        started = time.monotonic()
        self.process = subprocess.Popen([vmm, "--no-api", "--config-file", f"{self.folder}/config.json"], stdin=subprocess.DEVNULL)
        listener.settimeout(60)
        self.ready = listener.accept()[0]
        length, = struct.unpack("<I", self.ready.recv(4, socket.MSG_WAITALL))
        json.loads(self.ready.recv(length, socket.MSG_WAITALL))
        self.ready_ms = (time.monotonic() - started) * 1000
        with open(f"{self.folder}/status") as file:
            steps = {record.get("step"): record["at_us"] for record in map(json.loads, file)}
        self.first_run_ms = steps["first_run"] / 1000 - started * 1000

    def welcome(self):
        body = json.dumps({"token": "0" * 64}).encode()
        self.ready.sendall(struct.pack("<I", len(body)) + body)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def boots():
    first, ready = {}, {}
    for turn in range(runs + 1):
        for load in ("read", "map"):
            agent = Agent(load)
            agent.end()
            if turn:
                first.setdefault(f"kernel {load}", []).append(agent.first_run_ms)
                ready.setdefault(f"kernel {load}", []).append(agent.ready_ms)
    table("Spawn of vial-vmm to first KVM_RUN, ms (1 vCPU, 128 MiB)", first, "kernel read")
    table("Spawn of vial-vmm to the agent's Ready on the host, ms", ready, "kernel read")


def agent_stats(socket_path, token):
    """Asks an agent what it and its guest use, over a control connection of its own that wants no events."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(60)
        control.connect(socket_path)
        control.sendall(b"CONNECT 1024\n")
        # Not a byte more than the line: what follows it is the agent's.
        while control.recv(1) != b"\n":
            pass

        def say(message):
            body = json.dumps(message).encode()
            control.sendall(struct.pack("<I", len(body)) + body)

        def hear():
            length, = struct.unpack("<I", control.recv(4, socket.MSG_WAITALL))
            return json.loads(control.recv(length, socket.MSG_WAITALL))

        say({"hello": {"protocol": 1, "protocol_min": 1, "token": token, "events": False}})
        hear()["hello"]["Ok"]
        say({"request": {"id": 1, "request": "sandbox_stats"}})
        return hear()["response"]["result"]["Ok"]["sandbox_stats"]


def agent_bytes():
    """Size of /init in the initrd, a cpio archive of the "newc" kind."""
    with open(initrd, "rb") as file:
        while True:
            header = file.read(110)
            size, name_size = int(header[54:62], 16), int(header[94:102], 16)
            name = file.read(name_size)[:-1]
            file.seek(-file.tell() % 4, os.SEEK_CUR)
            if name in (b"init", b"TRAILER!!!"):
                return size
            file.seek(size + -size % 4, os.SEEK_CUR)


def memory(pid, guest_bytes):
    """Sums of smaps in KiB: (anonymous outside guest memory, PSS outside, PSS of all)."""
    anonymous = outside = whole = 0
    guest = False
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            word, value = line.split()[:2]
            if "-" in word and not word.endswith(":"):
                low, high = (int(part, 16) for part in word.split("-"))
                guest = high - low >= guest_bytes // 2
            elif word == "Pss:":
                whole += int(value)
                outside += 0 if guest else int(value)
            elif word == "Anonymous:" and not guest:
                anonymous += int(value)
    return anonymous, outside, whole


def sizes():
    agent = Agent("read")
    agent.welcome()
    anonymous, outside, whole = memory(agent.process.pid, 128 << 20)
    agent.end()
    print("\nMemory, KiB")
    print(f"{'vial-vmm, private anonymous, not the guest':44}{anonymous:10}")
    print(f"{'vial-vmm, PSS without the guest':44}{outside:10}")
    print(f"{'agent alone in 128 MiB: PSS of VMM and guest':44}{whole:10}")
    quiet([vial, "run", "-d", "--name", "idle", "busybox", "sleep", "100000"])
    for folder in os.listdir(f"{work}/run/vms"):
        record = f"{work}/run/vms/{folder}/process.json"
        if os.path.exists(record):
            with open(record) as file:
                # The guest of a pod is larger than this, and nothing else in the process is.
                _, outside, whole = memory(json.load(file)["pid"], 64 << 20)
            print(f"{'idle pod (busybox sleep): PSS of VMM and guest':44}{whole:10}")
            print(f"{'  of which the guest':44}{whole - outside:10}")
            with open(f"{work}/run/vms/{folder}/token") as file:
                stats = agent_stats(f"{work}/run/vms/{folder}/vsock.sock", file.read().strip())
            print(f"{'agent in the idle pod, resident (VmRSS)':44}{stats['agent_resident_bytes'] // 1024:10}")
            print(f"{'  of which is not its program':44}{stats['agent_anonymous_bytes'] // 1024:10}")
            print(f"{'guest: MemTotal':44}{stats['memory_total_bytes'] // 1024:10}")
            print(f"{'guest: MemAvailable':44}{stats['memory_available_bytes'] // 1024:10}")
    quiet([vial, "rm", "-f", "idle"])
    print("\nSizes, bytes")
    print(f"{'vial-agent':44}{agent_bytes():10}")
    for name, path in (("vial-vmm", vmm), ("initrd with the agent", initrd), ("vmlinux", kernel), ("vial", vial)):
        print(f"{name:44}{os.path.getsize(path):10}")


try:
    emulated = bool(os.environ.get("VIAL_IN_TESTBED"))
    print(f"Host: {'EMULATED (ratios are not those of bare metal)' if emulated else 'this machine'}, Linux {os.uname().release}, "
          f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.2f}; {runs} runs each after 1 warm-up, interleaved")
    quiet([vial, "load", "-q", "-i", f"{fixtures}/busybox.tar"])
    execs()
    boots()
    sizes()
finally:
    subprocess.run([vial, "daemon", "stop"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.rmtree(work, ignore_errors=True)
