#!/usr/bin/env python3
"""Finds circles in the imports between the source files, and between the top-level modules, of the worker.

An import through a re-export counts for the file that defines the name. Test, fuzz and simulator code does not count.
"""
import collections
import os
import re
import subprocess

LEFT_OUT = re.compile(r"(^|/)(tests|testing|fuzz|fuzzing|simulator|demo)(/|\.rs$)|/docs\.rs$")


def production_files():
    listed = subprocess.run(["git", "ls-files", "src/*.rs"], capture_output=True, text=True, check=True).stdout.split()
    return [path for path in listed if os.path.exists(path) and not LEFT_OUT.search(path)]


def module_of(path):
    parts = path.removeprefix("src/").removesuffix(".rs").split("/")
    if parts[-1] == "mod":
        parts.pop()
    return () if parts in (["lib"], ["main"]) else tuple(parts)


def leaves(tree, prefix=()):
    """All paths of a use tree: `a::{b, c::d}` gives (a, b) and (a, c, d)."""
    tree = tree.strip()
    if "{" not in tree:
        tree = tree.split(" as ")[0]
        path = tuple(part.strip() for part in tree.split("::") if part.strip() not in ("", "self"))
        # `self::` at the front is kept, `::self` at the end names the module itself.
        return [prefix + ((("self",) if tree.startswith("self::") else ()) + path)]
    head, inner = tree.split("{", 1)
    head = prefix + tuple(part.strip() for part in head.split("::") if part.strip())
    inner, depth, start, found = inner.rsplit("}", 1)[0], 0, 0, []
    for at, char in enumerate(inner + ","):
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            if inner[start:at].strip():
                found += leaves(inner[start:at], head)
            start = at + 1
    return found


class Sources:
    def __init__(self):
        self.text, self.file_of, self.uses = {}, {}, {}
        for path in production_files():
            with open(path, encoding="utf-8") as file:
                text = re.split(r"^#\[cfg\(test\)\]\nmod tests \{", file.read(), flags=re.M)[0]
            text = re.sub(r"//[^\n]*|pub\(in [\w:]+\)", "", text)
            self.text[path] = text
            self.file_of[module_of(path)] = path
        for path, text in self.text.items():
            self.uses[path] = [
                (bool(public), leaf)
                for public, tree in re.findall(r"^(pub(?:\([a-z: ]+\))? )?use ([^;]+);", text, flags=re.M)
                for leaf in leaves(tree)
            ]

    def absolute(self, path, module):
        """The path from the crate's root; nothing for other crates."""
        if path[0] == "crate":
            return path[1:]
        if path[0] == "self":
            return module + path[1:]
        if path[0] == "super":
            up = module
            while path and path[0] == "super":
                up, path = up[:-1], path[1:]
            return up + path
        return module + path if module + path[:1] in self.file_of else None

    def defining_file(self, path, seen=()):
        """The file that defines the name, through re-exports."""
        for length in range(len(path), -1, -1):
            file = self.file_of.get(path[:length])
            if file is None:
                continue
            rest = path[length:]
            if rest and (path not in seen):
                for public, leaf in self.uses[file]:
                    if public and leaf[-1] in (rest[0], "*"):
                        target = self.absolute(leaf, path[:length])
                        if target is not None and target != path:
                            return self.defining_file(target + rest[1:], (*seen, path))
            return file
        return None

    def imports(self):
        graph = collections.defaultdict(set)
        for path, text in self.text.items():
            module = module_of(path)
            named = [leaf for public, leaf in self.uses[path] if not public]
            body = re.sub(r"^(pub(?:\([a-z: ]+\))? )?use [^;]+;", "", text, flags=re.M)
            named += [tuple(name.split("::")) for name in re.findall(r"\b(?:crate|super)(?:::\w+)+", body)]
            for leaf in named:
                target = self.absolute(leaf, module)
                file = target is not None and self.defining_file(target)
                if file and file != path:
                    graph[path].add(file)
        return graph


def circles(graph):
    """Strongly connected components of more than one node (Tarjan)."""
    index, low, stack, on_stack, found = {}, {}, [], set(), []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        on_stack.add(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in on_stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = []
            while True:
                other = stack.pop()
                on_stack.discard(other)
                component.append(other)
                if other == node:
                    break
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(found)


def main():
    files = Sources().imports()
    modules = collections.defaultdict(set)
    for path, targets in files.items():
        own = path.split("/")[1].removesuffix(".rs")
        for target in targets:
            other = target.split("/")[1].removesuffix(".rs")
            if own != other and {own, other}.isdisjoint({"lib", "main"}):
                modules[own].add(other)
    for name, graph in (("files", files), ("top-level modules", modules)):
        found = circles(graph)
        largest = max(map(len, found), default=0)
        print(f"import circles between {name}: {len(found)}; the largest has {largest}")
        for circle in found:
            print(f"  {', '.join(circle)}")


if __name__ == "__main__":
    main()
