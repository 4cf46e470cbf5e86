#!/usr/bin/env python3
"""What a cluster of three hosts takes: slow and lossy links, very long documents, full queues, and submitters that vanish.

Usage: deploy/measure_cluster.py [--baton build/release/baton] [--only links,long,queue,vanish] [--json FILE]     (as root)

Hosts are those of deploy/local-cluster.sh, with 3 nodes of 2 devices. Whoever submits sits on the first node's host, so that a link is
between it and the coordinator too. In every part each answer is compared with that of one process (`baton run`), and where logits
are kept (`--dump`) these are, to the bit. Meanwhile somebody asks `baton status` once a second, and the memory of every process is
looked at twice a second. Ends with 1 where an answer differs, a job does not end, or something is refused that should not be.
"""
import argparse, concurrent.futures, json, os, pathlib, random, signal, statistics, subprocess, sys, tempfile, threading, time

root = pathlib.Path(__file__).resolve().parent.parent
documents = root / "models/needle/documents"
nodes, devices = 3, 2
links = {
    "none": [],
    "50 ms": ["--delay", "50ms"],
    "50 ms, 1 %": ["--delay", "50ms", "--loss", "1"],
    "50 ms, 1 %, 100 Mbit/s": ["--delay", "50ms", "--loss", "1", "--rate", "100mbit"],
}
slowest = links["50 ms, 1 %, 100 Mbit/s"]
patience_s = 600
MiB = 1 << 20


def said(text):
    print(f"measure_cluster: {text}", file=sys.stderr, flush=True)


def question_of(document):
    """The first of its questions, with the answer."""
    line = json.loads(pathlib.Path(document).with_suffix(".questions.jsonl").read_text().splitlines()[0])
    return line["question"], line["answer"]


def resident_bytes(pid):
    try:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


