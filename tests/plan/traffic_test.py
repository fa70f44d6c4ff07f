"""Bytes of HBM, by hand, of instructions as XLA:TPU prints them."""

import pytest

from imagen_jax.plan import traffic

HEAD = """\
%cond.1 (p.2: (s32[])) -> pred[] {
  %constant.5 = s32[]{:T(128)} constant(7)
  %p.2 = (s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.1, %constant.5), direction=LT
}

%body.1 (p: f32[64]) -> f32[64] {
  %p.1 = f32[64]{0:T(128)} parameter(0)
  %double.1 = f32[64]{0:T(128)} fusion(%p.1), kind=kLoop, calls=%f.2
}

%async_collective_fusion.5 (param_0: bf16[16,256], param_1: bf16[64,256]) \
-> bf16[8,8] {
  %param_0 = bf16[16,256]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.2 = bf16[64,256]{1,0:T(8,128)(2,1)} all-gather(%param_0), \
channel_id=4, replica_groups={{0,1,2,3}}, dimensions={0}
}

ENTRY %main.1 (a: f32[256,256]) -> f32[] {
  %a = f32[256,256]{1,0:T(8,128)} parameter(0)
  %near = f32[256,256]{1,0:T(8,128)S(1)} parameter(1)
"""


def of(*lines: str) -> int:
  return traffic.hbm_bytes(HEAD + "".join(f"  {x}\n" for x in lines) + "}\n")


# What the gather of HEAD writes: its pieces are told of once, whole.
GATHERED = 64 * 256 * 2


def of_one(line: str) -> int:
  return of(line) - GATHERED


def test_an_instruction_reads_its_operands_and_writes_its_result():
  line = "%y = bf16[8,256]{1,0:T(8,128)(2,1)} fusion(%a, %near), calls=%f"
  assert of_one(line) == 256 * 256 * 4 + 8 * 256 * 2
  near = line.replace("(2,1)}", "(2,1)S(1)}").replace("%a, ", "")
  assert of_one(near) == 0


@pytest.mark.parametrize(
  ("line", "size"),
  [
    (
      "%c = (f32[256,256]{1,0:T(8,128)S(1)}, f32[256,256]{1,0:T(8,128)},"
      " u32[]{:S(2)}) copy-start(%a)",
      256 * 256 * 4,
    ),
    (
      "%s = ((f32[256,256]{1,0:T(8,128)}), f32[8,256]{1,0:T(8,128)S(1)},"
      " s32[]{:S(2)}) slice-start(%a), slice={[0:8], [0:256]}",
      8 * 256 * 4,
    ),
    ("%d = f32[256,256]{1,0:T(8,128)} copy-done(%c)", 0),
    ("%g = f32[256,256]{1,0:T(8,128)} get-tuple-element(%t), index=0", 0),
    (
      '%j = f32[256,256]{1,0} custom-call(%a), target="ConcatBitcast"',
      0,
    ),
  ],
)
def test_of_copies_what_lies_in_hbm_counts(line, size):
  assert of_one(line) == size


def test_a_loop_counts_once_a_turn():
  loop = "%w = (f32[64]{0}) while(%a), condition=%cond.1, body=%body.1"
  assert of_one(loop) == 7 * 2 * 64 * 4


def test_a_gather_beside_other_work_passes_by_its_pieces():
  piece = (
    "%p.{} = (bf16[8,8]{{1,0}}, bf16[16,256]{{1,0}}, bf16[64,256]{{1,0}})"
    " fusion(%small, %part, %whole), calls=%async_collective_fusion.5"
  )
  made = (
    "%small = bf16[8,8]{1,0} get-tuple-element(%t), index=0",
    "%part = bf16[16,256]{1,0} get-tuple-element(%t), index=1",
    "%whole = bf16[64,256]{1,0} get-tuple-element(%t), index=2",
  )
  work = 2 * 8 * 8 * 2
  assert of(*made, piece.format(1)) == work + GATHERED
  assert of(*made, piece.format(1), piece.format(2)) == 2 * work + GATHERED


def test_the_largest_arrays_are_those_in_hbm():
  rows = traffic.largest(
    HEAD
    + "  %y = f32[512,256]{1,0:T(8,128)} fusion(%a), calls=%f,"
    + ' metadata={op_name="jit(f)/up_0/conv/dot"}\n'
    + "  %z = f32[999,256]{1,0:T(8,128)S(1)} fusion(%a), calls=%f\n}\n",
    1,
  )
  assert rows == [("1 x f32[512,256] conv/dot", 512 * 256 * 4)]
