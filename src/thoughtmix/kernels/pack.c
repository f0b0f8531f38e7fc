/* Weights into tiles of sixteen outputs by 32 inputs: in 16 bits (bfloat16 for a matrix unit, else IEEE half), or in 4 or 8
where they lie on such a grid. */

#include "kernels.h"

#include <string.h>

/* Numbers of a row, from `at` on: at most sixteen, `count` of them are there. */
INLINE __m512 load_weights(const void *weight, int64_t half, int64_t at, int64_t count) {
    if (!half) return _mm512_maskz_loadu_ps(tail(count, 0), (const float *)weight + at);
    float wide[16] = {0}; /* bfloat16: the upper half of a float32 */
    for (int64_t i = 0; i < (count < 16 ? count : 16); i++) {
        uint32_t bits = (uint32_t)((const uint16_t *)weight)[at + i] << 16;
        memcpy(wide + i, &bits, 4);
    }
    return _mm512_loadu_ps(wide);
}

/* Whether 16 bits cannot tell these from the wanted ones. */
#if LEVEL == AMX
INLINE int alike(const __m512 made[2], const __m512 want[2]) {
    return !_mm512_cmpneq_epi16_mask(_mm512_castps_si512((__m512)_mm512_cvtne2ps_pbh(made[1], made[0])),
                                     _mm512_castps_si512((__m512)_mm512_cvtne2ps_pbh(want[1], want[0])));
}
#else
INLINE int alike(const __m512 made[2], const __m512 want[2]) {
    for (int i = 0; i < 2; i++) {
        __m512 off = _mm512_abs_ps(_mm512_sub_ps(made[i], want[i])), most = _mm512_abs_ps(want[i]);
        if (_mm512_cmp_ps_mask(off, _mm512_mul_ps(most, _mm512_set1_ps(1.0f / 2048)), _CMP_GT_OQ)) return 0;
    }
    return 1;
}
#endif

INLINE void as_bytes(const __m512 q[2], int8_t bytes[32]) {
    for (int i = 0; i < 2; i++)
        _mm_storeu_si128((__m128i *)(bytes + 16 * i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(q[i])));
}

/* q of w = d q + m for 32 weights, where 16 bits cannot tell the two apart; 0: they lie on no such grid. */
INLINE int find4(const __m512 want[2], uint16_t *d16, uint16_t *m16, int8_t bytes[32]) {
    float least = _mm512_reduce_min_ps(_mm512_min_ps(want[0], want[1]));
    float most = _mm512_reduce_max_ps(_mm512_max_ps(want[0], want[1]));
    *m16 = _cvtss_sh(least, 0);
    __m512 m = _mm512_set1_ps(_cvtsh_ss(*m16));
    for (int steps = 15; steps > 0; steps--) {
        *d16 = _cvtss_sh((most - least) / steps, 0);
        float step = _cvtsh_ss(*d16);
        __m512 inverse = _mm512_set1_ps(step > 0 ? 1 / step : 0), d = _mm512_set1_ps(step), q[2], made[2];
        for (int i = 0; i < 2; i++) {
            q[i] = _mm512_roundscale_ps(_mm512_mul_ps(_mm512_sub_ps(want[i], m), inverse), 8);
            q[i] = _mm512_max_ps(_mm512_min_ps(q[i], _mm512_set1_ps(15)), _mm512_setzero_ps());
            made[i] = _mm512_fmadd_ps(q[i], d, m);
        }
        if (!alike(made, want)) continue;
        as_bytes(q, bytes);
        return 1;
    }
    return 0;
}

/* The same of w = d q. */
INLINE int find8(const __m512 want[2], uint16_t *d16, int8_t bytes[32]) {
    float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(want[0]), _mm512_abs_ps(want[1])));
    *d16 = _cvtss_sh(most / 127, 0);
    float step = _cvtsh_ss(*d16);
    __m512 inverse = _mm512_set1_ps(step > 0 ? 1 / step : 0), d = _mm512_set1_ps(step), q[2], made[2];
    for (int i = 0; i < 2; i++) {
        q[i] = _mm512_roundscale_ps(_mm512_mul_ps(want[i], inverse), 8);
        q[i] = _mm512_max_ps(_mm512_min_ps(q[i], _mm512_set1_ps(127)), _mm512_set1_ps(-127));
        made[i] = _mm512_mul_ps(q[i], d);
    }
    as_bytes(q, bytes);
    return alike(made, want);
}