class cluster:
    """Hosts that are up as long as the object is entered, with somebody who watches them."""

    def __init__(self, baton, folder, link):
        self.baton, self.link = str(pathlib.Path(baton).resolve()), link
        self.name = f"m{os.getpid() % 1000000}"
        self.subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self.folder = pathlib.Path(folder) / "cluster"
        self.config = str(self.folder / "cluster.yaml")

    def script(self, *words):
        return subprocess.run(
            [root / "deploy/local-cluster.sh", *words, "--name", self.name, "--subnet", self.subnet],
            env=dict(os.environ, BATON=self.baton, BATON_CLUSTER_DIR=str(self.folder)), stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        up = self.script("up", "--nodes", str(nodes), "--devices", str(devices), *self.link)
        if up.returncode != 0:
            sys.exit("measure_cluster: the hosts did not come up")
        try:
            self.watch()
        except BaseException:
            self.script("down")
            raise
        return self

    def watch(self):
        self.status_s, self.unanswered, self.memory, self.states, self.processes = [], 0, [], {}, {}
        self.over = threading.Event()
        while not self.processes:
            self.processes = self.look()
        self.watchers = [threading.Thread(target=self.ask), threading.Thread(target=self.weigh)]
        for watcher in self.watchers:
            watcher.start()
        time.sleep(2)  # memory before anything was asked

    def __exit__(self, *_):
        self.over.set()
        for watcher in self.watchers:
            watcher.join()
        self.script("down")

    def command(self, *words):
        return ["ip", "netns", "exec", f"baton-{self.name}-n0", self.baton, *map(str, words), "--config", self.config]

    def look(self):
        """The processes by what they are; one status of the cluster."""
        began = time.monotonic()
        asked = subprocess.run(self.command("status", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if asked.returncode != 0:
            self.unanswered += 1
            said(f"status was not answered: {asked.stderr.strip()}")
            return self.processes
        self.status_s.append(time.monotonic() - began)
        status = json.loads(asked.stdout)
        self.states = {job["id"]: job["state"] for job in status["jobs"]}
        return {"coordinator": [status["coordinator"]["pid"]], "agents": [n["pid"] for n in status["nodes"]],
                "workers": [d["worker_pid"] for n in status["nodes"] for d in n["devices"]]}

    def ask(self):
        while not self.over.wait(1):
            self.processes = self.look()

    def weigh(self):
        while not self.over.wait(0.5):
            self.memory.append({what: max(map(resident_bytes, pids)) for what, pids in self.processes.items()})

    def wait_for_calm(self, limit_s=patience_s):
        """Until no job waits or runs."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if not set(self.look_at_states()) & {"queued", "starting", "prefilling", "answering"}:
                return True
            time.sleep(0.5)
        return False

    def look_at_states(self):
        self.look()
        return self.states.values()

    def told(self):
        """What the watchers saw."""
        time.sleep(3)  # memory when everything is over
        of = lambda what: [m[what] for m in self.memory]
        return {
            "status_s": {"median": statistics.median(self.status_s), "longest": max(self.status_s), "asked": len(self.status_s),
                         "each": self.status_s},
            "unanswered": self.unanswered,
            "memory": {what: {"before": of(what)[0], "peak": max(of(what)), "after": of(what)[-1]} for what in self.processes},
        }


def ask_one_process(baton, folder, document, ranks=nodes * devices):
    """What one process makes of it: the truth. Answer ids and the bytes of its dump."""
    question, answer = question_of(document)
    out, dump = pathlib.Path(folder) / "run.json", pathlib.Path(folder) / "run.safetensors"
    subprocess.run([baton, "run", "--config", "configs/quickstart.yaml", "--document", document, "--question", question,
                    "--ranks", str(ranks), "--json", out, "--dump", dump, "--quiet"], cwd=root, check=True, stdout=subprocess.DEVNULL)
    result = json.loads(out.read_text())
    if result["answer"].strip() != answer:
        said(f"one process answers {result['answer']!r} in place of {answer!r}")
    return result["answer_ids"], dump.read_bytes()


class failures(list):
    def unless(self, right, what):
        if not right:
            self.append(what)
            said(f"WRONG: {what}")


def submit(hosts, folder, document, n):
    out, dump = pathlib.Path(folder) / f"{n}.json", pathlib.Path(folder) / f"{n}.safetensors"
    began = time.monotonic()
    done = subprocess.run(hosts.command("submit", "--document", document, "--question", question_of(document)[0],
                                        "--json", out, "--dump", dump, "--quiet"),
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=patience_s)
    if done.returncode != 0:
        return None, done.stderr
    result = json.loads(out.read_text())
    result["whole_s"] = time.monotonic() - began
    return result, dump.read_bytes()


def jobs_over(baton, folder, link, document, repeats, wrong):
    """Some jobs one after the other: medians."""
    ids, dump = ask_one_process(baton, folder, document)
    with cluster(baton, folder, link) as hosts:
        rows = []
        for n in range(repeats):
            result, came = submit(hosts, folder, document, n)
            wrong.unless(result is not None, f"{document.name} over {link}: {came}")
            if result is None:
                continue
            wrong.unless(result["answer_ids"] == ids, f"{document.name} over {link}: another answer")
            wrong.unless(came == dump, f"{document.name} over {link}: other bits")
            rows.append(result)
        seen = hosts.told()
    return rows, seen


def cells_of(seen):
    memory = seen["memory"]
    sizes = [" / ".join(f"{memory[what][when] / MiB:.0f}" for when in ("before", "peak", "after"))
             for what in ("coordinator", "agents", "workers")]
    return [f"{seen['status_s']['median']:.2f} / {seen['status_s']['longest']:.2f} of {seen['status_s']['asked']}", *sizes]


def print_row(*cells):
    print("| " + " | ".join(str(c) for c in cells) + " |", flush=True)


watched = ["status s, median / longest of", "coordinator MiB, before / peak / after", "largest agent", "largest worker"]


def measure_jobs(given, folder, cases, wrong):
    print_row("document", "links", "whole s", "prefill s", "first token ms", "replays", *watched)
    print("|" + "---|" * 10)
    out = []
    for document, link in cases:
        rows, seen = jobs_over(given.baton, folder, links[link], document, given.repeats, wrong)
        if not rows:
            continue
        middle = lambda key: statistics.median(r[key] for r in rows)
        replays = sum(len(r["replays"]) for r in rows)
        print_row(document.stem, link, f"{middle('whole_s'):.2f}", f"{middle('prefill_s'):.2f}", f"{middle('first_token_s') * 1000:.0f}",
                  f"{replays} in {len(rows)}", *cells_of(seen))
        out.append({"document": document.stem, "links": link, "rows": rows, **seen})
    return out


def measure_links(given, folder, wrong):
    return measure_jobs(given, folder, [(documents / f"{d}.txt", link) for d in ("archive-2k", "archive-32k") for link in links], wrong)


def measure_long(given, folder, wrong):
    subprocess.run([sys.executable, root / "models/needle/make_document.py", "--tokens", "130944", "--name", "archive-128k",
                    "--folder", folder], check=True, stdout=subprocess.DEVNULL)
    document = pathlib.Path(folder) / "archive-128k.txt"
    return measure_jobs(given, folder, [(document, link) for link in ("none", "50 ms, 1 %, 100 Mbit/s")], wrong)


def measure_queue(given, folder, wrong):
    """A hundred jobs wait, some run, and one is too many."""
    document = documents / "archive-8k.txt"
    ids, _ = ask_one_process(given.baton, folder, document)
    question = question_of(document)[0]
    with cluster(given.baton, folder, slowest) as hosts:
        def one(_):
            return subprocess.run(hosts.command("submit", "--document", document, "--question", question, "--detach"),
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=patience_s)
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            tried = list(pool.map(one, range(given.jobs)))
        submitted_s = time.monotonic() - began
        taken = [t.stdout.strip() for t in tried if t.returncode == 0]
        refused = [t.stderr.strip() for t in tried if t.returncode != 0]
        wrong.unless(all("queue full" in r for r in refused), f"refused otherwise: {[r for r in refused if 'queue full' not in r]}")
        waited = sum(state == "queued" for state in hosts.look_at_states())
        wrong.unless(hosts.wait_for_calm(), "jobs did not end")
        all_s = time.monotonic() - began
        right = 0
        for job in taken:
            out = pathlib.Path(folder) / f"job{job}.json"
            done = subprocess.run(hosts.command("wait", job, "--json", out, "--quiet"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            good = done.returncode == 0 and json.loads(out.read_text())["answer_ids"] == ids
            wrong.unless(good, f"job {job}: {done.stderr}")
            right += good
        seen = hosts.told()
    print_row("submitted", "taken", "refused: queue full", "waiting once all were submitted", "right", "all submitted after s", "all done after s", *watched)
    print("|" + "---|" * 11)
    print_row(len(tried), len(taken), len(refused), waited, right, f"{submitted_s:.1f}", f"{all_s:.1f}", *cells_of(seen))
    return {"submitted": len(tried), "taken": len(taken), "refused": len(refused), "waiting": waited, "right": right,
            "submitted_s": submitted_s, "all_s": all_s, **seen}


def measure_vanish(given, folder, wrong):
    """Twenty come at once, again and again, and are killed at a random moment, while somebody's jobs go on."""
    document = documents / "archive-32k.txt"
    ids, dump = ask_one_process(given.baton, folder, document)
    question = question_of(document)[0]
    chance = random.Random(given.seed)
    with cluster(given.baton, folder, slowest) as hosts:
        began = time.monotonic()
        calm, _ = submit(hosts, folder, document, "calm")
        rounds, others = [], []
        stop = threading.Event()

        def somebody():
            while not stop.is_set():
                others.append(submit(hosts, folder, document, f"other{len(others)}"))

        steady = threading.Thread(target=somebody)
        steady.start()
        for _ in range(given.rounds):
            group = [subprocess.Popen(hosts.command("submit", "--document", document, "--question", question, "--quiet"),
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(20)]
            began_round = time.monotonic()
            for at, n in sorted((chance.uniform(0.2, given.until_s), n) for n in range(len(group))):
                time.sleep(max(0.0, began_round + at - time.monotonic()))
                group[n].send_signal(signal.SIGKILL)
            rounds.append([process.wait() for process in group])
        stop.set()
        steady.join()
        wrong.unless(hosts.wait_for_calm(120), "jobs of the vanished did not end")
        calm_after_s = time.monotonic() - began
        listed = subprocess.run(hosts.command("jobs", "--json"), stdout=subprocess.PIPE, text=True, check=True).stdout
        states = [job["state"] for job in json.loads(listed)]
        after, bits = submit(hosts, folder, document, "after")
        wrong.unless(after is not None and bits == dump and after["answer_ids"] == ids, f"after all that: {bits if after is None else 'other bits'}")
        for result, came in others:
            wrong.unless(result is not None and result["answer_ids"] == ids and came == dump, f"a job beside them: {came if result is None else 'other bits'}")
        seen = hosts.told()
    killed = sum(code == -signal.SIGKILL for codes in rounds for code in codes)
    counted = {state: states.count(state) for state in sorted(set(states))}
    print_row("submitters", "killed before they ended", "jobs afterwards", "jobs beside them, right to the bit", "replays", *watched)
    print("|" + "---|" * 9)
    print_row(sum(map(len, rounds)), killed, ", ".join(f"{n} {state}" for state, n in counted.items()), f"{len(others)}",
              sum(len(r["replays"]) for r, _ in others if r), *cells_of(seen))
    return {"submitters": sum(map(len, rounds)), "killed": killed, "states": counted, "beside": len(others), "whole_s": calm_after_s, **seen}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--baton", default=str(root / "build/release/baton"))
    options.add_argument("--only", default="links,long,queue,vanish")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--jobs", type=int, default=115, help="of `queue`")
    options.add_argument("--rounds", type=int, default=3, help="of `vanish`")
    options.add_argument("--until-s", type=float, default=8.0, help="of `vanish`: everybody is killed by then")
    options.add_argument("--seed", type=int, default=6, help="of `vanish`")
    options.add_argument("--json")
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("measure_cluster: asked to end"))  # the hosts are taken down
    parts = {"links": measure_links, "long": measure_long, "queue": measure_queue, "vanish": measure_vanish}
    wrong, out = failures(), {}
    for part in given.only.split(","):
        if part not in parts:
            options.error(f"--only: {part} is none of {', '.join(parts)}")
        with tempfile.TemporaryDirectory() as folder:
            out[part] = parts[part](given, folder, wrong)
        print(flush=True)
    if given.json:
        pathlib.Path(given.json).write_text(json.dumps({**out, "wrong": wrong}, indent=2) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
