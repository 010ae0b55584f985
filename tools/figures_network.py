"""The measuring part of tools/figures-network; runs where VMs boot: figures_network.py DIST FIXTURES RUNS PODS."""
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

dist, fixtures, runs, pods = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
sys.stdout.reconfigure(line_buffering=True)
vial = f"{dist}/bin/vial"
work = tempfile.mkdtemp(prefix="figures-", dir="/var/lib/vial" if os.path.isdir("/var/lib/vial") else None)
# Many guests that boot at once on few processors, perhaps emulated ones, take long: what is measured is not to be given up.
environment = dict(os.environ, VIAL_DATA_DIR=f"{work}/data", VIAL_RUN_DIR=f"{work}/run", VIAL_START_TIMEOUT_S="1000")


def run(*command):
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)


def step_ms(timing, step):
    """What a step took, from the table that --timing prints."""
    found = re.search(rf"^{step}\s+([\d.]+)\s+([\d.]+)", timing, re.M)
    return float(found.group(2)) if found else 0.0


def alone():
    kinds = {"no network": ["--network", "none"], "network": [], "network and one published port": ["-p", "18080:80"]}
    whole, slot = {kind: [] for kind in kinds}, {kind: [] for kind in kinds}
    for turn in range(runs + 1):
        for kind, options in kinds.items():
            start = time.monotonic()
            timing = run(vial, "run", "--rm", "--timing", *options, "busybox", "true").stderr
            if turn:
                whole[kind].append((time.monotonic() - start) * 1000)
                slot[kind].append(step_ms(timing, "network slot taken"))
    print(f"\nOne pod after the other, ms{'':18}{'whole command':>16}{'min':>10}{'max':>10}{'slot taken':>12}")
    for kind in kinds:
        values = whole[kind]
        print(f"{kind:44}{statistics.median(values):16.1f}{min(values):10.1f}{max(values):10.1f}"
              f"{statistics.median(slot[kind]):12.2f}")


def at_once():
    print(f"\n{pods} pods at once, ms until all run")
    for kind, options in {"no network": ["--network", "none"], "network": []}.items():
        start = time.monotonic()
        children = [subprocess.Popen([vial, "run", "-d", "--memory", "32m", *options, "busybox", "sleep", "100000"],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
                    for _ in range(pods)]
        failed = sum(child.wait() != 0 for child in children)
        spent = (time.monotonic() - start) * 1000
        print(f"{kind:44}{spent:10.0f}{spent / pods:10.1f} each{f', {failed} FAILED' if failed else ''}")
        names = run(vial, "ps", "-aq").stdout.split()
        if names:
            run(vial, "rm", "-f", *names)


def iperf_image():
    """iperf3 of this machine with the libraries that it loads."""
    root, program = f"{work}/iperf", shutil.which("iperf3")
    files = [program] + re.findall(r"(/\S+)", run("ldd", program).stdout)
    for file in files:
        os.makedirs(root + os.path.dirname(file), exist_ok=True)
        shutil.copy(os.path.realpath(file), root + file)
    os.makedirs(f"{root}/tmp", mode=0o1777)
    run("tar", "-C", root, "-cf", f"{work}/iperf.tar", ".")
    run(vial, "import", f"{work}/iperf.tar", "iperf")
    return program


def streams():
    program = iperf_image()
    run(vial, "run", "-d", "--name", "iperf", "--memory", "128m", "-p", "15201:5201",
        "-p", "15201:5201/udp", "iperf", program, "-s")
    address = json.loads(run(vial, "inspect", "iperf").stdout)[0]["network"]["ipv4"]

    def measure(*words):
        for _ in range(100):
            try:
                return json.loads(run(program, "-J", "-t", "5", "-c", *words).stdout)["end"]
            except subprocess.CalledProcessError:
                # The server is not up yet, or not done with the last client: it has no way to say so.
                time.sleep(0.2)
        raise SystemExit("iperf3's server never answers")

    targets = {"host to pod": [address], "pod to host": [address, "-R"],
               "host to pod by the published port": ["127.0.0.1", "-p", "15201"]}
    print("\nTCP, one stream, Gbit/s (iperf3, 5 s)")
    for name, words in targets.items():
        print(f"{name:44}{measure(*words)['sum_received']['bits_per_second'] / 1e9:10.2f}")
    print("\nUDP, Mbit/s that arrived of 50, and lost (iperf3, 5 s)")
    for name, words in targets.items():
        end = measure(*words, "-u", "-b", "50M")["sum"]
        arrived = end["bits_per_second"] / 1e6 * (1 - end["lost_percent"] / 100)
        print(f"{name:44}{arrived:10.1f}{end['lost_percent']:9.2f} %")
    run(vial, "rm", "-f", "iperf")


try:
    emulated = bool(os.environ.get("VIAL_IN_TESTBED"))
    print(f"Host: {'EMULATED (ratios are not those of bare metal)' if emulated else 'this machine'}, Linux {os.uname().release}, "
          f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.2f}; {runs} runs each after 1 warm-up, interleaved")
    run(vial, "load", "-q", "-i", f"{fixtures}/busybox.tar")
    alone()
    at_once()
    streams()
finally:
    subprocess.run([vial, "daemon", "stop"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.rmtree(work, ignore_errors=True)
