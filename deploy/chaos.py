"""What deploy/chaos.sh runs: jobs through a cluster that is hurt at random instants."""
import argparse, collections, concurrent.futures, json, os, pathlib, random, re, shutil, signal, sqlite3, subprocess, sys, tempfile, threading, time

root = pathlib.Path(__file__).resolve().parent.parent
baton = os.path.abspath(os.environ.get("BATON", root / "build/release/baton"))
nodes = ["n0", "n1", "n2"]
layers = json.loads((root / "models/needle/config.json").read_text())["num_hidden_layers"]
# Somebody who is alive gets a processor in time, as a rule: on a busy machine silence means death later.
slowness = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) / 3)
silence_s = 1.5 * slowness
settings = f"""timeouts: {{silence: {int(silence_s * 1000)}ms, exchange: {int(20 * slowness)}s, client: 5min}}
recovery: {{replays: 10, replacement: {int(60 * slowness)}s}}
"""
# A job may end like this and still not be lost: nobody could have helped it.
honest_ends = {
    "replays used up": re.compile(r"after \d+ replays of the shard"),
    "no device": re.compile(r"its device was lost and (there is no other|no other has room)"),
}


def say(text):
    print(f"chaos: {text}", flush=True)


def words_of(pid):
    try:
        return [w.decode(errors="replace") for w in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if w]
    except OSError:
        return []


