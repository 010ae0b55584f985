"""The part of tools/figures that needs no VM: a large image from a registry on this machine, by Vial and by skopeo and umoci.

usage: figures_pull.py DIST FIXTURES RUNS
"""
import collections
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

dist, fixtures, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
vial = f"{dist}/bin/vial"
here = os.path.dirname(os.path.abspath(__file__))
# A real disk: what is measured writes half a gigabyte.
work = tempfile.mkdtemp(prefix="figures-pull-", dir="/var/tmp")
LAYERS, FILES, BYTES = 4, 2500, 500 << 20


def quiet(command, **more):
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, **more)


def make_image():
    """Layers of files that compress to a good half, as programs do."""
    source = random.Random(1)
    tars = []
    for layer in range(LAYERS):
        root = f"{work}/layer{layer}"
        for number in range(FILES):
            folder = f"{root}/usr/lib/{layer}/{number % 100}"
            os.makedirs(folder, exist_ok=True)
            size = BYTES // LAYERS // FILES
            noise = source.randbytes(size // 2)
            with open(f"{folder}/{number}", "wb") as file:
                file.write(b"".join(noise[at:at + 64] + bytes(64) for at in range(0, size // 2, 64)))
        tar = f"{work}/{layer}.tar"
        quiet(["tar", "-C", root, "--sort=name", "--owner=0", "--group=0", "-cf", tar, "."])
        shutil.rmtree(root)
        tars.append(tar)
    quiet(["python3", f"{here}/../tests/fixtures/image_archive.py", f"{work}/big.tar", "big:latest", '{"Cmd":["sh"]}', *tars])
    for tar in tars:
        os.remove(tar)


def registry():
    with open(f"{work}/registry.yml", "w") as file:
        json.dump({"version": "0.1", "log": {"level": "info"}, "http": {"addr": "127.0.0.1:0"},
                   "storage": {"filesystem": {"rootdirectory": f"{work}/registry"}}}, file)
    process = subprocess.Popen([f"{fixtures}/docker-registry", "serve", f"{work}/registry.yml"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "listening on " in line:
            # It logs each request, and would stop at a full pipe.
            threading.Thread(target=collections.deque, args=(process.stderr, 0), daemon=True).start()
            return process, line.split("listening on ")[1].split('"')[0].strip()
    sys.exit("the registry did not start")


def by_vial(name, turn):
    folder = f"{work}/vial{turn}"
    environment = dict(os.environ, VIAL_DATA_DIR=f"{folder}/data", VIAL_RUN_DIR=f"{folder}/run")
    quiet([vial, "images"], env=environment)
    start = time.monotonic()
    quiet([vial, "pull", "--insecure", name], env=environment)
    spent = time.monotonic() - start
    quiet([vial, "daemon", "stop"], env=environment)
    disk = int(subprocess.check_output(["du", "-sk", folder], text=True).split()[0])
    shutil.rmtree(folder)
    return spent, disk


def by_skopeo(name, turn):
    folder = f"{work}/skopeo{turn}"
    os.mkdir(folder)
    start = time.monotonic()
    quiet(["skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", f"docker://{name}", f"oci:{folder}/oci:big"])
    quiet(["umoci", "unpack", "--image", f"{folder}/oci:big", f"{folder}/bundle"])
    spent = time.monotonic() - start
    disk = int(subprocess.check_output(["du", "-sk", folder], text=True).split()[0])
    shutil.rmtree(folder)
    return spent, disk


server = None
try:
    os.makedirs(f"{work}", exist_ok=True)
    make_image()
    server, address = registry()
    name = f"{address}/big:latest"
    quiet(["skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", f"docker-archive:{work}/big.tar", f"docker://{name}"])
    os.remove(f"{work}/big.tar")
    ways = {"vial pull (ready to run)": by_vial, "skopeo copy + umoci unpack": by_skopeo}
    seconds, disks = {way: [] for way in ways}, {}
    for turn in range(runs + 1):
        for way, pull in ways.items():
            spent, disks[way] = pull(name, turn)
            if turn:
                seconds[way].append(spent)
    base = statistics.median(seconds["skopeo copy + umoci unpack"])
    print(f"\nPull of an image of {BYTES >> 20} MiB in {LAYERS} layers from a registry on this machine, s; {runs} runs each after 1 warm-up, interleaved")
    print(f"{'':44}{'median':>10}{'min':>10}{'max':>10}{'ratio':>8}{'disk, MiB':>12}")
    for way, values in seconds.items():
        middle = statistics.median(values)
        print(f"{way:44}{middle:10.2f}{min(values):10.2f}{max(values):10.2f}{middle / base:8.2f}{disks[way] >> 10:12}")
finally:
    if server:
        server.kill()
        server.wait()
    shutil.rmtree(work, ignore_errors=True)
