"""Every error message of the product, found in its source, and whether docs/troubleshooting.md has it.

`python -m tests.messages` lists those that it lacks, and those that nobody says any more; with --all every message.
A message is what a call that makes an error is given (`…Error(…)`, `…Fault(…)`, a form's `add_error`, a `Finding` of
the doctor's that isn't ok, …), behind its code or path where it has one; what a table with `message` and `fix`, or
`error`, holds; what a `fault` is set to; what a function called `refusal` returns; what the shell scripts `fail` with;
and what the pages' scripts say of a failure. What is filled in at run time is written as `…`.
"""

import ast
import functools
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = ("controlplane", "training", "inference", "monitoring")
SCRIPTS = ("bin/setup", "bin/up", "deploy/setup-host")
GUIDE = CHECKOUT / "docs" / "troubleshooting.md"
HOLE = "…"
MAKERS = re.compile(
    r"(Error|Fault|ImproperlyConfigured)$|^(add_error|fault|refuse|refusal|_fault|_refuse|_refusal|_give_up|fail_before_launch|Outcome|"
    r"Finding|_contradicted)$"
)
FAULTS = re.compile(r"^_?faults?$")
REFUSALS = re.compile(r"^(_?refusal|lost)$")
SAYING = re.compile(r"\btoast\(|[fF]ault\b|\bsentence =|\bError\(|\bsay\(`|\berror\.message\b")
"""Lines of the pages' scripts that say what failed."""

INTERNAL = frozenset({
    "RuntimeError", "AssertionError", "TypeError", "NotImplementedError", "LateError", "JobPausedError",
    "StoppedWhileLoadingError", "SweepCancelledError", "MalformedEventError", "AttributeError", "FieldFault",
})  # fmt: skip
"""Mistakes of a programmer, what never leaves the process that raises it, and what goes along with a whole message."""


class Texts:
    """Strings by name: those of a module, and those of every module for what is imported."""

    def __init__(self) -> None:
        self.everywhere: dict[str, ast.expr] = {}
        self.module: dict[str, ast.expr] = {}
        self.function: dict[str, list[ast.expr]] = {}

    def read(self, tree: ast.Module) -> None:
        """Notes the constants of a module."""
        self.module = dict(_assigned(tree))
        self.everywhere.update(self.module)

    def of(self, name: str) -> list[ast.expr]:
        """What a name may stand for here."""
        if name in self.function:
            return self.function[name]
        found = self.module.get(name) or (self.everywhere.get(name) if name.isupper() else None)
        return [found] if found is not None else []


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Assign) and isinstance(child.targets[0], ast.Name):
            yield child.targets[0].id, child.value
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name) and child.value is not None:
            yield child.target.id, child.value


@functools.cache
def messages() -> dict[str, str]:
    """Each message with the file that says it."""
    found: dict[str, str] = {}
    trees = {
        path: ast.parse(path.read_text())
        for package in PACKAGES
        for path in sorted((CHECKOUT / package).rglob("*.py"))
        if "migrations" not in path.parts
    }
    texts = Texts()
    for tree in trees.values():
        texts.read(tree)
    wrapping = _wrapping(trees.values())
    for path, tree in trees.items():
        for text in of_module(tree, texts, wrapping):
            found.setdefault(text, str(path.relative_to(CHECKOUT)))
    for script in SCRIPTS:
        for text in of_script((CHECKOUT / script).read_text()):
            found.setdefault(text, script)
    for page_script in sorted((CHECKOUT / "static" / "js").glob("*.js")):
        for text in of_page_script(page_script.read_text()):
            found.setdefault(text, str(page_script.relative_to(CHECKOUT)))
    return found


