#!/bin/sh
# Counts the words that STYLE.md excludes, in comments and documents. Fails above 0.5 per 1,000 words and lists them.
set -eu
cd "$(dirname "$0")/.."
python3 - "$@" <<'PY'
import re
import subprocess
import sys

MARKERS = re.compile(
    r"\b(whoever|whom|nobody|somebody|anybody|anew|afresh|shall|amiss|heed|heeds|heeded|for ever|in vain|meanwhile|besides)\b",
    re.IGNORECASE,
)
COMMENTS = {".rs": re.compile(r"^\s*//[/!]?(.*)|.*\s// (.*)"), ".lua": re.compile(r"^\s*--(.*)|.*\s-- (.*)")}
# STYLE.md and the licence quote them; the corpus holds answers of models.
SKIPPED = {"STYLE.md", "LICENSE", "CHANGELOG.md", "scripts/lint-prose.sh"}
MOST = 0.5

words, found = 0, []
files = subprocess.run(["git", "ls-files", "*.rs", "*.lua", "*.md"], capture_output=True, text=True, check=True)
for path in files.stdout.split():
    if path in SKIPPED:
        continue
    pattern = COMMENTS.get(path[path.rfind("."):])
    fenced = False
    for number, line in enumerate(open(path, encoding="utf-8"), 1):
        if pattern:
            match = pattern.match(line)
            text = next((part for part in match.groups() if part), "") if match else ""
        else:
            fenced ^= line.startswith("```")
            text = "" if fenced else line
        words += len(text.split())
        found += [(path, number, word, text.strip()) for word in MARKERS.findall(text)]

rate = 1000 * len(found) / max(words, 1)
print(f"{len(found)} marker words in {words} words of comments and documents: {rate:.2f} per 1,000")
if rate > MOST or "--list" in sys.argv:
    for path, number, word, text in found:
        print(f"{path}:{number}: {word}: {text}")
sys.exit(rate > MOST)
PY
