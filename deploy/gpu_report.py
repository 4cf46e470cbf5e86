"""Steps of gpu-check.sh: `lengths FOLDER` tells the options that give another run the lengths of the GPU's answer, a word a line;
`same FOLDER [OTHER]` compares that answer, or another one, with the CPU's, `report FOLDER` writes what all steps gave."""
import json
import pathlib
import struct
import sys


def tensors(path):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    for name, about in json.loads(raw[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = about["data_offsets"]
        kind = {"F32": "f", "I32": "i", "I64": "q"}[about["dtype"]]
        yield name, about["shape"], [x[0] for x in struct.iter_unpack("<" + kind, raw[8 + length + begin : 8 + length + end])]


def lengths(folder):
    plan = json.loads((folder / "answer.json").read_text())["plan"]
    blocks = ",".join(str(shard["block_tokens"]) for shard in plan["shards"])
    for option, tokens in (("block", blocks), ("anchor", plan["anchor_tokens"]), ("passing", plan["passing_tokens"])):
        print(f"--{option}-tokens\n{tokens}")
    return 0


def same(folder, answer="answer"):
    own, cpu = (json.loads((folder / f"{name}.json").read_text()) for name in (answer, "answer_cpu"))
    got, expected = ({n: (s, v) for n, s, v in tensors(folder / f"{name}.safetensors")} for name in (answer, "answer_cpu"))
    a, b = got["first_logits"][1], expected["first_logits"][1]
    distance = (sum((x - y) ** 2 for x, y in zip(a, b)) / sum(y**2 for y in b)) ** 0.5
    units = common = 0
    for name, (shape, values) in expected.items():
        if not name.startswith("selected"):
            continue
        for head in range(shape[0]):
            part = slice(head * shape[1], (head + 1) * shape[1])
            units += shape[1]
            common += len(set(values[part]) & set(got[name][1][part]))
    print(f"answer {own['answer'].strip()!r}, the CPU's {cpu['answer'].strip()!r}")
    print(f"first logits differ by {100 * distance:.2f} % of their norm; {common} of {units} chosen units are the CPU's")
    return 0 if own["answer_ids"] == cpu["answer_ids"] and distance < 0.05 and common >= 0.95 * units else 1


def report(folder):
    steps = [line.split("\t") for line in (folder / "steps.tsv").read_text().splitlines()]
    text = ["step         result        time"]
    text += [f"{n:<12} {'ok' if c == '0' else 'out of time' if c == '124' else 'failed':<12} {int(s):4d} s" for n, c, s in steps]
    result = {"steps": {n: {"code": int(c), "seconds": int(s)} for n, c, s in steps}}
    for name, code, _ in steps:
        log = (folder / f"{name}.log").read_text(errors="replace").splitlines()
        wanted = [l for l in log if l.startswith(("[  FAILED", "[  PASSED", "[  SKIPPED"))] if name in ("kernels", "engine") else log
        text += ["", f"---- {name}"] + wanted[-60:]
        result["steps"][name]["output"] = wanted[-60:]
        data = folder / f"{name}.json"
        if data.exists():
            result[name] = json.loads(data.read_text())
    (folder / "report.txt").write_text("\n".join(text) + "\n")
    (folder / "report.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"gpu-check: {folder}/report.txt, report.json")
    return 0


if __name__ == "__main__":
    sys.exit({"lengths": lengths, "same": same, "report": report}[sys.argv[1]](pathlib.Path(sys.argv[2]), *sys.argv[3:]))
