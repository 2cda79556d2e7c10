"""Tables of bench/run about arm64 programs on the software CPU, beside qemu-user, and about code that is made to run again,
on each machine that this host has."""
import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

QEMU = shutil.which("qemu-aarch64-static")
PACKAGES = Path(os.environ.get("RAMET_HOST_CACHE", Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ramet/hosts")) / "arm64/packages"


def on(bench, machine, guest):
    return [bench.ramet, "run", "--machine", machine, guest]


def processor(bench):
    """Arm64 programs: what each takes, beside qemu-user."""
    guest = bench.guests / "arm64/processor"
    units = {"integer": "ns", "sieve": "ms", "random_reads": "ns", "call": "ns", "indirect_call": "ns", "double": "ns",
             "system_call": "ns", "random_reads_after_fork": "ns", "fork": "ms"}
    qemus, softs = bench.in_turn(lambda: bench.native([QEMU, guest]), lambda: bench.native(on(bench, "soft", guest)))
    bench.table("The software CPU: arm64 programs", "unit", "qemu-user", "ramet", "ramet/qemu")
    for name, unit in units.items():
        qemu, soft, ratio = bench.medians(qemus, softs, name)
        bench.row(name.replace("_", " "), unit, f"{qemu:.2f}", f"{soft:.2f}", f"{ratio:.2f}", value=ratio, qemu=qemu, ramet=soft,
                  target=("<=", 1.0) if unit == "ns" and "after" not in name else None)
    before, after, ratio = bench.medians([{"ns": s["random_reads"]} for s in softs],
                                         [{"ns": s["random_reads_after_fork"]} for s in softs], "ns")
    bench.row("reads after a fork / before", "", f"{before:.2f}", f"{after:.2f}", f"{ratio:.2f}", value=ratio, target=("<=", 2.0))


def programs(bench):
    """Starts of Debian's own arm64 programs."""
    def both(name, inside, *arguments, target):
        qemus, softs = bench.in_turn(
            lambda: {"ms": bench.wall_ms([QEMU, "-L", PACKAGES, PACKAGES / inside, *arguments])},
            lambda: {"ms": bench.wall_ms([bench.ramet, "run", "--root", PACKAGES, f"/{inside}", *arguments])})
        qemu, soft, ratio = bench.medians(qemus, softs, "ms")
        bench.row(name, f"{qemu:.0f}", f"{soft:.0f}", f"{ratio:.2f}", value=ratio, target=("<=", target))
        return qemus

    if not PACKAGES.is_dir():
        print("bench/run: no packages for arm64 (tests/hosts/machine arm64 packages fetches them)")
        return
    bench.table("The software CPU: starts of arm64 programs, ms", "qemu-user", "ramet", "ramet/qemu")
    both("busybox true, cold", "bin/busybox", "true", target=2.0)
    qemus = both("python3 -S -c pass, cold", "usr/bin/python3.11", "-S", "-c", "pass", target=2.0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "python"
        subprocess.run([bench.ramet, "snapshot", "save", "--root", PACKAGES, "-o", file, "/usr/bin/python3.11", "-S", "-c",
                        "import sys; sys.stdin.readline()"], stdin=subprocess.DEVNULL, check=True)
        softs = [{"ms": bench.wall_ms([bench.ramet, "snapshot", "run", "--root", PACKAGES, file])} for _ in qemus]
    qemu, soft, ratio = bench.medians(qemus, softs, "ms")
    bench.row("python3, from a snapshot to its end", f"{qemu:.0f}", f"{soft:.0f}", f"{ratio:.2f}", value=ratio, target=("<=", 0.5))


def exec_again(bench):
    """Which machines gain from deferring: the cost of making a page of 200 small functions executable again, and of calling them."""
    name = "exec_again"
    here, arm64 = bench.guests / name, bench.guests / "arm64" / name
    ways = {"native": [here], "kvm": on(bench, "kvm", here), "process": on(bench, "process", here), "soft": on(bench, "soft", arm64)}
    if QEMU:
        ways["qemu-user, arm64"] = [QEMU, arm64]
    found = {}
    for way, command in ways.items():
        try:
            found[way] = [bench.native(command) for _ in range(bench.pairs)]
        except Exception as why:  # a host without KVM, or without the software CPU
            print(f"bench/run: {way} is left out: {why}")
    bench.table("Making a page executable again, us with 200 calls", *found)
    for row, what in (("call_all", "nothing: the calls alone"), ("not_written", "writable and executable again"),
                      ("one_written", "one function written, one call"), ("all_written", "all functions written")):
        values = {way: statistics.median(float(run[row]) for run in runs) for way, runs in found.items()}
        bench.row(what, *(f"{value:.2f}" for value in values.values()), value=None, us=values)


TABLES = {"processor": processor, "programs": programs, "exec_again": exec_again}
