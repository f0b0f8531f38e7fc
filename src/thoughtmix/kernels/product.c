/* Products of packed weights on the matrix unit, and the packing. Every sum runs over blocks of 32 inputs from the first to
the last, whatever the number of rows, threads and the storage: its bits depend on the row alone. */

#include "kernels.h"

#include <string.h>

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t columns[16];
    uint8_t rows[16];
} TileConfig;

#define ALL(x) {x, x, x, x, x, x, x, x}

VECTOR void configure_tiles(void) { /* constant: some compilers think that the instruction reads eight bytes of it */
    static const TileConfig config = {.palette = 1, .columns = ALL(64), .rows = ALL(16)};
    _tile_loadconfig(&config);
}

VECTOR void release_tiles(void) { _tile_release(); }

/* --- a tile of weights in bfloat16 from what is stored --- */

INLINE void expand4(const uint8_t *stored, uint8_t *tile) {
    const __m512 iota = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i shifts = _mm512_set_epi64(0x000c000c000c000cLL, 0x000c000c000c000cLL, 0x0008000800080008LL,
                                            0x0008000800080008LL, 0x0004000400040004LL, 0x0004000400040004LL, 0, 0);
    float d[16], m[16];
    _mm512_storeu_ps(d, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)stored)));
    _mm512_storeu_ps(m, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(stored + 32))));
    const __m512i four = _mm512_set1_epi16(15), second = _mm512_set1_epi16(16);
    for (int i = 0; i < 16; i += 2) { /* the 16 values of two outputs' grids: a table that the bits look up */
        __m512 one = _mm512_fmadd_ps(iota, _mm512_set1_ps(d[i]), _mm512_set1_ps(m[i]));
        __m512 two = _mm512_fmadd_ps(iota, _mm512_set1_ps(d[i + 1]), _mm512_set1_ps(m[i + 1]));
        __m512i table = (__m512i)_mm512_cvtne2ps_pbh(two, one), bits[2];
        for (int j = 0; j < 2; j++) {
            bits[j] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(stored + 64 + 16 * (i + j))));
            bits[j] = _mm512_srlv_epi16(bits[j], shifts);
        }
        bits[0] = _mm512_and_si512(bits[0], four);
        bits[1] = _mm512_ternarylogic_epi32(bits[1], four, second, 0xea); /* (a & b) | c */
        for (int j = 0; j < 2; j++)
            _mm512_storeu_si512(tile + 64 * (i + j), _mm512_permutexvar_epi16(bits[j], table));
    }
}

INLINE void expand8(const uint8_t *stored, uint8_t *tile) {
    float d[16];
    _mm512_storeu_ps(d, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)stored)));
    for (int i = 0; i < 16; i++) {
        const __m128i *bits = (const __m128i *)(stored + 32 + 32 * i);
        __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bits)));
        __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bits + 1)));
        __m512 step = _mm512_set1_ps(d[i]);
        __m512bh both = _mm512_cvtne2ps_pbh(_mm512_mul_ps(high, step), _mm512_mul_ps(low, step));
        _mm512_storeu_si512(tile + 64 * i, (__m512i)both);
    }
}

enum { FETCH = 2560 }; /* bytes from what is expanded to what is fetched from memory meanwhile */

INLINE void expand(int64_t kind, const uint8_t *stored, uint8_t *tile) {
    for (int64_t at = 0; at < TILE_BYTES[kind]; at += 64) _mm_prefetch((const char *)stored + FETCH + at, _MM_HINT_T0);
    if (kind == GRID4)
        expand4(stored, tile);
    else
        expand8(stored, tile);
}

/* --- packing --- */

INLINE __m512 load_weights(const void *weight, int64_t half, int64_t at, __mmask16 mask) {
    if (half) { /* bfloat16 */
        __m256i bits = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)weight + at);
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    return _mm512_maskz_loadu_ps(mask, (const float *)weight + at);
}

