#!/bin/sh
# Measures the code as a reader meets it: names of types, lengths of files and functions, modules that import each other.
# Production Rust only.
set -eu
cd "$(dirname "$0")/.."
python3 - <<'PYTHON'
import collections, re, subprocess

paths = subprocess.run(["git", "ls-files", "src/*.rs", "jobs/*.rs"], capture_output=True, text=True).stdout.split()
paths = [path for path in paths if not re.search(r"(^|/)(tests|testing|simulator|demo)(/|\.rs$)", path)]
TYPE = re.compile(r"^(?:pub(?:\([a-z: ]+\))? )?(?:struct|enum|trait|type|union) ([A-Z]\w*)", re.M)
# Each job type has a Payload and an Output by design, and each layout of the queues the same rows and replies.
SIBLINGS = {"Payload", "Output", "ClaimedRow", "ClaimReply", "JsonAnswer", "RawText", "Value"}

sources = {}
for path in paths:
    with open(path, encoding="utf-8") as file:
        # Tests at the end of a file are not production code.
        sources[path] = re.split(r"^#\[cfg\(test\)\]\nmod tests \{", file.read(), flags=re.M)[0]

types = collections.defaultdict(list)
for path, text in sources.items():
    for name in TYPE.findall(text):
        types[name].append(path)
shared = {name: at for name, at in types.items() if len(at) > 1 and name not in SIBLINGS}
single = [name for name in types if len(re.findall(r"[A-Z][a-z0-9]*", name)) == 1]
total = sum(map(len, types.values()))
sharing = sum(map(len, shared.values()))
print(f"types: {total}; of one word: {len(single)} ({100 * len(single) / len(types):.0f} %)")
print(f"types that share their name: {sharing} ({100 * sharing / total:.1f} %)")
for name, at in sorted(shared.items()):
    print(f"  {name}: {', '.join(at)}")

lengths = sorted((text.count("\n"), path) for path, text in sources.items())
middle, ninth = lengths[len(lengths) // 2][0], lengths[len(lengths) * 9 // 10][0]
print(f"files: {len(lengths)}; lines: median {middle}, p90 {ninth}, longest {lengths[-1][0]} ({lengths[-1][1]})")

functions = []
for path, text in sources.items():
    lines = text.split("\n")
    for start, line in enumerate(lines):
        match = re.match(r"( *)(?:pub(?:\([a-z: ]+\))? )?(?:const |async )*fn (\w+)", line)
        if not match:
            continue
        end = next((n for n in range(start, len(lines)) if re.fullmatch(match[1] + r"}", lines[n])), None)
        ends_at_once = next((n for n in range(start, len(lines)) if lines[n].rstrip().endswith((";", "{", "{}"))), start)
        if end is not None and lines[ends_at_once].rstrip().endswith("{"):
            functions.append((end - start + 1, f"{path} {match[2]}"))
functions.sort()
print(f"functions: {len(functions)}; lines: median {functions[len(functions) // 2][0]}, "
      f"p90 {functions[len(functions) * 9 // 10][0]}, longest {functions[-1][0]} ({functions[-1][1]})")

modules = collections.defaultdict(set)
for path, text in sources.items():
    if not path.startswith("src/"):
        continue
    own = path.split("/")[1].removesuffix(".rs")
    for name in re.findall(r"crate::(?:\{[^;]*?)?\b([a-z_]+)(?:::|,|\})", text):
        modules[own].add(name)
    for block in re.findall(r"^use crate::\{(.*?)^\};", text, flags=re.M | re.S):
        modules[own].update(re.findall(r"^    ([a-z_]+)(?:::|,)", block, flags=re.M))
known = set(modules)
pairs = sorted({tuple(sorted((a, b))) for a in known for b in modules[a] & known if a != b and a in modules[b]})
print(f"pairs of top-level modules that import each other: {len(pairs)}")
for a, b in pairs:
    print(f"  {a} <-> {b}")
PYTHON
python3 scripts/import-circles.py
sh scripts/lint-prose.sh
