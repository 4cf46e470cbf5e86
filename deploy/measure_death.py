#!/usr/bin/env python3
"""What the death of one worker in mid-prefill costs: runs over processes, undisturbed and with a worker killed or stopped, in turns.

Usage: deploy/measure_death.py [--baton build/release/baton] [--repeats 5] [--lengths 8K,32K] [--config FILE] [--victim NODE/DEVICE] [--tokens FILE]

Medians over the repeats. `noticed` is from the signal until the run says that the worker's ranks are computed again; `price` is how much longer
the prefill took; `shard` is what the dead worker's own ranks take to compute, up to the layer where they were; `restart` is what beginning
the whole job anew at that moment would have added.
"""
import argparse, json, os, pathlib, signal, statistics, subprocess, sys, tempfile, threading, time

root = pathlib.Path(__file__).resolve().parent.parent
documents = {"8K": "archive-8k", "32K": "archive-32k"}


def worker_of(run, node, device):
    """The process of that worker among the run's descendants."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append((int(entry.name), [w.decode() for w in words]))
    waiting = [run]
    while waiting:
        for pid, words in children.get(waiting.pop(), []):
            waiting.append(pid)
            if "worker" in words and node in words and device in words:
                return pid
    sys.exit(f"measure_death: no worker of {node}/{device} is there")


def asking(document):
    """Options that ask the first question about a sample document."""
    questions = (root / f"models/needle/documents/{document}.questions.jsonl").read_text().splitlines()
    return ["--document", f"models/needle/documents/{document}.txt", "--question", json.loads(questions[0])["question"]]


def run(given, job, harm=None, after_s=0.0):
    """One run: its JSON, and how long after the signal it said that ranks are computed again."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.json"
        process = subprocess.Popen(
            [given.baton, "run", "--config", given.config, *job, "--json", str(out)],
            cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        lines = []
        began = threading.Event()

        def read():
            for line in process.stderr:
                lines.append((time.monotonic(), line))
                if "prefill  " in line:
                    began.set()

        reader = threading.Thread(target=read)
        reader.start()
        hurt = None
        if harm is not None:
            if not began.wait(60):
                sys.exit("measure_death: the prefill did not begin")
            time.sleep(after_s)
            pid = worker_of(process.pid, *given.victim.split("/"))
            hurt = time.monotonic()
            os.kill(pid, harm)
        if process.wait(120) != 0:
            sys.exit("measure_death: the run failed: " + "".join(line for _, line in lines))
        reader.join()
        told = [at - hurt for at, line in lines if hurt and "is computed again" in line]
        return json.loads(out.read_text()), told[0] if told else None


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--baton", default="build/release/baton")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--lengths", default="8K,32K", help="of the sample documents")
    options.add_argument("--config", default="configs/processes.yaml", help="with processes: per_device")
    options.add_argument("--victim", default="east/cpu0", help="whose worker dies")
    options.add_argument("--tokens", help="token ids in place of the sample documents, as `baton run --tokens` takes them")
    given = options.parse_args()
    median = statistics.median
    jobs = {length: asking(documents[length]) for length in given.lengths.split(",")}
    if given.tokens:
        jobs = {pathlib.Path(given.tokens).stem: ["--tokens", given.tokens]}
    print("| tokens | death | noticed | layers | shard | price | restart | undisturbed |")
    print("|---|---|---|---|---|---|---|---|")
    for length, job in jobs.items():
        run(given, job)  # to warm up
        calm = [run(given, job)[0] for _ in range(given.repeats)]
        calm_s = median(r["prefill_s"] for r in calm)
        answers = {tuple(r["answer_ids"]) for r in calm}
        for name, harm in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP)):
            rows = []
            for _ in range(given.repeats):
                hurt, noticed_s = run(given, job, harm, calm_s / 2)
                answers.add(tuple(hurt["answer_ids"]))
                if noticed_s is None:
                    continue  # it had done its part already
                shards = [r for r in hurt["ranks"] if r["rank"] in {x["rank"] for x in hurt["replays"]}]
                layers = max(x["layers"] for x in hurt["replays"])
                of_layers = layers / calm[0]["plan"]["layers"] if "layers" in calm[0]["plan"] else 1
                rows.append((noticed_s, layers, sum(r["compute_s"] for r in shards) * of_layers, hurt["prefill_s"] - calm_s))
            if not rows:
                print(f"| {length} | {name} | none was in time |")
                continue
            noticed_s, layers, shard_s, price_s = (median(column) for column in zip(*rows))
            print(f"| {length} | {name} | {noticed_s * 1000:.0f} ms | {layers:g} | {shard_s:.2f} s | {price_s:.2f} s | "
                  f"{calm_s / 2 + noticed_s:.2f} s | {calm_s:.2f} s |", flush=True)
        if len(answers) != 1:
            sys.exit("measure_death: the answers differ")


if __name__ == "__main__":
    main()