INLINE __m512i rounded(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/* q of w = d q + m for 32 weights, where bfloat16 cannot tell the two apart; 0: they lie on no such grid. */
INLINE int find4(__m512 low, __m512 high, uint16_t *d16, uint16_t *m16, uint8_t *bits) {
    float least = _mm512_reduce_min_ps(_mm512_min_ps(low, high)), most = _mm512_reduce_max_ps(_mm512_max_ps(low, high));
    __m512i want = rounded(low, high);
    *m16 = _cvtss_sh(least, 0);
    __m512 m = _mm512_set1_ps(_cvtsh_ss(*m16));
    for (int steps = 15; steps > 0; steps--) {
        *d16 = _cvtss_sh((most - least) / steps, 0);
        float step = _cvtsh_ss(*d16);
        __m512 inverse = _mm512_set1_ps(step > 0 ? 1 / step : 0), d = _mm512_set1_ps(step);
        __m512 q[2] = {low, high};
        for (int i = 0; i < 2; i++) {
            q[i] = _mm512_roundscale_ps(_mm512_mul_ps(_mm512_sub_ps(q[i], m), inverse), 8);
            q[i] = _mm512_max_ps(_mm512_min_ps(q[i], _mm512_set1_ps(15)), _mm512_setzero_ps());
        }
        __m512i made = rounded(_mm512_fmadd_ps(q[0], d, m), _mm512_fmadd_ps(q[1], d, m));
        if (_mm512_cmpneq_epi16_mask(made, want)) continue;
        uint8_t one[32];
        for (int i = 0; i < 2; i++) _mm_storeu_si128((__m128i *)(one + 16 * i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(q[i])));
        for (int i = 0; i < 8; i++) {
            bits[2 * i] = one[i] | one[i + 8] << 4;
            bits[2 * i + 1] = one[i + 16] | one[i + 24] << 4;
        }
        return 1;
    }
    return 0;
}

/* The same of w = d q. */
INLINE int find8(__m512 low, __m512 high, uint16_t *d16, uint8_t *bits) {
    float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
    *d16 = _cvtss_sh(most / 127, 0);
    float step = _cvtsh_ss(*d16);
    __m512 inverse = _mm512_set1_ps(step > 0 ? 1 / step : 0), d = _mm512_set1_ps(step);
    __m512 q[2] = {_mm512_mul_ps(low, inverse), _mm512_mul_ps(high, inverse)};
    for (int i = 0; i < 2; i++) {
        q[i] = _mm512_roundscale_ps(q[i], 8);
        q[i] = _mm512_max_ps(_mm512_min_ps(q[i], _mm512_set1_ps(127)), _mm512_set1_ps(-127));
        _mm_storeu_si128((__m128i *)(bits + 16 * i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(q[i])));
    }
    return !_mm512_cmpneq_epi16_mask(rounded(_mm512_mul_ps(q[0], d), _mm512_mul_ps(q[1], d)), rounded(low, high));
}

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
                uint32_t mask = left >= BLOCK ? 0xffffffffu : (1u << left) - 1;
                __m512 low = load_weights(p->weight, p->half, start, (__mmask16)mask);
                __m512 high = load_weights(p->weight, p->half, start + 16, (__mmask16)(mask >> 16));
                int good = 1;
                if (matrix->kind == PLAIN)
                    _mm512_storeu_si512(at + 64 * i, rounded(low, high));
                else if (matrix->kind == GRID4)
                    good = find4(low, high, (uint16_t *)at + i, (uint16_t *)(at + 32) + i, at + 64 + 16 * i);
                else
                    good = find8(low, high, (uint16_t *)at + i, at + 32 + 32 * i);
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

/* --- products --- */

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
        uint8_t *to = target.packed + (row_tile * blocks_of(target.features) + of / BLOCK) * TILE + of % BLOCK * 32;
        const float *bias = matrix->bias ? matrix->bias + first + ROWS : NULL;
        for (int i = 0; i < 16; i++) {
            __m512 up = _mm512_loadu_ps(ups + 16 * i), one = _mm512_set1_ps(1);
            if (bias) up = _mm512_add_ps(up, _mm512_set1_ps(bias[i]));
            __m512 low = _mm512_add_ps(one, exp16(_mm512_sub_ps(_mm512_setzero_ps(), sum[i])));
            sum[i] = _mm512_mul_ps(_mm512_div_ps(sum[i], low), up);
        }
        for (int i = 0; i < 8; i++) _mm512_storeu_si512(to + 64 * i, pair16(sum[2 * i], sum[2 * i + 1]));
    } else {
        float *to = target.numbers + (row_tile * target.features + first) * ROWS;
        for (int i = 0; i < count; i++) {
            if (target.what == ADD) sum[i] = _mm512_add_ps(sum[i], _mm512_loadu_ps(to + 16 * i));
            _mm512_storeu_ps(to + 16 * i, sum[i]);
        }
    }
}

