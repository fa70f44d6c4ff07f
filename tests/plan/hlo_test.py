"""Collectives in lines as XLA:TPU prints them, and their bytes by hand."""

import pytest

from imagen_jax.plan import hlo

# Lines of a training step for v5e:2x2 and v5e:16x16, cut short.
FUSED = """\
%async_collective_fusion.1 (param_0: bf16[1024,256]) -> (bf16[1024,1024]) {
  %all-gather.266 = bf16[1024,1024]{1,0:T(8,128)(2,1)} all-gather(%param_0), \
channel_id=4, replica_groups=mesh['axis_0'=1,'axis_1'=4] {'axis_1'}, \
dimensions={1}, use_global_device_ids=true, metadata={op_name="gathered"}
}

%async_collective_fusion.2 (param_0: bf16[1024,256]) -> (bf16[1024,1024]) {
  %all-gather.268 = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} \
all-gather(%param_0), channel_id=4, \
replica_groups=mesh['axis_0'=1,'axis_1'=4] {'axis_1'}, dimensions={1}
}
"""
SCATTER = """\
%all-reduce-scatter.48 (input_0: bf16[3,3,512,256], input_1: bf16[1024,512]) \
-> (bf16[3,3,128,256], bf16[256,512]) {
  %all-reduce.362 = (bf16[3,3,512,256]{3,2,1,0:T(8,128)(2,1)}, \
bf16[1024,512]{1,0:T(8,128)(2,1)}) all-reduce(%input_0, %input_1), \
channel_id=1, replica_groups={{0,1,2,3}}, use_global_device_ids=true, \
to_apply=%add.82.clone
}
"""
ENTRY = """\
ENTRY %main.1 (param.0: f32[256,256]) -> f32[] {
  %param.114 = f32[256,256]{1,0:T(8,128)} parameter(98), \
sharding={devices=[4,1]<=[4]}, metadata={op_name="state.params[\\'a\\']"}
  %param.314 = f32[256]{0:T(256)} parameter(485), sharding={replicated}, \
metadata={op_name="state.params[\\'norm\\'][\\'scale\\']"}
  %fusion.7 = f32[8,16,16,256]{3,2,1,0:T(8,128)} fusion(%param.114), \
kind=kLoop, calls=%f.1, metadata={op_name="up_0"}
  %fusion.8 = f32[9,16,16,256]{3,2,1,0:T(8,128)S(1)} fusion(%param.114), \
kind=kLoop, calls=%f.2, metadata={op_name="on the chip"}
  %collective-permute-start.9 = (bf16[48,1536]{1,0:T(8,128)(2,1)}, \
bf16[48,1536]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%fusion.192), channel_id=1, \
source_target_pairs={{0,8},{1,9},{2,10}}
  %collective-permute-done.9 = bf16[48,1536]{1,0:T(8,128)(2,1)} \
collective-permute-done(%collective-permute-start.9)
  %all-reduce.5 = (f32[]{:T(128)}, f32[10,1]{0,1:T(1,128)S(1)}, /*index=2*/\
f32[]{:T(128)}) all-reduce(%a, %b, %c), channel_id=7, \
replica_groups={{0,1,2,3}}, to_apply=%add
}
"""

TURNED = "mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0))"


def one(line: str) -> hlo.Collective:
  (found,) = hlo.collectives(f"ENTRY %m (p: f32[]) -> f32[] {{\n  {line}\n}}\n")
  return found


def test_pieces_of_a_fused_gather_are_one_gather():
  (found,) = hlo.collectives(FUSED)
  assert found.kind == "all-gather" and found.shapes == ((1024, 1024),)
  assert found.bytes == 1024 * 1024 * 2
  assert found.group == (0, 1, 2, 3) and found.name == "gathered"
  assert found.sent == 3 * 1024 * 256 * 2  # the three parts of others pass by
  other = FUSED.replace("channel_id=4", "channel_id=5", 1)
  assert len(hlo.collectives(other)) == 2


def test_an_all_reduce_of_which_each_keeps_a_slice_is_a_reduce_scatter():
  (found,) = hlo.collectives(SCATTER)
  whole = (3 * 3 * 512 * 256 + 1024 * 512) * 2
  assert found.kind == "reduce-scatter" and found.bytes == whole
  assert found.sent == whole * 3 / 4
  # All of them are printed with one channel; each is one.
  assert len(hlo.collectives(SCATTER + SCATTER.replace("48", "49"))) == 2
  (plain,) = hlo.collectives(SCATTER.replace("-scatter", "-other"))
  assert plain.kind == "all-reduce" and plain.sent == whole * 3 / 2


def test_pairs_and_tuples_of_the_entry_are_counted():
  permute, reduce = hlo.collectives(ENTRY)
  assert permute.kind == "collective-permute" and permute.group == (0, 8)
  assert permute.bytes == permute.sent == 48 * 1536 * 2
  assert reduce.bytes == (1 + 10 + 1) * 4
  assert reduce.sent == 2 * 3 / 4 * 48


