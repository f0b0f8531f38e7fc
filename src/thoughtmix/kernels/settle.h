/* What becomes of the sums of a product. */

#ifndef THOUGHTMIX_SETTLE_H
#define THOUGHTMIX_SETTLE_H

#include "kernels.h"

/* Sixteen outputs of sixteen rows, `sums[output][row]`, to where they go. */
INLINE void settle(const Matrix *matrix, const float *sums, const float *ups, int64_t tile, int64_t row_tile, Target target) {
    int64_t first = tile * ROWS, count = matrix->outputs - first < ROWS ? matrix->outputs - first : ROWS;
    __m512 sum[16];
    for (int i = 0; i < 16; i++) sum[i] = _mm512_loadu_ps(sums + 16 * i);
    if (matrix->bias)
        for (int i = 0; i < count; i++) sum[i] = _mm512_add_ps(sum[i], _mm512_set1_ps(matrix->bias[first + i]));
    if (target.what == LOGITS) {
        transpose16(sum);
        __mmask16 mask = (__mmask16)((1u << count) - 1);
        for (int64_t i = 0; i < ROWS && row_tile * ROWS + i < target.rows; i++)
            _mm512_mask_storeu_ps(target.numbers + (row_tile * ROWS + i) * matrix->outputs + first, mask, sum[i]);
    } else if (target.what == GATED) { /* silu(gate) up, as the next product takes it; tile: of the gate */
        int64_t of = tile / 2 * ROWS;
        uint8_t *to = target.packed + (row_tile * blocks_of(target.features) + of / BLOCK) * INPUTS;
        const float *bias = matrix->bias ? matrix->bias + first + ROWS : NULL;
        for (int i = 0; i < 16; i++) {
            __m512 up = _mm512_loadu_ps(ups + 16 * i), one = _mm512_set1_ps(1);
            if (bias) up = _mm512_add_ps(up, _mm512_set1_ps(bias[i]));
            __m512 low = _mm512_add_ps(one, exp16(_mm512_sub_ps(_mm512_setzero_ps(), sum[i])));
            sum[i] = _mm512_mul_ps(_mm512_div_ps(sum[i], low), up);
        }
        for (int i = 0; i < 16; i += 2) put_inputs(to, of % BLOCK + i, sum[i], sum[i + 1]);
    } else {
        float *to = target.numbers + (row_tile * target.features + first) * ROWS;
        for (int i = 0; i < count; i++) {
            if (target.what == ADD) sum[i] = _mm512_add_ps(sum[i], _mm512_loadu_ps(to + 16 * i));
            _mm512_storeu_ps(to + 16 * i, sum[i]);
        }
    }
}

static inline int64_t claim(atomic_int *next) { return atomic_fetch_add_explicit(next, 1, memory_order_relaxed); }

#endif