def of_module(tree: ast.Module, texts: Texts | None = None, wrapping: frozenset[str] = frozenset()) -> Iterator[str]:
    """The messages of the calls of a module, each with the names of the function around it."""
    texts = texts or Texts()
    texts.module = dict(_assigned(tree))

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                outer, texts.function = texts.function, _names_in(child)
                if REFUSALS.search(child.name):
                    yield from _returned(child, texts)
                yield from visit(child)
                texts.function = outer
                continue
            yield from _said_otherwise(child, texts)
            name = _made(child)
            if name is not None and name not in wrapping and isinstance(child, ast.Call):
                yield from _message(child, texts)
            yield from visit(child)

    yield from visit(tree)


def _returned(function: ast.AST, texts: Texts) -> Iterator[str]:
    """The sentences that a function of refusals returns."""
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and node.value is not None:
            yield from _sentences(node.value, texts)


def _said_otherwise(node: ast.AST, texts: Texts) -> Iterator[str]:
    """What a table of a fault holds, or a variable that is called a fault is set to."""
    if isinstance(node, ast.Dict):
        told = {key.value: value for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant)}  # fmt: skip
        if "message" in told and "fix" in told:
            yield from _sentences(told["message"], texts)
        elif "error" in told:
            yield from _sentences(told["error"], texts)
    elif isinstance(node, ast.Assign) and any(FAULTS.search(_name(target)) for target in node.targets):
        yield from _sentences(node.value, texts)


def _sentences(node: ast.expr, texts: Texts) -> list[str]:
    return [text for text in (_tidy(text) for text in _texts(node, texts)) if is_message(text)]


def _name(target: ast.AST) -> str:
    """What is set: a variable's name, or an attribute's."""
    if isinstance(target, ast.Attribute):
        return target.attr
    return target.id if isinstance(target, ast.Name) else ""


def _wrapping(trees: Iterable[ast.Module]) -> frozenset[str]:
    """Error classes that make a sentence of what they are given: theirs is the message."""
    return frozenset(
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
        for call in ast.walk(node)
        if _made(call) == "super" and any(isinstance(part, ast.JoinedStr) for part in ast.walk(call))
    )


def _names_in(function: ast.AST) -> dict[str, list[ast.expr]]:
    """What each name of a function is set to, wherever that is."""
    names: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        for name, value in _assigned(node):
            names.setdefault(name, []).append(value)
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Tuple)
            and isinstance(node.value, ast.Tuple)
        ):
            for target, value in zip(node.targets[0].elts, node.value.elts, strict=False):
                if isinstance(target, ast.Name):
                    names.setdefault(target.id, []).append(value)
    return names


def _made(node: ast.AST) -> str | None:
    """The name of what makes an error where `node` is such a call; `super` for the __init__ of an error's base."""
    if not isinstance(node, ast.Call):
        return None
    function = node.func
    if isinstance(function, ast.Attribute):
        if function.attr == "__init__" and isinstance(function.value, ast.Call):
            return "super"
        name = function.attr
    elif isinstance(function, ast.Name):
        name = function.id
    else:
        return None
    return name if MAKERS.search(name) and name not in INTERNAL else None


def _message(call: ast.Call, texts: Texts) -> list[str]:
    """The texts of the first argument that is more than a word, a path or a hole; several where it depends."""
    if any(isinstance(argument, ast.Constant) and argument.value == "ok" for argument in call.args):
        return []  # the doctor's good news
    if _made(call) == "Finding" and len(call.args) > 2:  # what was looked at, its state, what was found, what mends it
        return _sentences(call.args[2], texts)
    named = [keyword.value for keyword in call.keywords if keyword.arg in ("message", "reason", "error")]
    for place, argument in enumerate([*call.args, *named]):
        found = _sentences(argument, texts)
        if found:
            return found
        if place > 0 and isinstance(argument, ast.JoinedStr | ast.Call):
            return []  # the message, though not one that is known before it runs; what follows is its fix
    return []


