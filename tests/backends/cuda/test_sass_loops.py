"""Machine code as nvdisasm prints it: which loops are innermost, and what an iteration counts."""

from __future__ import annotations

from sass_loops import class_of, innermost_loops, width_of

TEXT = """
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   ISETP.GE.AND P0, PT, R2, R3, PT ;
.L_x_1:
        /*0020*/                   DEPBAR.LE SB0, 0x3 ;
        /*0030*/              @!P1 LDGSTS.E.BYPASS.128 [R10], desc[UR16][R22.64], !P1 ;
        /*0040*/                   LDG.E.U16 R4, desc[UR4][R2.64] ;
        /*0050*/                   LDSM.16.M88.4 R32, [R88+UR11] ;
        /*0060*/                   HGMMA.64x128x16.F32.BF16 R24, R120, gdesc[UR8].tnspB, R24, gsb0 ;
        /*0070*/                   HMMA.16816.F32.BF16 R24, R40, R32, RZ ;
        /*0080*/                   LDGDEPBAR ;
        /*0090*/              @!P0 BRA `(.L_x_1) ;
        /*00a0*/               @P2 BRA `(.L_x_0) ;
        /*00b0*/                   BRA `(.L_x_2) ;
.L_x_2:
        /*00c0*/                   EXIT ;
"""


def test_the_inner_one_of_two_loops() -> None:
    (loop,) = innermost_loops(TEXT)
    assert loop.num_instructions == 8
    assert (loop.groups, loop.pending) == (1, 3)
    assert loop.loaded_bytes == 16 + 2
    assert loop.async_bytes == 16
    assert loop.shared_bytes == 16 + 16
    assert loop.matrix_operations("warpgroup") == 2 * 64 * 128 * 16 // 4
    assert loop.matrix_operations("warp") == 2 * 16 * 8 * 16
    assert not loop.has_8_bit_matrices


def test_classes_and_widths() -> None:
    expected = {
        "LDGDEPBAR": "barrier", "LDGSTS.E.64": "to shared", "LDSM.16.M88.4": "matrix load", "LDS.U8": "shared",
        "UIADD3": "uniform", "FMNMX": "integer", "MUFU.EX2": "special", "F2FP.BF16.F32.PACK_AB": "pack",
        "I2F.U16": "conversion", "IMAD.WIDE.U32": "multiply", "STL": "spill", "NOP": "other",
    }  # fmt: skip
    assert {opcode: class_of(opcode) for opcode in expected} == expected
    assert [width_of(opcode) for opcode in ("LDG.E.U8", "LDG.E.64", "LDG.E", "LDGSTS.E.BYPASS.128")] == [1, 8, 4, 16]
