#!/bin/sh
# Lints the Lua files with luacheck. Most of them are parts: Rust puts several together into one script, and a part uses
# the locals of the parts before it. The recipes are read from the Rust sources (`scripts!`, `include_str!`): a name counts
# as defined where an earlier part of each recipe defines it at its top level, and as used where any part uses it.
set -eu
cd "$(dirname "$0")/.."
python3 - <<'PY'
import os.path
import re
import subprocess
import sys

TEXT = re.compile(r"""(["'])(?:\\.|(?!\1).)*\1""")
TOP_LEVEL = re.compile(r"^local (?:function (\w+)|([\w, ]+?)\s*(?:=|$))")
NAME = re.compile(r"(?:variable|function|argument|of global) '?(\w+)'?|'(\w+)'")
UNDEFINED = {"W111", "W112", "W113", "W121", "W143"}
UNUSED_HERE = {"W211", "W221", "W231", "W241", "W311"}
# A finding without a remedy: `table.unpack or unpack` serves Lua 5.4 (Dragonfly) and 5.1 (Redis, Valkey).
EXPECTED = "'unpack' of global 'table'"


def tracked(pattern):
    listed = subprocess.run(["git", "ls-files", pattern], capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.split() if os.path.exists(path)]


def resolve(rust, name):
    return os.path.normpath(os.path.join(os.path.dirname(rust), name))


files = tracked("*.lua")
defines, uses = {path: set() for path in files}, {}
for path in files:
    for line in open(path, encoding="utf-8"):
        code = TEXT.sub("''", line).split("--")[0].rstrip()
        if top := TOP_LEVEL.match(code):
            defines[path].update((top[1] or top[2]).replace(",", " ").split())
        for name in re.findall(r"(?<![.:\w])[A-Za-z_]\w*", code):
            uses.setdefault(name, set()).add(path)

# Each recipe is a list of files in the order of the script.
recipes, folders = [], {}
for rust in tracked("*.rs"):
    source = open(rust, encoding="utf-8").read()
    for block in re.findall(r"^scripts! \{(.*?)^\}", source, re.M | re.S):
        for parts in re.findall(r"\w+ = (.*?);", block):
            recipes.append([resolve(rust, name) for name in ["common.lua", *re.findall(r'"(.*?)"', parts)]])
    included = re.findall(r'include_str!\("([^"]*\.lua)"\)', source)
    for folder in re.findall(r'include_str!\(concat!\("([^"]*/)", ', source):
        inside = [path for path in files if os.path.dirname(path) == resolve(rust, folder)]
        included += [os.path.relpath(path, os.path.dirname(rust)) for path in inside]
    if included and "macro_rules! scripts" not in source:
        folders.setdefault(os.path.dirname(rust), []).extend(resolve(rust, name) for name in included)
in_recipes = {path for recipe in recipes for path in recipe}
missing = sorted(in_recipes - set(files))
if missing:
    sys.exit(f"parts that do not exist: {missing}")


def is_defined_before(path, name):
    """Whether each recipe with this file defines the name earlier. Other files see all that their folder includes."""
    mine = [recipe for recipe in recipes if path in recipe]
    if mine:
        return all(any(name in defines[part] for part in recipe[:recipe.index(path)]) for recipe in mine)
    around = next((parts for parts in folders.values() if path in parts), [])
    return any(name in defines[part] for part in around if part != path)


globals_of_redis = ["redis", "cjson", "cmsgpack", "struct", "bit", "KEYS", "ARGV"]
ran = subprocess.run(
    ["luacheck", "--std", "lua51", "--read-globals", *globals_of_redis,
     "--no-max-line-length", "--no-color", "--codes", "--formatter", "plain", *files],
    capture_output=True, text=True)
if ran.returncode > 2:
    sys.exit(ran.stderr or ran.stdout)
findings = 0
for line in ran.stdout.splitlines():
    found = re.match(r"(\S+):(\d+):\d+: \((\w+)\) (.*)", line)
    if not found or EXPECTED in line:
        continue
    path, _, code, text = found.groups()
    named = NAME.search(text)
    name = (named[1] or named[2]) if named else ""
    if code in UNDEFINED and is_defined_before(path, name):
        continue
    if code in UNUSED_HERE and name in defines[path] and uses.get(name, set()) - {path}:
        continue
    findings += 1
    print(line)
print(f"{len(files)} Lua files in {len(recipes)} scripts and {len(folders)} folders: {findings} findings")
sys.exit(findings > 0)
PY
