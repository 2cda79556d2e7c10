"""bench/run's tables about forks and snapshots: fork(2) beside Linux's own, and the library's spawn and reset."""
import json
import statistics

PAGES = {"first_write_ns": "first write of a child", "scattered_write_ns": "scattered writes", "sequence_write_ns": "in sequence"}


def fork(bench):
    guest = bench.build / "bench/guests/fork"
    sizes = (16, 256, 1024) if bench.quick else (16, 64, 256, 1024, 4096)
    rounds = 11 if bench.quick else 31
    memory = ["--memory", f"{2 * sizes[-1] + 512}M"]
    bench.table("fork(2) by memory touched", "native us", "ramet us", "of native", "child begins")
    ours, children = {}, {}
    for mib in sizes:
        pairs = bench.in_turn(lambda: bench.native([guest, mib, rounds]), lambda: bench.guest([guest, mib, rounds], *memory)[0],
                              times=3)
        native, ramet, ratio = bench.medians(*pairs, "fork_ns")
        begins = statistics.median(float(f["child_begins_ns"]) for f in pairs[1])
        ours[mib], children[mib] = ramet, pairs[1]
        bench.row(f"{mib} MiB", f"{native / 1e3:.0f}", f"{ramet / 1e3:.0f}", f"1/{1 / ratio:.1f}", f"{begins / 1e3:.0f}",
                  value=ratio, native_ns=native, ramet_ns=ramet, target=("<=", 1 / 20) if mib == 1024 else None)
    growth = ours[sizes[-1]] / ours[sizes[0]]
    bench.row(f"{sizes[-1]} to {sizes[0]} MiB", "", f"{growth:.2f}", value=growth, target=("<=", 1.5))
    bench.table("Copy on write in a child of 1 GiB: a page", "ramet us")
    for key, name in PAGES.items():
        us = statistics.median(float(f[key]) for f in children[1024]) / 1e3
        target = {"scattered_write_ns": ("<=", 110), "sequence_write_ns": ("<=", 30)}.get(key)
        bench.row(name, f"{us:.1f}", value=us, target=target)


def layers(bench):
    out = bench.scratch / "layers.json"
    bench.execute([bench.build / "bench/bench_layers", f"--machine={bench.machine}", f"--benchmark_out={out}", "--benchmark_out_format=json",
                   "--benchmark_repetitions=3"])
    runs = [b for b in json.loads(out.read_text())["benchmarks"] if b["run_type"] == "iteration"]

    def of(name, key="median_us"):
        return statistics.median(b[key] for b in runs if b["run_name"].startswith(name + "/"))

    bench.table("Library: VMs from a snapshot", "median us", "to entry us")
    for name, target in (("spawn/warm/64", ("<=", 100)), ("spawn/warm/1024", ("<=", 100)), ("spawn/cold/64", None)):
        us = of(name)
        bench.row(f"{name.replace('/', ' ')} MiB to first instruction", f"{us:.1f}", value=us, target=target)
    for name, target in (("in_sequence/1", 20), ("in_sequence/256", 100), ("in_sequence/2048", 450),
                         ("scattered/256", 100), ("scattered/2048", 450)):
        us, entry = of(f"reset/{name}"), of(f"reset/{name}", "entry_us")
        bench.row(f"reset {name.replace('/', ' ').replace('_', ' ')} pages", f"{us:.1f}", f"{entry:.1f}", value=us, target=("<=", target))
    for mib in (16, 256, 1024, 4096):
        us = of(f"freeze/{mib}")
        bench.row(f"freeze {mib} MiB", f"{us:.1f}", value=us)
    bench.table("A child that wrote one page: host memory", "KiB")
    own, kernel = (of("child_memory", key) for key in ("own_KiB", "with_kernel_KiB"))
    bench.row("of this process", f"{own:.0f}", value=own, target=("<=", 64))
    bench.row("with KVM's books for its VM", f"{kernel:.0f}", value=kernel)


TABLES = {"fork": fork, "layers": layers}