/* An output's 32 inputs to their place in a tile. On the matrix unit an output's lie side by side (as expand4 and expand8
take them), else an input's sixteen outputs; of 4-bit numbers eight inputs in a word of each output. */
#if LEVEL == AMX
INLINE void put16(uint8_t *tile, int64_t i, const __m512 want[2]) {
    _mm512_storeu_ps((float *)(tile + 64 * i), (__m512)_mm512_cvtne2ps_pbh(want[1], want[0]));
}
INLINE void put4(uint8_t *tile, int64_t i, const int8_t *q) {
    for (int j = 0; j < 8; j++) {
        tile[16 * i + 2 * j] = (uint8_t)(q[j] | q[j + 8] << 4);
        tile[16 * i + 2 * j + 1] = (uint8_t)(q[j + 16] | q[j + 24] << 4);
    }
}
INLINE void put8(uint8_t *tile, int64_t i, const int8_t *q) { memcpy(tile + 32 * i, q, 32); }
#else
INLINE void put16(uint8_t *tile, int64_t i, const __m512 want[2]) {
    float numbers[32];
    for (int k = 0; k < 2; k++) _mm512_storeu_ps(numbers + 16 * k, want[k]);
    for (int k = 0; k < 32; k++) ((uint16_t *)tile)[16 * k + i] = _cvtss_sh(numbers[k], 0);
}
INLINE void put4(uint8_t *tile, int64_t i, const int8_t *q) {
    for (int k = 0; k < 32; k++) ((uint32_t *)tile)[k / 8 * 16 + i] |= (uint32_t)q[k] << k % 8 * 4;
}
INLINE void put8(uint8_t *tile, int64_t i, const int8_t *q) {
    for (int k = 0; k < 32; k++) tile[16 * k + i] = (uint8_t)q[k];
}
#endif

typedef struct {
    const Matrix *matrix;
    const void *weight;
    int64_t half, outputs, first, step;
    atomic_int next, bad;
} Packing;

VECTOR static void pack_some(void *argument, int thread, int threads) {
    Packing *p = argument;
    const Matrix *matrix = p->matrix;
    int64_t inputs = matrix->inputs, blocks = blocks_of(inputs), bytes = TILE_BYTES[matrix->kind];
    for (int64_t tile; (tile = atomic_fetch_add(&p->next, 1)) < tiles_of(p->outputs) && !p->bad;)
        for (int64_t block = 0; block < blocks; block++) {
            uint8_t *at = matrix->data + ((p->first + tile * p->step) * blocks + block) * bytes;
            memset(at, 0, bytes);
            for (int64_t i = 0; i < ROWS && tile * ROWS + i < p->outputs; i++) {
                int64_t start = (tile * ROWS + i) * inputs + block * BLOCK, left = inputs - block * BLOCK;
                __m512 want[2];
                for (int j = 0; j < 2; j++)
                    want[j] = left > 16 * j ? load_weights(p->weight, p->half, start + 16 * j, left - 16 * j) : _mm512_setzero_ps();
                int8_t q[32];
                uint16_t *d = (uint16_t *)at + i, *m = d + 16;
                int good = 1;
                if (matrix->kind == PLAIN)
                    put16(at, i, want);
                else if (matrix->kind == GRID4) {
                    if ((good = find4(want, d, m, q))) put4(at + 64, i, q);
                } else if ((good = find8(want, d, q)))
                    put8(at + 32, i, q);
                if (!good) {
                    p->bad = 1;
                    return;
                }
            }
        }
    (void)thread, (void)threads;
}

/* Put weights (outputs, inputs), float32 or (half) bfloat16, into the tiles first, first + step, ... of a matrix; 0 where
they lie on no grid of its kind. */
EXPORT int thoughtmix_pack(const Matrix *matrix, const void *weight, int64_t half, int64_t outputs, int64_t first,
                           int64_t step, int threads) {
    Packing packing = {matrix, weight, half, outputs, first, step, 0, 0};
    Barrier barrier = {0, 0, 0};
    run_in_team(pack_some, &packing, threads, &barrier);
    return !packing.bad;
}