def test_async_pairs_of_other_compilers_count_once():
  found = one(
    "%ag = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%p),"
    " channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}"
  )
  assert found.shapes == ((16, 8),) and found.bytes == 256
  found = one(
    "%rs = f32[4]{0} reduce-scatter(%p), channel_id=3,"
    " replica_groups={{0,1},{2,3}}, dimensions={0}, to_apply=%add"
  )
  assert found.bytes == 2 * 4 * 4 and found.sent == 16


@pytest.mark.parametrize(
  ("groups", "first", "axes"),
  [
    ("{{0,1,2,3},{4,5,6,7}}", (0, 1, 2, 3), ("fsdp",)),
    ("{{0,4},{1,5},{2,6},{3,7}}", (0, 4), ("data",)),
    ("[2,4]<=[8]", (0, 1, 2, 3), ("fsdp",)),
    ("[4,2]<=[2,4]T(1,0)", (0, 4), ("data",)),
    ("mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3), ("fsdp",)),
    ("mesh['a'=2,'b'=4] {'a'}", (0, 4), ("data",)),
    (
      "mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}",
      (0, 1, 2, 3),
      ("fsdp",),
    ),
    ("mesh['a'=4,'c'=2], device_ids=([2,4]T(1,0)) {'c'}", (0, 4), ("data",)),
    ("mesh['a'=2,'b'=4] {'a','b'}", tuple(range(8)), ("data", "fsdp")),
    ("mesh['a'=8] {'a':(1)2}", (0, 4), ("data",)),
    ("mesh['a'=8] {'a':(2)4}", (0, 1, 2, 3), ("fsdp",)),
  ],
)
def test_a_group_in_any_form_is_of_an_axis_of_the_mesh(groups, first, axes):
  found = one(
    f"%r = f32[8]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups},"
    " to_apply=%add"
  )
  assert found.group == first
  mesh = {"data": 2, "fsdp": 4, "spatial": 1, "tensor": 1}
  assert hlo.axes(found.group, mesh) == axes


def test_what_is_in_a_loop_counts_once_a_turn():
  body = SCATTER.replace("all-reduce-scatter.48", "body.1")
  loop = """\
%cond.1 (p.2: (s32[])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(5)
  %p.2 = (s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.1, %constant.5), direction=LT
}

ENTRY %main (p: f32[]) -> f32[] {
  %while.1 = (s32[]) while(%t), condition=%cond.1, body=%body.1
}
"""
  (found,) = hlo.collectives(body + "\n" + loop)
  (once,) = hlo.collectives(body)
  assert found.times == 5 and found.sent == 5 * once.sent


def test_a_group_of_one_chip_sends_nothing():
  text = SCATTER.replace("{{0,1,2,3}}", "{{0},{1},{2},{3}}")
  assert not hlo.collectives(text)


def test_parameters_say_which_are_on_every_chip():
  cut, whole = hlo.parameters(ENTRY)
  assert not cut.replicated and cut.bytes == 256 * 256 * 4
  assert whole == ("state.params['norm']['scale']", (256,), 1024, True)
  assert hlo.largest_replicated(ENTRY) == whole
  assert hlo.largest_replicated(SCATTER) is None


def test_arguments_in_one_tuple_are_read_as_well():
  text = """\
ENTRY %main (p: (s32[], f32[2048,32], f32[7])) -> f32[] {
  %param.9 = (s32[]{:T(128)}, f32[2048,32]{0,1:T(8,128)}, /*index=2*/\
f32[7]{0}) parameter(0), sharding={{replicated}, {devices=[1,64,4]<=[4,64]\
T(1,0) last_tile_dim_replicate}, /*index=2*/{replicated}}
}
"""
  found = hlo.parameters(text)
  assert [one.replicated for one in found] == [True, False, True]
  assert [one.bytes for one in found] == [4, 2048 * 32 * 4, 28]
  assert [one.name for one in found][2] == "argument 2"
  assert hlo.parameters(text, ["step", "kernel", "bias"])[2].name == "bias"
  assert hlo.parameters(text, ["step", "kernel"])[2].name == "argument 2"


def test_a_gather_of_what_is_no_leaf_is_of_an_activation():
  found = hlo.collectives(FUSED)
  assert not hlo.activation_gathers(found, {(1024, 1024)})
  assert hlo.activation_gathers(found, {(512, 1024)}) == found
  turned = found[0]._replace(shapes=((256, 1, 3, 3, 512),))
  assert not hlo.activation_gathers([turned], {(3, 3, 512, 256)})
  vector = found[0]._replace(shapes=((32, 1, 128),))
  assert not hlo.activation_gathers([vector], {(4096,)})
  assert hlo.activation_gathers([vector], {(2048,), (64, 64)}) == [vector]
  table = found[0]._replace(shapes=((32, 1004, 4096),))
  assert not hlo.activation_gathers([table], {(32128, 4096)})
  assert hlo.activation_gathers([table], {(32, 1004)}) == [table]
  assert not hlo.activation_gathers(hlo.collectives(SCATTER), set())
