"""The module hierarchy of emitted Verilog: what occurs more than once, and how it is cut into parts.

Amaranth numbers wires through the whole design, so that two lanes of the vector unit differ in text alone.
`canonical` takes the numbers and the place in the hierarchy out; equal modules then hash alike.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

_MODULE = re.compile(r"^module (\\?\S+) ?\((.*?)\);\n(.*?)^endmodule", re.S | re.M)
_INSTANCE = re.compile(r"^  (\\?[\w.$]+) +(\\\S+ |\w+) ?\($", re.M)
_AUTO = re.compile(r"\$auto\$[\w.:]+\$\d+")
_NUMBERED = re.compile(r"\$(\d+)|\b_(\d+)_\b")
_DECLARATION = re.compile(r"^  (?:wire|reg|input|output) [^;]*;$", re.M)
_PORT = re.compile(r"^  (?:input|output) (?:\[[^]]*\] )?(?:\\\S+ |\w+);$", re.M)
#: With its initial words, or with the loop that clears it (`rtl.verilog.convert`).
_MEMORY = re.compile(r"^  reg (\[(\d+):0\]) (\w+) (\[(\d+):0\]);\n"
                     r"(?:  initial begin\n(.*?)^  end\n|  integer \w+;\n  initial for [^\n]*\n)", re.S | re.M)


@dataclass(frozen=True)
class MemoryShape:
    """A memory as it is declared: `width` bits, `depth` words, all zero at the start or not; `immediate`: a word is
    there in the cycle of its address, which only LUT RAM can do."""

    name: str
    width: int
    depth: int
    zero: bool
    immediate: bool


@dataclass
class Module:
    """One Verilog module; `children` are (instance, module) of the design's own modules."""

    name: str
    ports: str
    body: str
    children: list[tuple[str, str]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return f"module {self.name} ({self.ports});\n{self.body}endmodule\n"

    @property
    def stub(self) -> str:
        """Ports without contents: Yosys leaves instances of it alone."""
        return f"(* blackbox *)\nmodule {self.name} ({self.ports});\n" + "\n".join(_PORT.findall(self.body)) + \
            "\nendmodule\n"

    @cached_property
    def memories(self) -> list[MemoryShape]:
        return [MemoryShape(m[3], int(m[2]) + 1, int(m[5]) + 1, not re.search(r"'[hd]0*[1-9a-f]", m[6] or ""),
                            bool(re.search(rf"^  assign \S+ *= {m[3]}\[", self.body, re.M)))
                for m in _MEMORY.finditer(self.body)]


def canonical(text: str) -> str:
    """A module's text with the numbers of its wires replaced by their ranks, and declarations in order."""
    text = _AUTO.sub("auto", text)
    ranks: dict[str, str] = {}
    for kind in (1, 2):
        found = {m[kind] for m in _NUMBERED.finditer(text) if m[kind]}
        ordered = sorted(found, key=lambda digits: (int(digits), digits))
        ranks |= {f"{kind}{digits}": f"#{kind}{rank}#" for rank, digits in enumerate(ordered)}
    text = _NUMBERED.sub(lambda m: ranks[f"1{m[1]}" if m[1] else f"2{m[2]}"], text)
    declarations = sorted(_DECLARATION.findall(text))
    return _DECLARATION.sub("", text) + "\n".join(declarations)


class Netlist:
    """Modules by name, from the texts of Verilog files; `top` is the root."""

    def __init__(self, texts: Iterable[str], top: str):
        self.top = top
        self.modules = {m[1]: Module(m[1], m[2], m[3]) for text in texts for m in _MODULE.finditer(text)}
        for module in self.modules.values():
            module.children = [(i[2].strip(), i[1]) for i in _INSTANCE.finditer(module.body) if i[1] in self.modules]
        self._hashes: dict[str, str] = {}

    def hash(self, name: str) -> str:
        """Equal for modules that are equal but for their names and the numbers of their wires."""
        if name not in self._hashes:
            module = self.modules[name]
            body = module.body
            for index, (_, child) in enumerate(module.children):
                body = body.replace(f"{child} ", f"child{index}-{self.hash(child)} ")
            self._hashes[name] = hashlib.sha256(canonical(module.ports + body).encode()).hexdigest()[:20]
        return self._hashes[name]

    def size(self, name: str) -> int:
        """Characters of a module and all below it, the initial words of memories left out."""
        module = self.modules[name]
        return len(_MEMORY.sub("", module.body)) + sum(self.size(child) for _, child in module.children)

    def below(self, name: str, cut: set[str]) -> list[str]:
        """Modules below `name`, not through those of `cut`; each once."""
        found: dict[str, None] = {}
        for _, child in self.modules[name].children:
            if child not in cut:
                found[child] = None
                found.update(dict.fromkeys(self.below(child, cut)))
        return list(found)

    def cuts(self, parents: set[str], repeated_size: int) -> set[str]:
        """Where to cut: below each of `parents`, and at modules that occur more than once and are not small."""
        occurrences: Counter[str] = Counter()

        def count(name: str) -> None:
            occurrences[self.hash(name)] += 1
            for _, child in self.modules[name].children:
                count(child)

        found: set[str] = set()

        def walk(name: str, inside: bool) -> None:
            for _, child in self.modules[name].children:
                repeated = occurrences[self.hash(child)] > 1 and self.size(child) >= repeated_size
                if name in parents or (repeated and not inside):
                    found.add(child)
                walk(child, inside or repeated)

        count(self.top)
        walk(self.top, False)
        return found


def style_memories(body: str, styles: dict[str, str]) -> str:
    """Set ``ram_style`` of the memories named in `styles`, and drop initial words that are all zero.

    A synthesiser takes zero where nothing is said, and URAM takes nothing else.
    """
    def one(match: re.Match) -> str:
        style = styles.get(match[3])
        attribute = f'  (* ram_style = "{style}" *)\n' if style else ""
        words = match[6] or ""
        initial = f"  initial begin\n{words}  end\n" if re.search(r"'[hd]0*[1-9a-f]", words) else ""
        return f"{attribute}  reg {match[1]} {match[3]} {match[4]};\n{initial}"

    return _MEMORY.sub(one, body)
