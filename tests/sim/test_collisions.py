"""Nobody uses what a block RAM brings in the cycle in which the same word is written.

`wordline synth` maps memories on that promise (``-no-rw-check``, see `rtl.ports.WritePort`). Here every such read
brings ones (as float32, NaN) instead of the old word, and the model still computes the same bits.
"""

import re

import numpy as np

from wordline.compiler.model import load_model
from wordline.compiler.transformer import compile_model
from wordline.rtl.config import load_config
from wordline.sim import rtl
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import Generator, compare


def element(text: str) -> tuple[str, str] | None:
    """``name[address]`` at the start of a text, brackets matched."""
    found = re.match(r"(\\\S+ |\w+)\[", text)
    if found is None:
        return None
    depth = 0
    for i, letter in enumerate(text[found.end() - 1 :], found.end() - 1):
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if depth == 0:
            return found[1].strip(), text[found.end() : i]
    return None


def with_garbage(source: str) -> tuple[str, int]:
    """The Verilog with every synchronous read made to bring ones on a collision, and how many there are."""
    patched, reads = [], 0
    for module in re.split(r"(?<=endmodule)", source):
        lines = module.split("\n")
        memories = set(re.findall(r"^\s*reg \[\d+:0\] (\\?\w+) +\[\d+:0\];", module, re.M))
        writes: dict[str, list[str]] = {}
        for enable, line in zip(lines, lines[1:], strict=False):
            condition, target = re.match(r"\s*if \((.*)\)$", enable), element(line.strip())
            if condition and target and target[0] in memories:
                writes.setdefault(target[0], []).append(f"(({condition[1]}) && (({target[1]}) == (@)))")
        for i, line in enumerate(lines):
            read = re.match(r"(\s*)(\w+) <= (.*);$", line)
            source_word = element(read[3]) if read else None
            if read and source_word and source_word[0] in writes and read[3].endswith("]"):
                hit = " || ".join(writes[source_word[0]]).replace("@", source_word[1])
                lines[i] = f"{read[1]}{read[2]} <= ({hit}) ? ~0 : {read[3]};"
                reads += 1
        patched.append("\n".join(lines))
    return "".join(patched), reads


def test_no_result_depends_on_a_read_of_a_word_that_is_being_written(monkeypatch):
    config = load_config("ulx3s")
    genuine = rtl.sources

    def garbled(config):
        texts = genuine(config)
        texts["accelerator.v"], reads = with_garbage(texts["accelerator.v"])
        # Banks X and M twice, L, S; activations, row scales, program; two FIFOs; scales, selects, channels.
        assert reads == 14
        return texts

    monkeypatch.setattr(rtl, "sources", garbled)
    model = load_model("austen")
    generator = Generator(model, compile_model(model, config), model.tokenizer.encode("It was a").ids, 3)
    functional = generator.functional(FunctionalMachine(config), lambda tokens: None)
    run = generator.rtl(rtl.RtlMachine(config), lambda tokens, cycles: None)
    assert compare(functional, run).bits == 0, compare(functional, run).where
    assert np.ptp(functional.logits) > 1
