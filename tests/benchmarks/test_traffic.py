"""Bytes moved, as `benchmarks.traffic` reads them, are those of programs whose bytes are known."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.traffic import Program

SIZE, ROWS = 512, 4
MATRIX, VECTOR = SIZE * SIZE * 4, ROWS * SIZE * 4


def compiled(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return Program(jax.jit(function).lower(*arguments).compile().as_text())


def test_a_product_reads_its_factors_and_writes_what_it_makes():
    program = compiled(lambda x, w: x @ w, (ROWS, SIZE), (SIZE, SIZE))
    assert program.bytes_moved(program.entry) == pytest.approx(MATRIX + 2 * VECTOR, rel=0.01)


def test_a_step_of_a_loop_is_told_from_what_is_before_it():
    def run(x, weights, cache):
        def step(i, carry):
            x, cache = carry
            x = jnp.tanh(x @ weights)
            return x, jax.lax.dynamic_update_slice_in_dim(cache, x[:, None], i, 1)

        return jax.lax.fori_loop(0, SIZE, step, (x, cache))

    program = compiled(run, (ROWS, SIZE), (SIZE, SIZE), (ROWS, SIZE, SIZE))
    a_step = program.bytes_moved(program.loop())
    # one slot of the cache is written, in place, and none is read
    assert MATRIX < a_step < MATRIX + 10 * VECTOR
    assert a_step <= program.bytes_moved(program.entry)
    assert program.bytes_moved(program.entry, loops=False) < program.bytes_moved(program.entry)


def test_a_look_up_reads_the_rows_that_it_takes():
    def run(table):
        return table[jnp.array([3, 5, 8])] * 2

    program = compiled(run, (SIZE, SIZE))
    assert program.bytes_moved(program.entry) < 10 * SIZE * 4


FAR, NEAR = "{1,0:T(8,128)(2,1)}", "{1,0:T(8,128)(2,1)S(1)}"
SLICED = f"""
HloModule tpu

ENTRY %main (a: bf16[64,128]) -> bf16[16,128] {{
  %a = bf16[64,128]{FAR} parameter(0)
  %begun = ((bf16[64,128]{FAR}), bf16[16,128]{NEAR}, s32[]{{:S(2)}}) slice-start(%a)
  %near = bf16[16,128]{NEAR} slice-done(%begun)
  %twice = bf16[16,128]{NEAR} add(%near, %near)
  %out = (bf16[16,128]{FAR}, bf16[16,128]{NEAR}, u32[]{{:S(2)}}) copy-start(%twice)
  ROOT %done = bf16[16,128]{FAR} copy-done(%out)
}}
"""


def test_what_is_fetched_ahead_counts_once_and_what_is_on_the_chip_does_not():
    program = Program(SLICED)
    assert program.bytes_moved(program.entry) == 2 * 16 * 128 * 2
