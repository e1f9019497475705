"""Reading a TPU's compiled program; where libtpu is installed, a real one."""

import importlib.util

import pytest
from processes import answer, start

from experiments.benchmark import tpu_estimate

# Lines of an optimised module for v5e, shortened; the loop has a collective and a nested call.
COMPILED = """\
HloModule jit__protect, is_scheduled=true

%wide.region_8.43.sunk (wide_param: (s32[], bf16[8,39,39,256])) -> (s32[], bf16[8,39,39,256]) {
  %fusion.1 = bf16[8,40,40,128]{3,0,2,1:T(8,128)(2,1)S(1)} fusion(%a), kind=kOutput, calls=%fused_computation.7, backend_config={"window_config":{"estimated_cycles":"39147","iteration_bounds":["1"]}}
  %all-reduce.2 = f32[256]{0:T(256)} all-reduce(%b), channel_id=1, to_apply=%add, backend_config={"estimated_cycles":"1828"}
  %all-reduce-start.3 = f32[256]{0:T(256)} all-reduce-start(%c), to_apply=%add
  %all-reduce-done.3 = f32[256]{0:T(256)} all-reduce-done(%all-reduce-start.3)
  ROOT %tuple.4 = (s32[], bf16[8,39,39,256]) tuple(%i, %d)
}

%wide.while_body.6.sunk (q: (s32[], bf16[8,39])) -> (s32[], bf16[8,39]) {
  %gather.1 = bf16[8,39]{1,0} fusion(%q), backend_config={"window_config":{"estimated_cycles":"25"}}
}

ENTRY %main.45 (z: bf16[8,77,77,64]) -> bf16[8,77,77,64] {
  %copy.1 = bf16[8,77,77,64]{3,0,2,1} copy(%z), backend_config={"window_config":{"estimated_cycles":"73040"}}
  %while.2 = (s32[], bf16[8,39]) while(%tuple.8), condition=%condition.9, body=%wide.while_body.6.sunk
  %while.3 = (s32[], bf16[8,39,39,256]) while(%tuple.82), condition=%condition.9, body=%wide.region_8.43.sunk
  ROOT %copy.60 = bf16[8,77,77,64]{2,3,1,0} copy(%e), backend_config={"window_config":{"estimated_cycles":"1000"}}
}
"""  # noqa: E501


def test_cycles_are_those_of_the_loop_and_of_the_rest_and_collectives_count_once():
    assert tpu_estimate.cycles(COMPILED) == (39147 + 1828, 73040 + 25 + 1000)
    assert tpu_estimate.collectives(COMPILED) == {"all-reduce": 2}


@pytest.mark.parametrize("spoilt", ["", COMPILED.replace("estimated_cycles", "other_cycles")])
def test_a_program_without_estimates_is_refused(spoilt):
    with pytest.raises(ValueError, match="got a compiled program without a loop .*; wanted one"):
        tpu_estimate.cycles(spoilt)


def test_the_table_has_the_share_of_plain_and_the_clock():
    case = {"decoder": "transrec", "width": 32, "depth": 0, "batch": 8, "dtype": "bfloat16"}
    case |= {"device": "v5e:1x1", "faces_per_s": 1234.5, "gflop_per_iteration": 5.4}
    case |= {
        "roofline_share": 0.432,
        "bound_by": "memory",
        "temporary_mb": 26.1,
        "collectives": {"all-reduce": 2},
    }
    cycles = {"plain": 1000, "packed": 250}
    rows = [{**case, "formulation": k, "cycles_per_iteration": n} for k, n in cycles.items()]
    text = tpu_estimate.table(rows)
    assert "| packed | 250 | 0.25 | 43 (memory) | 1,234 |" in text and "2 all-reduce |" in text
    assert "v5e 1.5 GHz (197 TFLOP/s" in text and "v6e" not in text


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = r"without libtpu.*; wanted.*pip install 'jax\[tpu\]'"
    with pytest.raises(ValueError, match=message):
        tpu_estimate.devices("v5e:1x1")


@pytest.mark.parametrize("topology", ["v5e", "v9:1x1", "v5e:0", "v5e:axb", "8"])
def test_other_topologies_are_refused(topology, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="got topology .*; wanted a chip .*v5e:2x2"):
        tpu_estimate.devices(topology)


# In a process of its own, because libtpu prints to its standard error.
ESTIMATE = """
import json
from advface_jax.models.decoders import DecoderConfig
from experiments.benchmark import tpu_estimate
given = {"topology": "v5e:1x1", "config": DecoderConfig.of("transrec"), "batch": 8}
given |= {"dtype": "bfloat16", "steps": 2}
print(json.dumps([tpu_estimate.row(**given, formulation=how) for how in ("plain", "packed")]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU's compiler is not installed: pip install 'jax[tpu]'",
)
def test_packed_takes_half_of_plains_cycles_at_most():
    plain, packed = answer(start(ESTIMATE, devices=None))
    assert 0 < packed["cycles_per_iteration"] <= 0.56 * plain["cycles_per_iteration"]
    assert not packed["collectives"] and not plain["collectives"], "one device exchanges nothing"