/* Two output tiles, of any 32 inputs, by one or two row tiles. */
INLINE void block_of_tiles(const uint8_t *one, const uint8_t *two, const uint8_t *rows, const uint8_t *more) {
    _tile_loadd(4, one, 64);
    _tile_loadd(6, rows, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, two, 64);
    _tile_dpbf16ps(1, 5, 6);
    if (more) {
        _tile_loadd(7, more, 64);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
}

INLINE void clear_sums(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* The sums of a pair of output tiles and one or two row tiles to where they go. */
INLINE void settle_all(const Matrix *matrix, float *sums, int64_t pair, int64_t row_tile, int wide, Target target) {
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    if (wide) {
        _tile_stored(2, sums + 512, 64);
        _tile_stored(3, sums + 768, 64);
    }
    for (int more = 0; more <= wide; more++) {
        const float *first = sums + 512 * more, *second = first + 256;
        settle(matrix, first, second, 2 * pair, row_tile + more, target);
        if (target.what != GATED && 2 * pair + 1 < tiles_of(matrix->outputs))
            settle(matrix, second, NULL, 2 * pair + 1, row_tile + more, target);
    }
}

static inline int64_t claim(atomic_int *next) { return atomic_fetch_add_explicit(next, 1, memory_order_relaxed); }

/* Where a pair of output tiles lies; of a last one without a second the first one twice. */
typedef struct {
    const uint8_t *one, *two;
} Pair;

INLINE Pair pair_at(const Matrix *matrix, int64_t pair) {
    int64_t bytes = blocks_of(matrix->inputs) * TILE_BYTES[matrix->kind];
    const uint8_t *one = matrix->data + 2 * pair * bytes;
    return (Pair){one, 2 * pair + 1 < tiles_of(matrix->outputs) ? one + bytes : one};
}

INLINE void expand_block(int64_t kind, Pair pair, int64_t block, uint8_t *into) {
    expand(kind, pair.one + block * TILE_BYTES[kind], into);
    expand(kind, pair.two + block * TILE_BYTES[kind], into + TILE);
}

/* Up to 32 rows: weights are expanded a few blocks before they are multiplied, the next pair's at the end of one: the
vector units work beside the matrix unit, and what is expanded stays in the nearest cache. */
INLINE void multiply_few(int64_t kind, const Matrix *matrix, const uint8_t *inputs, int wide, Target target,
                         atomic_int *next, uint8_t *scratch) {
    enum { RING = 8, AHEAD = 4 };
    int64_t pairs = (tiles_of(matrix->outputs) + 1) / 2, blocks = blocks_of(matrix->inputs);
    int64_t ahead = blocks < AHEAD ? blocks : AHEAD, turn = 0;
    uint8_t *ring = scratch + 4 * TILE;
    int64_t pair = claim(next);
    if (pair >= pairs) return;
    Pair now = pair_at(matrix, pair);
    for (int64_t k = 0; k < ahead; k++) expand_block(kind, now, k, ring + k * 2 * TILE);
    while (pair < pairs) {
        int64_t after = claim(next);
        Pair then = pair_at(matrix, after < pairs ? after : pair);
        clear_sums();
        for (int64_t k = 0; k < blocks; k++, turn++) {
            const uint8_t *weights = ring + turn % RING * 2 * TILE, *rows = inputs + k * TILE;
            block_of_tiles(weights, weights + TILE, rows, wide ? rows + blocks * TILE : NULL);
            uint8_t *into = ring + (turn + ahead) % RING * 2 * TILE;
            if (k + ahead < blocks)
                expand_block(kind, now, k + ahead, into);
            else if (after < pairs)
                expand_block(kind, then, k + ahead - blocks, into);
        }
        settle_all(matrix, (float *)scratch, pair, 0, wide, target);
        pair = after, now = then;
    }
}

/* Any number of rows: a pair of output tiles is expanded as a whole and multiplied by all of them. */
INLINE void multiply_many(int64_t kind, const Matrix *matrix, const uint8_t *inputs, int64_t row_tiles, Target target,
                          atomic_int *next, uint8_t *scratch) {
    int64_t pairs = (tiles_of(matrix->outputs) + 1) / 2, blocks = blocks_of(matrix->inputs);
    int64_t apart = kind == PLAIN ? TILE : 2 * TILE;
    for (int64_t pair; (pair = claim(next)) < pairs;) {
        Pair now = pair_at(matrix, pair);
        if (kind == PLAIN && matrix->idle) { /* of two, what is read of an idle one is the other */
            int64_t more = 2 * pair + 1 < tiles_of(matrix->outputs);
            if (matrix->idle[2 * pair] && (!more || matrix->idle[2 * pair + 1])) continue;
            if (matrix->idle[2 * pair]) now.one = now.two;
            if (more && matrix->idle[2 * pair + 1]) now.two = now.one;
        }
        if (kind != PLAIN) {
            for (int64_t k = 0; k < blocks; k++) expand_block(kind, now, k, scratch + (4 + 2 * k) * TILE);
            now = (Pair){scratch + 4 * TILE, scratch + 5 * TILE};
        }
        for (int64_t row_tile = 0; row_tile < row_tiles; row_tile += 2) {
            int wide = row_tile + 1 < row_tiles;
            const uint8_t *rows = inputs + row_tile * blocks * TILE;
            clear_sums();
            for (int64_t k = 0; k < blocks; k++, rows += TILE)
                block_of_tiles(now.one + k * apart, now.two + k * apart, rows, wide ? rows + blocks * TILE : NULL);
            settle_all(matrix, (float *)scratch, pair, row_tile, wide, target);
        }
    }
}

INLINE void multiply_as(int64_t kind, const Matrix *matrix, const uint8_t *inputs, int64_t row_tiles, Target target,
                        atomic_int *next, uint8_t *scratch) {
    if (kind == PLAIN || row_tiles > 2)
        multiply_many(kind, matrix, inputs, row_tiles, target, next, scratch);
    else if (row_tiles == 2)
        multiply_few(kind, matrix, inputs, 1, target, next, scratch);
    else
        multiply_few(kind, matrix, inputs, 0, target, next, scratch);
}

VECTOR void multiply(const Matrix *matrix, const uint8_t *inputs, int64_t row_tiles, Target target, atomic_int *next,
                     uint8_t *scratch) {
    if (matrix->kind == PLAIN)
        multiply_as(PLAIN, matrix, inputs, row_tiles, target, next, scratch);
    else if (matrix->kind == GRID4)
        multiply_as(GRID4, matrix, inputs, row_tiles, target, next, scratch);
    else
        multiply_as(GRID8, matrix, inputs, row_tiles, target, next, scratch);
}

int64_t product_scratch(const Model *model) {
    int64_t most = model->width > model->inner ? model->width : model->inner;
    int64_t heads = model->heads * model->head_width;
    return (4 + 16 + 2 * blocks_of(most > heads ? most : heads)) * TILE;
}
