#!/usr/bin/env bash
# From a fresh checkout to an answer: installs packages, builds the program, and asks the sample document its first question.
# Options are passed on to `baton run`, for example: deploy/quickstart.sh --strategy star --compare full
set -euo pipefail
cd "$(dirname "$0")/.."

deploy/bootstrap.sh

echo "quickstart: building build/release/baton"
cmake --preset release
cmake --build --preset release --target baton

document=models/needle/documents/archive-32k.txt
field() { python3 -c 'import json, sys; print(json.loads(open(sys.argv[1]).readline())[sys.argv[2]])' "${document%.txt}.questions.jsonl" "$1"; }
question=$(field question)
answer=$(field answer)

result=build/quickstart.json
[[ " $* " == *" --json"* ]] || set -- "$@" --json "$result"

echo "quickstart: build/release/baton run --config configs/quickstart.yaml --document $document --question \"$question\" $*"
build/release/baton run --config configs/quickstart.yaml --document "$document" --question "$question" "$@"
echo "quickstart: the document's answer is: $answer"
if [[ " $* " == *" --json $result "* ]]; then
  python3 - "$result" "$answer" <<'PYTHON'
import json, sys
given = json.load(open(sys.argv[1]))["answer"].strip()
sys.exit(0 if given == sys.argv[2].strip() else f"quickstart: the model answered otherwise: {given}")
PYTHON
fi
