"""Tables of bench/run about memory management under threads, all taken from the guest `storm` (tests/guests/storm.c),
which runs natively and as a guest: scaling over threads, faults beside unmapping, the two directions of mprotect,
huge mappings that split and heal."""
import statistics

GUEST_THREADS = (1, 2, 4)


def storm(bench, case, threads, rounds, *more):
    return [bench.guests / "storm", "--time", case, threads, rounds, *more]


def per_operation(bench, command, *options):
    """Exits per operation in one run, and the run's report."""
    printed, report = bench.guest(command, *options)
    return report["exits"]["total"] / float(printed["operations"]), report


def scaling(bench):
    """Rounds are divided among the threads, so that every cell does the same work."""
    work = {"page_fault": 400, "mmap": 4000, "protect": 4000, "futex": 4000, "ebizzy": 2000}
    bench.table("Scaling: us an operation, all threads together", "threads", "native", "ramet", "ramet/native",
                "speed-up", "exits an op.")
    for case, rounds in work.items():
        alone = None
        for threads in GUEST_THREADS:
            command = storm(bench, case, threads, (rounds // 8 if bench.quick else rounds) // threads)
            native, ramet, ratio = bench.medians(*bench.pairs_of(command), "ns_per_op")
            alone = alone or ramet
            exits, _ = per_operation(bench, command)
            bench.row(case, threads, f"{native / 1e3:.2f}", f"{ramet / 1e3:.2f}", f"{ratio:.2f}",
                      f"{alone / ramet:.2f}", f"{exits:.2f}", value=ratio, case=case, threads=threads,
                      native_ns=native, ramet_ns=ramet, exits_per_op=exits)


def faults(bench):
    """The table of the speculative-fault proposal: how faults were settled, and what they cost without."""
    rounds = 200 if bench.quick else 1000
    cases = {"fault_while_unmapping": (3, rounds), "page_fault": (4, rounds // 4), "ebizzy": (4, rounds // 2)}
    bench.table("Faults: us an operation", "native", "ramet", "without spf", "without/with")
    counters = {}
    for case, (threads, n) in cases.items():
        command = storm(bench, case, threads, n)
        natives, ramets, without = bench.in_turn(
            lambda: bench.native(command), lambda: bench.guest(command)[0],
            lambda: bench.guest(command, "--without", "speculative-faults")[0])
        native, ramet, _ = bench.medians(natives, ramets, "ns_per_op")
        _, classic, gain = bench.medians(ramets, without, "ns_per_op")
        bench.row(f"{case}, {threads} threads", f"{native / 1e3:.2f}", f"{ramet / 1e3:.2f}", f"{classic / 1e3:.2f}",
                  f"{gain:.2f}", value=gain, native_ns=native, ramet_ns=ramet, without_ns=classic)
        memory = per_operation(bench, command)[1]["memory"]
        counters[case] = {k: v for k, v in memory.items() if k == "faults" or k.startswith("spf")}
    bench.table("Faults by how they were settled", "unmapping", *list(cases)[1:])
    for name in next(iter(counters.values())):
        bench.row(name, *(counters[case].get(name, 0) for case in cases), value=None,
                  counts={case: counters[case].get(name, 0) for case in cases})


def mprotect(bench):
    """The table of the relaxed-flush proposal: a loop over one page, with a second thread that runs in user code."""
    rounds = 500 if bench.quick else 4000
    without = ("--without", "relaxed-flushes")
    commands = {threads: storm(bench, "upgrade", threads, rounds) for threads in (1, 2)}
    runs = {}
    for name, run in {"Linux": lambda c: bench.native(c), "ramet": lambda c: bench.guest(c)[0],
                      "ramet without relaxed-flushes": lambda c: bench.guest(c, *without)[0]}.items():
        for threads in (1, 2):
            runs[name, threads] = lambda run=run, threads=threads: run(commands[threads])
    got = dict(zip(runs, bench.in_turn(*runs.values())))
    counts = {}
    for name, options in {"ramet": (), "ramet without relaxed-flushes": without}.items():
        _, alone = per_operation(bench, commands[1], *options)
        _, report = per_operation(bench, commands[2], *options)
        counts[name] = {"kicks": (report["exits"]["kick"] - alone["exits"]["kick"]) / rounds,
                        "strict": report["memory"]["flushes"] / rounds,
                        "relaxed": report["memory"]["flushes_relaxed"] / rounds}
    for key, title in {"restrict_ns": "mprotect(PROT_READ) of one page, us", "access_ns": "the access after both, us",
                       "upgrade_ns": "mprotect(PROT_READ|PROT_WRITE), us"}.items():
        bench.table(title, "1 thread", "2 threads", "2 / 1")
        for name in dict.fromkeys(name for name, _ in runs):
            one, two, ratio = bench.medians(got[name, 1], got[name, 2], key)
            target = ("<=", 1.05) if (name, key) == ("ramet", "upgrade_ns") else None
            bench.row(name, f"{one / 1e3:.2f}", f"{two / 1e3:.2f}", f"{ratio:.2f}", value=ratio, one_ns=one, two_ns=two,
                      target=target)
    bench.table("Flushes a loop of both, 2 threads", "kicks", "strict", "relaxed")
    for name, each in counts.items():
        bench.row(name, *(f"{n:.3f}" for n in each.values()), value=each["kicks"], **each)


def blocks(bench):
    """Random pages of a big region are protected and restored. Counts come from runs of different length, reads from
    before and after the cycles of the same run, so that both see the same frames."""
    size, most = 1024, 5_000 if bench.quick else 100_000
    options = {"merging": (), "--without huge-merge": ("--without", "huge-merge")}

    def events(memory):
        return {k: v for k, v in memory.items() if k.startswith(("merge:", "split:"))}

    def cycles(n, how):
        return bench.guest(storm(bench, "protect_restore", 1, n, size), "--memory", "3G", *options[how])

    bench.table(f"Blocks of {size} MiB over protect-and-restore cycles", "cycles", "2 MiB frames", "splits", "merges",
                "tables", "us a cycle")
    lengths = (0, most // 20, most) if bench.quick else (0, most // 100, most // 20, most // 5, most)
    last = {}
    for how in options:
        for n in lengths:
            printed, report = cycles(n, how)
            frames, found = report["frames"], events(report["memory"])
            splits, merges = (sum(found.get(f"{kind}:{level}", 0) for level in ("PMD", "PUD"))
                              for kind in ("split", "merge"))
            bench.row(how, n, frames["2M"], splits, merges, frames["table"], f"{float(printed['ns_per_op']) / 1e3:.1f}",
                      value=frames["2M"], how=how, cycles=n, blocks=frames["2M"], tables=frames["table"],
                      us_per_cycle=float(printed["ns_per_op"]) / 1e3, events=found)
        last[how] = [printed]

    if not bench.quick:  # such a run takes long: three of each have to do
        more = bench.in_turn(*(lambda how=how: cycles(most, how)[0] for how in options), times=2)
        for how, printed in zip(options, more):
            last[how] += printed
    healed, split = last.values()
    bench.table(f"Random reads in the guest after {most} cycles", "ns a read", "throughput")

    def line(name, runs, when, target=None):
        ns = statistics.median(float(run[f"ns_per_read_{when}"]) for run in runs)
        # Beside a region that is never split, before and after.
        throughput = statistics.median(float(run["reads_before"]) / float(run[f"reads_{when}"]) for run in runs)
        bench.row(name, f"{ns:.1f}", f"{throughput:.3f}", value=throughput, ns=ns, target=target)
    line("never split", healed, "before")
    line("split (--without huge-merge)", split, "after")
    line("healed", healed, "after", (">=", 0.99))


TABLES = {"scaling": scaling, "faults": faults, "mprotect": mprotect, "blocks": blocks}