def _texts(node: ast.expr, texts: Texts, depth: int = 0) -> list[str]:
    """What an expression may say, with a hole for what isn't known before it runs."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else [HOLE]
    if isinstance(node, ast.JoinedStr):
        return _joined(node, texts, depth)
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body, texts, depth), *_texts(node.orelse, texts, depth)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        pairs = [(a, b) for a in _texts(node.left, texts, depth) for b in _texts(node.right, texts, depth)]
        return [a + b for a, b in pairs]
    if isinstance(node, ast.Name) and depth < 3:
        return [text for value in texts.of(node.id) for text in _texts(value, texts, depth + 1)] or [HOLE]
    return [HOLE]


def _joined(node: ast.JoinedStr, texts: Texts, depth: int) -> list[str]:
    """An f-string. A constant that it names is written out; all else is a hole."""
    whole = [""]
    for part in node.values:
        if isinstance(part, ast.Constant):
            choices = [str(part.value)]
        elif isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) and part.value.id.isupper():
            choices = _texts(part.value, texts, depth + 1)
        else:
            choices = [HOLE]
        whole = [text + choice for text in whole for choice in choices]
    return whole


def _tidy(text: str) -> str:
    return re.sub(rf"{HOLE}(?:\s*{HOLE})*", HOLE, " ".join(text.split()))


def is_message(text: str) -> bool:
    """Whether it tells a person something: three words besides holes and a full stop, or five words."""
    words = [word for word in text.split() if HOLE not in word and re.search(r"[A-Za-z]{2}", word)]
    return len(words) >= 5 or (len(words) >= 3 and text[-1] in f".:?{HOLE}")


def of_script(text: str) -> Iterator[str]:
    """What a shell script fails with, warns of or calls wrong."""
    whole = text.replace("\\\n", "")
    for match in re.finditer(r'(?:\bfail|\bwrong|\bwarn [a-z]+|\btrouble \S+ \S+) "((?:[^"\\]|\\.)*)"', whole):
        holes = re.sub(r"\$\((?:[^()]|\([^()]*\))*\)|\$\{[^}]*\}|\$[A-Za-z0-9_]+|\$[0-9#?*@]", HOLE, match[1])
        if is_message(tidy := _tidy(holes)):
            yield tidy


def of_page_script(text: str) -> Iterator[str]:
    """What a script of the pages says of a failure."""
    for line in text.splitlines():
        if not SAYING.search(line) or line.strip().startswith(("//", "*", "/*")):
            continue
        for plain, template in re.findall(
            r'"([^"]*)"|`((?:[^`$]|\$(?!\{)|\$\{(?:[^`{}]|`[^`]*`|\{[^}]*\})*\})*)`', line
        ):
            holes = plain or re.sub(r"\$\{(?:[^`{}]|`[^`]*`|\{[^}]*\})*\}", HOLE, template)
            if is_message(tidy := _tidy(holes)):
                yield tidy


def rows() -> list[list[str]]:
    """The rows of the guide's tables of messages: message, what it means, what mends it."""
    found: list[list[str]] = []
    is_ours = False
    for line in GUIDE.read_text().splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells[:1] == ["message"]:
            is_ours = True
        elif not cells:
            is_ours = False
        elif is_ours and set(cells[0]) != {"-"}:
            found.append(cells)
    return found


def documented() -> list[str]:
    """The messages that the guide has."""
    return [cells[0] for cells in rows()]


def main(arguments: list[str]) -> int:
    """Prints; returns 1 where something is missing or too much."""
    known = messages()
    if "--all" in arguments:
        for text, path in known.items():
            print(f"{path}\t{text}")  # noqa: T201
        return 0
    told = set(documented())
    missing = {text: path for text, path in known.items() if text not in told}
    stale = [text for text in sorted(told) if text not in known]
    for text, path in missing.items():
        print(f"missing ({path}):\t{text}")  # noqa: T201
    for text in stale:
        print(f"nobody says:\t{text}")  # noqa: T201
    print(f"{len(known)} messages, {len(missing)} missing, {len(stale)} too much")  # noqa: T201
    return 1 if missing or stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