class hosts_in_namespaces:
    """deploy/local-cluster.sh: every host is a network namespace."""

    cuts_links = True
    what = "network namespaces"

    def __init__(self, folder, precision):
        self.name = f"c{os.getpid() % 1000000}"
        self.subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self.folder = folder / "cluster"
        (folder / "settings.yaml").write_text(settings)
        self.environment = {**os.environ, "BATON": baton, "BATON_CLUSTER_DIR": str(self.folder)}
        self.call("up", "--nodes", str(len(nodes)), "--devices", "1", "--settings", str(folder / "settings.yaml"), "--precision", precision)
        self.config = self.folder / "cluster.yaml"
        self.slow = {}

    def call(self, *words):
        done = subprocess.run([str(root / "deploy/local-cluster.sh"), *words, "--name", self.name, "--subnet", self.subnet],
                              env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise SystemExit(f"chaos: local-cluster.sh {words[0]} ended with {done.returncode}: {done.stdout}")

    def space(self, host):
        return f"baton-{self.name}-{host}"

    def pids(self, host):
        out = subprocess.run(["ip", "netns", "pids", self.space(host)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return [int(p) for p in out.stdout.split()]

    def address(self, host):
        return f"{self.subnet}.{1 if host == 'coordinator' else 11 + int(host[1:])}"

    def ip(self, host, *words):
        return subprocess.run(["ip", "-n", self.space(host), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    def host_down(self, host):
        self.call("host-down", host)

    def host_up(self, host):
        self.call("host-up", host)

    def cut_off(self, host, yes):
        self.ip(host, "link", "set", "eth0", "down" if yes else "up")

    def cut_link(self, a, b, yes):
        for here, there in ((a, b), (b, a)):
            self.ip(here, "route", "add" if yes else "del", "blackhole", f"{self.address(there)}/32")

    def slow_down(self, host, yes):
        """1 % loss and 50 ms. False: this machine has no way to do it."""
        enter = ["ip", "netns", "exec", self.space(host)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if yes:
            if subprocess.run([*enter, "tc", "qdisc", "add", "dev", "eth0", "root", "netem", "loss", "1%", "delay", "50ms"], **quiet).returncode == 0:
                return True
            program = root / "deploy/slow_link.py"
            if not program.exists():
                return False
            self.slow[host] = subprocess.Popen([*enter, str(program), "eth0", "--delay", "50ms", "--loss", "1"], **quiet)
            time.sleep(0.3)
            return self.slow[host].poll() is None
        process = self.slow.pop(host, None)
        for which in ("root", "clsact"):
            subprocess.run([*enter, "tc", "qdisc", "del", "dev", "eth0", which], **quiet)
        if process:
            process.kill()
            process.wait()
        return True

    def logs(self):
        return {f.name: f.read_text(errors="replace") for f in sorted((self.folder / "log").glob("*.log"))}

    def journal(self):
        return self.folder / "journal"

    def end(self):
        self.call("down")
        left = subprocess.run(f"ip netns list | grep baton-{self.name}-; ip -o link show | grep bt-{self.name}", shell=True, stdout=subprocess.PIPE, text=True).stdout
        return [f"left behind: {line}" for line in left.splitlines()]


class hosts_on_loopback:
    """Processes on 127.0.0.x, which are started again a second after they have ended."""

    cuts_links = False
    what = "processes on 127.0.0.x (no network namespaces: no node and no link is cut off)"

    def __init__(self, folder, precision):
        self.folder = folder / "cluster"
        (self.folder / "log").mkdir(parents=True)
        self.config = self.folder / "cluster.yaml"
        port = 20000 + os.getpid() % 20000
        text = f'model: {{directory: "{root}/models/needle", prompt: needle, precision: {precision}}}\njob: {{strategy: apb, ranks: 3}}\n'
        text += f'processes: per_device\ncoordinator: {{address: 127.0.0.1, port: {port}, journal: "{self.folder}/journal"}}\nnodes:\n'
        for i, name in enumerate(nodes):
            text += f"  - {{name: {name}, address: 127.0.0.{i + 11}, devices: [{{name: cpu0, threads: 1, memory: 1GiB}}]}}\n"
        self.config.write_text(text + settings)
        self.up = {}
        self.running = {}
        self.lock = threading.Lock()
        for host in ["coordinator", *nodes]:
            self.host_up(host)

    def supervise(self, host, still):
        words = [baton, "coordinator" if host == "coordinator" else "node", "--config", str(self.config)]
        words += [] if host == "coordinator" else ["--name", host]
        while still.is_set():
            with open(self.folder / "log" / f"{host}.log", "a") as log:
                process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
                with self.lock:
                    self.running[host] = process
                process.wait()
                log.write(f"ended with {process.returncode}; started again in a second\n")
            time.sleep(1)

    def host_up(self, host):
        still = threading.Event()
        still.set()
        thread = threading.Thread(target=self.supervise, args=(host, still), daemon=True)
        self.up[host] = (still, thread)
        thread.start()

    def host_down(self, host):
        still, thread = self.up.pop(host)
        still.clear()
        for pid in reversed(self.pids(host)):
            kill(pid, signal.SIGKILL)
        thread.join()

    def pids(self, host):
        with self.lock:
            process = self.running.get(host)
        if process is None:
            return []
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.getsid(int(entry.name)) == process.pid and words_of(entry.name):
                    found.append(int(entry.name))
            except OSError:
                pass
        return sorted(found)

    logs = hosts_in_namespaces.logs
    journal = hosts_in_namespaces.journal

    def end(self):
        hosts = list(self.up)
        for host in hosts:
            self.host_down(host)
        return [f"left behind on {host}: {self.pids(host)}" for host in hosts if self.pids(host)]


def kill(pid, what):
    try:
        os.kill(pid, what)
        return True
    except ProcessLookupError:
        return False


def may_use_namespaces():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    probe = f"baton-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], stderr=subprocess.DEVNULL).returncode != 0:
        return False
    subprocess.run(["ip", "netns", "delete", probe])
    return True


def kinds_of_jobs():
    """What is asked: documents and questions, strategies, greedy and sampled."""
    all_kinds = []
    for document, questions in (("archive-2k", (0, 1, 2)), ("archive-8k", (1,))):
        asked = [json.loads(line)["question"] for line in (root / f"models/needle/documents/{document}.questions.jsonl").read_text().splitlines()]
        for number in questions:
            for strategy, ranks in (("apb", 3), ("apb", 6), ("star", 4), ("full", 1)):
                if document == "archive-8k" and ranks in (3, 4):  # few large ones
                    continue
                sampled = len(all_kinds) % 2 == 1
                words = ["--document", str(root / f"models/needle/documents/{document}.txt"), "--question", asked[number], "--strategy", strategy]
                words += ["--ranks", str(ranks), "--max-new-tokens", "12"]
                words += ["--temperature", "1.1", "--top-p", "0.95", "--seed", str(number + 3)] if sampled else []
                all_kinds.append((f"{document} {strategy} {ranks} question {number}{' sampled' if sampled else ''}", words))
    return all_kinds


class flow:
    """One cluster and its jobs."""

    def __init__(self, given, hosts, folder, numbers):
        self.given, self.hosts, self.folder, self.random = given, hosts, folder, numbers
        self.kinds = kinds_of_jobs()
        self.answers = {}
        self.results = []  # (name, state, replays, seconds, text)
        self.broken = []
        self.faults = collections.Counter()
        self.lock = threading.Lock()
        self.began = time.monotonic()
        self.history = []
        self.timers, self.hurt, self.under_way = [], set(), set()
        self.clients = set()

    def command(self, *words, timeout_s=600):
        process = subprocess.Popen([baton, *words, "--config", str(self.hosts.config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with self.lock:
            self.clients.add(process)
        try:
            out, err = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
            process.wait()
            with self.lock:
                self.clients.discard(process)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def abandon(self):
        with self.lock:
            for process in self.clients:
                process.kill()
        for timer in self.timers:
            timer.cancel()

    def status(self):
        done = self.command("status", "--json", timeout_s=60)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def wait_until_whole(self, patience_s=120):
        deadline = time.monotonic() + patience_s
        status = None
        while time.monotonic() < deadline:
            status = self.status()
            if status and all(n["state"] == "idle" and all(d["state"] == "idle" for d in n["devices"]) for n in status["nodes"]):
                return None
            time.sleep(0.2)
        return status or "no answer"

    def ask(self, number, kind, detached):
        """One job to its end: state, replays, seconds, text."""
        name, words = kind
        out = self.folder / f"job-{number}.json"
        request = f"chaos-{number}"
        begun = time.monotonic()
        try:
            if detached:
                done = self.command("submit", *words, "--request-id", request, "--detach")
                if done.returncode == 0:
                    done = self.command("wait", done.stdout.split()[0], "--json", str(out), "--quiet")
            else:
                done = self.command("submit", *words, "--request-id", request, "--json", str(out), "--quiet")
        except subprocess.TimeoutExpired:
            return "lost", [], time.monotonic() - begun, "no end within 600 s"
        seconds = time.monotonic() - begun
        if done.returncode == 0:
            result = json.loads(out.read_text())
            out.unlink()
            answer = tuple(result["answer_ids"])
            if name in self.answers and answer != self.answers[name]:
                return "wrong", result["replays"], seconds, f"answered {answer} instead of {self.answers[name]}"
            self.answers.setdefault(name, answer)
            return "right", result["replays"], seconds, ""
        text = done.stderr.strip()[-600:]
        if "queue full" in text:
            return "refused", [], seconds, text
        for reason, pattern in honest_ends.items():
            if pattern.search(text):
                return reason, [], seconds, text
        return "lost", [], seconds, f"exit code {done.returncode}: {text}"

    # ---- faults ----

    def find(self, role):
        """Pids of the coordinator, of agents or of workers, from the system."""
        found = []
        for host in ["coordinator"] if role == "coordinator" else nodes:
            for pid in self.hosts.pids(host):
                words = words_of(pid)
                if len(words) > 1 and os.path.realpath(words[0]) == os.path.realpath(baton) and words[1] == role:
                    found.append((pid, host))
                elif len(words) > 1 and words[0].endswith("baton") and words[1] == role:
                    found.append((pid, host))
        return found

    def one_of(self, role):
        found = self.find(role)
        return self.random.choice(found) if found else None

    def later(self, seconds, what):
        timer = threading.Timer(seconds, what)
        self.timers.append(timer)
        timer.start()

    def fault(self):
        kinds = ["kill worker"] * 5 + ["kill agent and relay"] * 3 + ["kill coordinator"] * 2 + ["stop worker"] * 2 + ["stop agent"] + ["stop coordinator", "stop and kill coordinator"]
        if self.hosts.cuts_links:
            kinds += ["node torn down"] * 2 + ["node cut off"] * 2 + ["link between two nodes cut"] * 2 + ["slow and lossy link"]
        if time.monotonic() < self.coordinator_rests_until:
            kinds = [k for k in kinds if "coordinator" not in k]
        kind = self.random.choice(kinds)
        if "coordinator" in kind:
            # What had not begun to compute is planned anew with the next one: jobs must have a chance between two of them.
            self.coordinator_rests_until = time.monotonic() + 5 * self.gap_s
        length_s = self.random.uniform(1.2, 2.5) * silence_s
        where = ""
        if kind in self.under_way and kind not in ("kill worker", "kill agent and relay"):
            return
        if kind.startswith("kill"):
            victim = self.one_of({"kill worker": "worker", "kill agent and relay": "node", "kill coordinator": "coordinator"}[kind])
            if not victim or not kill(victim[0], signal.SIGKILL):
                return
            where = victim[1]
        elif kind.startswith("stop"):
            victim = self.one_of({"stop worker": "worker", "stop agent": "node"}.get(kind, "coordinator"))
            if not victim or not kill(victim[0], signal.SIGSTOP):
                return
            where = victim[1]
            last = signal.SIGKILL if kind == "stop and kill coordinator" else signal.SIGCONT
            self.later(length_s, lambda: kill(victim[0], last))
        else:
            host = self.random.choice(nodes)
            if host in self.hurt:
                return
            where = host
            self.hurt.add(host)
            self.under_way.add(kind)
            if kind == "node torn down":
                self.hosts.host_down(host)
                mend = lambda: self.hosts.host_up(host)
            elif kind == "node cut off":
                self.hosts.cut_off(host, True)
                mend = lambda: self.hosts.cut_off(host, False)
            elif kind == "slow and lossy link":
                if not self.hosts.slow_down(host, True):
                    self.hurt.discard(host)
                    self.under_way.discard(kind)
                    return
                mend = lambda: self.hosts.slow_down(host, False)
            else:
                other = self.random.choice([n for n in nodes if n != host])
                where = f"{host} {other}"
                length_s = self.random.uniform(2, 12)
                self.hosts.cut_link(host, other, True)
                mend = lambda: self.hosts.cut_link(host, other, False)

            def over():
                try:
                    mend()
                except (SystemExit, OSError) as why:  # a thread would end over it without a word, and the host stay away
                    self.broken.append(f"not mended: {kind} {where}: {why}")
                self.hurt.discard(host)
                self.under_way.discard(kind)
                self.history.append(f"{time.monotonic() - self.began:7.2f} s  mended: {kind} {where}")

            self.later(length_s, over)
        self.faults[kind] += 1
        self.history.append(f"{time.monotonic() - self.began:7.2f} s  {kind} {where}")

    # ---- the whole ----

    def seconds_left(self):
        """Until no more jobs begin."""
        return self.began + self.given.seconds - time.monotonic() if self.given.seconds else float("inf")

    def run(self, first, count):
        trouble = self.wait_until_whole()
        if trouble:
            self.broken.append(f"the cluster did not come up: {trouble}")
            return
        calm_s = []
        for i, kind in enumerate(self.kinds):
            # On a slow machine fewer kinds, so that time is left to hurt some.
            if calm_s and self.seconds_left() < 0.6 * self.given.seconds:
                break
            state, _, seconds, text = self.ask(f"calm-{first}-{i}", kind, False)
            calm_s.append(seconds)
            if state != "right":
                self.broken.append(f"undisturbed, {kind[0]}: {state} {text}")
        self.kinds = self.kinds[: len(calm_s)]
        self.calm_fds = self.count_of_descriptors()
        mend_s = self.time_to_mend()
        # Faults come no faster than jobs, and than what was killed comes back: on a slow or busy machine the same faults per job, not per
        # second. Else nobody would be there most of the time, and little would be tried.
        self.gap_s = max(self.given.gap, 2 * sum(calm_s) / len(calm_s), mend_s)
        self.coordinator_rests_until = 0.0
        say(f"{len(self.kinds)} kinds of jobs answered undisturbed, in {sum(calm_s) / len(calm_s):.2f} s on average; a killed worker is back after {mend_s:.1f} s; a fault every {self.gap_s:.1f} s")
        plan = [(first + i, self.kinds[self.random.randrange(len(self.kinds))], self.random.random() < 0.25) for i in range(count)]
        stop = threading.Event()
        flow_began = time.monotonic()
        done_count = 0

        def one(job):
            nonlocal done_count
            if stop.is_set():
                return
            state, replays, seconds, text = self.ask(*job)
            with self.lock:
                done_count += 1
                self.results.append((job[1][0], state, replays, seconds, text))
                if state not in ("right", "refused", *honest_ends):
                    say(f"BROKEN: job {job[0]} ({job[1][0]}): {state}: {text}")
                    self.broken.append(f"job {job[0]} ({job[1][0]}{', detached' if job[2] else ''}) at {time.monotonic() - self.began:.1f} s: {state}: {text}")
                if done_count % 50 == 0:
                    say(f"{done_count} jobs after {time.monotonic() - flow_began:.0f} s, {sum(self.faults.values())} faults, {len(self.broken)} broken promises")

        with concurrent.futures.ThreadPoolExecutor(self.given.at_once) as pool:
            try:
                jobs = [pool.submit(one, job) for job in plan]
                next_fault = time.monotonic() + self.random.expovariate(1 / self.gap_s)
                while not all(j.done() for j in jobs):
                    time.sleep(0.02)
                    now = time.monotonic()
                    if self.seconds_left() < 0:
                        stop.set()
                    # A machine that has become slower gets fewer: else jobs would begin anew for ever.
                    may_hurt = sum(self.faults.values()) < done_count + 2 * self.given.at_once
                    if now >= next_fault and may_hurt and not stop.is_set():
                        self.fault()
                        # Also two in a row: the second while the first is being mended.
                        gap = self.random.uniform(0, 0.4) if self.random.random() < 0.3 else self.random.expovariate(1 / self.gap_s)
                        next_fault = time.monotonic() + gap
            except BaseException:
                stop.set()
                self.abandon()
                raise
        for job in jobs:
            job.result()
        for timer in self.timers:
            timer.join()
        self.seconds = time.monotonic() - flow_began
        self.check_what_is_left()

    def time_to_mend(self):
        """How long a worker that is killed is away."""
        killed = time.monotonic()
        kill(self.one_of("worker")[0], signal.SIGKILL)
        while len(self.find("worker")) == len(nodes):
            time.sleep(0.02)
        while len(self.find("worker")) < len(nodes):
            time.sleep(0.1)
        if trouble := self.wait_until_whole():
            self.broken.append(f"a killed worker did not come back: {trouble}")
        return time.monotonic() - killed

    def count_of_descriptors(self):
        counts = {}
        for role in ("coordinator", "node", "worker"):
            for pid, host in self.find(role):
                try:
                    counts[f"{role} on {host}"] = len(os.listdir(f"/proc/{pid}/fd"))
                except OSError:
                    pass
        return counts

    def check_what_is_left(self):
        trouble = self.wait_until_whole()
        if trouble:
            self.broken.append(f"the cluster is not whole again: {json.dumps(trouble)}")
        for role, expected in (("coordinator", 1), ("node", len(nodes)), ("worker", len(nodes))):
            found = self.find(role)
            if len(found) != expected:
                self.broken.append(f"{len(found)} processes '{role}' instead of {expected}: {found}")
        deadline = time.monotonic() + 40
        while True:  # connections of clients that are gone go within a while
            now = self.count_of_descriptors()
            more = {k: (self.calm_fds.get(k), n) for k, n in now.items() if n > self.calm_fds.get(k, 0) + 8}
            if not more or time.monotonic() > deadline:
                break
            time.sleep(1)
        if more:
            self.broken.append(f"descriptors before and after: {more}")
        for role in ("node", "worker"):
            for pid, host in self.find(role):
                for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
                    try:
                        target = os.readlink(fd)
                    except OSError:
                        continue
                    if "(deleted)" in target and "baton" in target:
                        self.broken.append(f"{role} on {host} still has {target}")
        journal = self.hosts.journal()
        for document in (journal / "documents").iterdir():
            self.broken.append(f"the journal still has {document.name}, which no job needs")
        with sqlite3.connect(f"file:{journal}/journal.sqlite?mode=ro", uri=True) as database:
            if database.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
                self.broken.append("the journal's file is damaged")
            unfinished = database.execute("SELECT request FROM jobs WHERE state = 0").fetchall()
            if unfinished:
                self.broken.append(f"the journal has jobs that did not end: {unfinished}")
            known = {row[0] for row in database.execute("SELECT request FROM jobs")}
            self.generation = database.execute("SELECT generation FROM starts").fetchone()[0]
        told = sum(1 for r in self.results if r[1] not in ("refused",))
        kept = sum(1 for k in known if re.fullmatch(r"chaos-\d+", k))
        if kept < told and told + len(self.kinds) < 1000:
            self.broken.append(f"{told} jobs were told an end, the journal knows {kept}")


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("chaos: asked to end"))
    signal.signal(signal.SIGINT, lambda *_: sys.exit("chaos: asked to end"))
    options = argparse.ArgumentParser(prog="deploy/chaos.sh", description=__doc__)
    options.add_argument("--jobs", type=int, default=40)
    options.add_argument("--seed", type=int, default=None)
    options.add_argument("--seconds", type=float, default=0)
    options.add_argument("--gap", type=float, default=2)
    options.add_argument("--at-once", type=int, default=4)
    options.add_argument("--precision", choices=("both", "bf16", "fp32"), default="both")
    options.add_argument("--loopback", action="store_true")
    options.add_argument("--keep-logs", metavar="FOLDER")
    given = options.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 31)
    kind = hosts_on_loopback if given.loopback or not may_use_namespaces() else hosts_in_namespaces
    again = f"deploy/chaos.sh --jobs {given.jobs} --seed {seed} --gap {given.gap:g} --at-once {given.at_once} --precision {given.precision}" + (" --loopback" if given.loopback else "")
    say(f"seed {seed}; hosts are {kind.what}; silent is who says nothing for {silence_s:.1f} s")
    shared_before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    broken, results, faults, history, seconds, restarts = [], [], collections.Counter(), [], 0.0, 0
    precisions = ("bf16", "fp32") if given.precision == "both" else (given.precision,)
    began = time.monotonic()
    first = 0
    for i, precision in enumerate(precisions):
        count = given.jobs * (i + 1) // len(precisions) - first
        with tempfile.TemporaryDirectory(prefix="baton-chaos-") as name:
            folder = pathlib.Path(name)
            hosts = kind(folder, precision)
            part = flow(given, hosts, folder, random.Random(seed * 2 + i))
            part.seconds, part.generation = 0.0, 0
            # What it took to come up counts; what an earlier part has left of its time is this one's too.
            part.began = began if i == 0 else time.monotonic()
            left_s = given.seconds - (part.began - began)
            part.given = argparse.Namespace(**{**vars(given), "seconds": max(left_s, 1) / (len(precisions) - i) if given.seconds else 0})
            try:
                part.run(first, count)
            finally:
                logs = hosts.logs()
                part.broken += hosts.end()
                if given.keep_logs or part.broken:
                    keep = pathlib.Path(given.keep_logs or tempfile.mkdtemp(prefix="baton-chaos-logs-")) / precision
                    keep.mkdir(parents=True, exist_ok=True)
                    for log, text in logs.items():
                        (keep / log).write_text(text)
                    (keep / "faults.txt").write_text("\n".join(part.history) + "\n")
                    say(f"logs and faults of {precision}: {keep}")
        first += count
        broken += [f"{precision}: {b}" for b in part.broken]
        results += part.results
        faults += part.faults
        seconds += part.seconds
        restarts += max(0, part.generation - 1)
    for entry in sorted(set(os.listdir("/dev/shm")) - shared_before if shared_before or os.path.isdir("/dev/shm") else []):
        if "baton" in entry:
            broken.append(f"left in /dev/shm: {entry}")

    states = collections.Counter(r[1] for r in results)
    replays = [x for r in results for x in r[2]]
    hit = sum(1 for r in results if r[2])
    too_many = [x for x in replays if x["layers"] > layers]
    if too_many:
        broken.append(f"replays of more layers than there are: {too_many}")
    say(f"{len(results)} jobs in {seconds:.0f} s, seed {seed}, precision {' and '.join(precisions)}, hosts: {kind.what}")
    say(f"answers as undisturbed: {states['right']}; refused: {states['refused']}; " +
        "; ".join(f"{reason}: {states[reason]}" for reason in honest_ends))
    say(f"faults: {sum(faults.values())} (" + ", ".join(f"{k} {n}" for k, n in sorted(faults.items())) + ")")
    if kind.cuts_links and not faults["slow and lossy link"]:
        say("no link was slow and lossy: no chance, or this machine cannot make one")
    say(f"{len(replays)} replays in {hit} jobs, {sum(x['layers'] for x in replays)} layers computed again; the coordinator started again {restarts} times")
    if replays:
        whole = [x["seconds"] + x["detect_ms"] / 1000 for x in replays]
        say(f"recovery, from the last sign of life until the shard was where it had been: p50 {percentile(whole, 0.5):.2f} s, p99 {percentile(whole, 0.99):.2f} s")
    times = [r[3] for r in results if r[1] == "right"]
    say(f"a job's time: p50 {percentile(times, 0.5):.2f} s, p99 {percentile(times, 0.99):.2f} s")
    say(f"jobs lost: {states['lost'] + states['wrong']}")
    for line in broken:
        say(f"BROKEN: {line}")
    if broken:
        say(f"to see it again: {again}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
