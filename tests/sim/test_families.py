"""The embedded model on every PE family: the tokens and logits of `mac`'s functional run, on the RTL."""

from dataclasses import replace

import pytest

from wordline.compiler.model import load_model
from wordline.compiler.transformer import compile_model
from wordline.pe.datatypes import WEIGHT_TYPES
from wordline.pe.family import FAMILIES
from wordline.rtl.config import ConfigError, TypesConfig, load_config
from wordline.sim import verify
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import Generator, compare

#: The hardware of the cycle model's tests, which is built once for both.
HARDWARE = {verify.hardware_config(name).array.family.partition(":")[0]: name for name in verify.HARDWARE}
QUICK = {"mac_packed": ["int4", "bitmod_fp4"], "shift_add": ["int4_asym", "bitmod_fp4"], "lut": ["int4", "ternary"],
         "ternary": ["ternary", "int4"], "bit_plane": ["int4", "ternary"]}


@pytest.fixture(scope="module")
def model():
    return load_model("austen")


@pytest.fixture(scope="module")
def machines():
    return verify.Machines()


def generator(model, config, tokens):
    return Generator(model, compile_model(model, config, context=192), model.tokenizer.encode("It").ids, tokens)


def differing_bits(model, machines, family, weights, acts=8, kv="int8", tokens=2):
    """Of the family's RTL from the functional simulator of another family with as many rows."""
    types = TypesConfig(weights=weights, acts=acts, kv=kv)
    names = ", ".join(f'"{name}"' for name in dict.fromkeys(["int8", kv, weights]))
    config = verify.hardware_config(HARDWARE[family])
    other = load_config("ulx3s", [
        f"array.weights=[{names}]", "array.act_bits=16", f"array.rows={config.array.rows}",
        *(f"memory.{bank}_floats={getattr(config.memory, bank + '_floats')}" for bank in ("vector", "matmul")),
        f"memory.program={config.memory.program}"])
    config, other = replace(config, types=types), replace(other, types=types)
    expected = generator(model, other, tokens).functional(FunctionalMachine(other), lambda tokens: None)
    got = generator(model, config, tokens).rtl(machines[config], lambda tokens, cycles: None)
    return compare(expected, got).bits


def test_every_family_is_here():
    assert set(HARDWARE) == set(FAMILIES) == {*QUICK, "mac", "bit_serial"}  # these two: test_end_to_end.py


@pytest.mark.parametrize(("family", "weights"), [(f, w) for f, types in QUICK.items() for w in types])
def test_the_family_changes_no_bit(model, machines, family, weights):
    assert differing_bits(model, machines, family, weights) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("family", "weights"), [
    (family, weights) for family in QUICK for weights in verify.hardware_config(HARDWARE[family]).array.weights])
def test_every_datatype_of_every_family(model, machines, family, weights):
    array = verify.hardware_config(HARDWARE[family]).array
    for kv in {"int8", "int4"} & set(array.weights):
        assert differing_bits(model, machines, family, weights, array.act_bits, kv, 8) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_unsupported_pairs_are_refused_with_both_names(family):
    types = set(WEIGHT_TYPES)
    for name in sorted(types):
        try:
            config = load_config("ulx3s", [f'array.family="{family}"', f'array.weights=["{name}"]'])
        except ConfigError as error:
            text = str(error)
            assert f"'{name}'" in text and f"'{family}'" in text and "decodes int8," in text
            types.discard(name)
        else:
            assert config.array.family == family
    assert "int8" in types
    assert ("bitmod_fp4" in types) == (family in ("mac", "mac_packed", "bit_serial", "shift_add"))
