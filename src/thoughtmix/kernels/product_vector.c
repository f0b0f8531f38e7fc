/* Products of packed weights without a matrix unit, in float32: sixteen outputs side by side in each vector.

Every sum runs over blocks of 32 inputs from the first to the last, one input after the other within a block; of weights on
a grid, w = d q + m, it is d times the sum of q x, and m times the sum of x. That is so for any number of rows, however the
work is divided: a row's bits depend on the row alone. */

#include "settle.h"

#include <string.h>

/* FEW: so many rows at most read weights as they are stored; for more these are expanded first. AT_ONCE: rows whose sums are
in registers then. FETCH: bytes from what is read to what is fetched from memory meanwhile. */
enum { FEW = 4, AT_ONCE = LEVEL == AVX2 ? 4 : 8, FETCH = 2560 };

#if LEVEL == AVX2
INLINE __m512 halves(const uint8_t *stored) {
    const __m128i *bits = (const __m128i *)stored;
    return (__m512){_mm256_cvtph_ps(_mm_loadu_si128(bits)), _mm256_cvtph_ps(_mm_loadu_si128(bits + 1))};
}
/* Input k of a block, of sixteen outputs: the weight, or q. */
INLINE __m512 weights_at(int64_t kind, const uint8_t *stored, int k) {
    if (kind == PLAIN) return halves(stored + 32 * k);
    __m256i x[2];
    if (kind == GRID8) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(stored + 32 + 16 * k));
        x[0] = _mm256_cvtepi8_epi32(bytes), x[1] = _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8));
    } else
        for (int i = 0; i < 2; i++) {
            __m256i words = _mm256_loadu_si256((const __m256i *)(stored + 64 + k / 8 * 64) + i);
            x[i] = _mm256_and_si256(_mm256_srli_epi32(words, k % 8 * 4), _mm256_set1_epi32(15));
        }
    return (__m512){_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])};
}
#else
INLINE __m512 halves(const uint8_t *stored) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)stored)); }
INLINE __m512 weights_at(int64_t kind, const uint8_t *stored, int k) {
    if (kind == PLAIN) return halves(stored + 32 * k);
    if (kind == GRID8) return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(stored + 32 + 16 * k))));
    __m512i words = _mm512_loadu_si512(stored + 64 + k / 8 * 64);
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(words, k % 8 * 4), _mm512_set1_epi32(15)));
}
#endif

/* The sum so far with that of a block, `part`; x: the sum of its inputs. */
INLINE __m512 joined(int64_t kind, __m512 sum, __m512 part, __m512 d, __m512 m, float x) {
    if (kind == PLAIN) return _mm512_add_ps(sum, part);
    if (kind == GRID4) sum = _mm512_fmadd_ps(m, _mm512_set1_ps(x), sum);
    return _mm512_fmadd_ps(d, part, sum);
}

/* --- few rows: weights as they are stored --- */

/* Sums[tile][row][output] over all inputs. tiles: output tiles side by side, `apart` bytes from one to the next. */
INLINE void sum_few(int64_t kind, int tiles, int rows, const uint8_t *stored, int64_t apart, const float *inputs,
                    const float *totals, int64_t blocks, float *sums) {
    __m512 sum[4][FEW];
    for (int t = 0; t < tiles; t++)
        for (int r = 0; r < rows; r++) sum[t][r] = _mm512_setzero_ps();
    for (int64_t b = 0; b < blocks; b++, stored += TILE_BYTES[kind], inputs += BLOCK * ROWS, totals += ROWS) {
        __m512 part[4][FEW];
        for (int t = 0; t < tiles; t++) {
            for (int64_t at = 0; at < TILE_BYTES[kind]; at += 64)
                _mm_prefetch((const char *)stored + t * apart + FETCH + at, _MM_HINT_T0);
            for (int r = 0; r < rows; r++) part[t][r] = _mm512_setzero_ps();
        }
#pragma GCC unroll 32
        for (int k = 0; k < BLOCK; k++)
            for (int t = 0; t < tiles; t++) {
                __m512 w = weights_at(kind, stored + t * apart, k);
                for (int r = 0; r < rows; r++)
                    part[t][r] = _mm512_fmadd_ps(w, _mm512_set1_ps(inputs[k * ROWS + r]), part[t][r]);
            }
        for (int t = 0; t < tiles; t++) {
            __m512 d = kind == PLAIN ? _mm512_setzero_ps() : halves(stored + t * apart);
            __m512 m = kind == GRID4 ? halves(stored + t * apart + 32) : _mm512_setzero_ps();
            for (int r = 0; r < rows; r++) sum[t][r] = joined(kind, sum[t][r], part[t][r], d, m, totals[r]);
        }
    }
    for (int t = 0; t < tiles; t++)
        for (int r = 0; r < rows; r++) _mm512_storeu_ps(sums + (t * ROWS + r) * ROWS, sum[t][r]);
}

/* --- many rows: weights expanded first, a block at a time, in the nearest cache --- */

INLINE void expand(int64_t kind, const uint8_t *stored, float *to) {
    for (int64_t at = 0; at < TILE_BYTES[kind]; at += 64) _mm_prefetch((const char *)stored + FETCH + at, _MM_HINT_T0);
#pragma GCC unroll 32
    for (int k = 0; k < BLOCK; k++) _mm512_storeu_ps(to + k * ROWS, weights_at(kind, stored, k));
}

/* What a block adds to sums[row][output] of AT_ONCE rows. */
INLINE void sum_many(int64_t kind, const float *weights, __m512 d, __m512 m, const float *inputs, const float *totals,
                     float *sums) {
    __m512 part[AT_ONCE];
    for (int r = 0; r < AT_ONCE; r++) part[r] = _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int k = 0; k < BLOCK; k++) {
        __m512 w = _mm512_loadu_ps(weights + k * ROWS);
        for (int r = 0; r < AT_ONCE; r++) part[r] = _mm512_fmadd_ps(w, _mm512_set1_ps(inputs[k * ROWS + r]), part[r]);
    }
    for (int r = 0; r < AT_ONCE; r++)
        _mm512_storeu_ps(sums + r * ROWS, joined(kind, _mm512_loadu_ps(sums + r * ROWS), part[r], d, m, totals[r]));
}

/* --- all --- */

/* Where a thread keeps what it needs. */
typedef struct {
    float *sums;   /* [tile][row][output]: of up to four output tiles and few rows, or of two and all rows */
    float *totals; /* [row tile][block][row]: sums of inputs */
} Room;

INLINE void settle_tile(const Matrix *matrix, const float *sums, int64_t tile, int64_t row_tile, Target target) {
    float turned[2][ROWS * ROWS];
    for (int64_t t = 0; t <= (target.what == GATED); t++) { /* with a gate comes what it is for */
        __m512 x[16];
        for (int i = 0; i < 16; i++) x[i] = _mm512_loadu_ps(sums + (t * ROWS + i) * ROWS);
        transpose16(x);
        for (int i = 0; i < 16; i++) _mm512_storeu_ps(turned[t] + i * ROWS, x[i]);
    }
    settle(matrix, turned[0], turned[1], tile, row_tile, target);
}

/* side: output tiles read side by side. */
INLINE void multiply_few(int64_t kind, int side, int rows, const Matrix *matrix, const uint8_t *inputs, Target target,
                         atomic_int *next, Room room) {
    int64_t tiles = tiles_of(matrix->outputs), blocks = blocks_of(matrix->inputs), apart = blocks * TILE_BYTES[kind];
    int64_t step = target.what == GATED ? 2 : 1;
    for (int64_t turn; (turn = 4 * claim(next)) < tiles;) {
        int64_t some = tiles - turn < 4 ? tiles - turn : 4;
        for (int64_t t = 0, together; t < some; t += together) {
            const uint8_t *stored = matrix->data + (turn + t) * apart;
            float *sums = room.sums + t * ROWS * ROWS;
            together = matrix->idle || some - t < side ? 1 : side;
            if (matrix->idle && matrix->idle[turn + t]) continue;
            if (together > 1)
                sum_few(kind, side, rows, stored, apart, (const float *)inputs, room.totals, blocks, sums);
            else
                sum_few(kind, 1, rows, stored, apart, (const float *)inputs, room.totals, blocks, sums);
        }
        for (int64_t t = 0; t < some; t += step)
            if (!matrix->idle || !matrix->idle[turn + t])
                settle_tile(matrix, room.sums + t * ROWS * ROWS, turn + t, 0, target);
    }
}

INLINE void multiply_many(int64_t kind, const Matrix *matrix, const uint8_t *inputs, int64_t rows, Target target,
                          atomic_int *next, Room room) {
    int64_t tiles = tiles_of(matrix->outputs), blocks = blocks_of(matrix->inputs), row_tiles = tiles_of(rows);
    int64_t step = target.what == GATED ? 2 : 1;
    float weights[BLOCK * ROWS];
    for (int64_t tile; (tile = 2 * claim(next)) < tiles;) {
        int64_t some = tiles - tile < 2 ? 1 : 2;
        memset(room.sums, 0, 2 * row_tiles * ROWS * ROWS * sizeof(float));
        for (int64_t t = 0; t < some; t++)
            for (int64_t b = 0; b < blocks; b++) {
                const uint8_t *stored = matrix->data + ((tile + t) * blocks + b) * TILE_BYTES[kind];
                __m512 d = kind == PLAIN ? _mm512_setzero_ps() : halves(stored);
                __m512 m = kind == GRID4 ? halves(stored + 32) : _mm512_setzero_ps();
                expand(kind, stored, weights);
                for (int64_t row = 0; row < rows; row += AT_ONCE) {
                    int64_t at = row / ROWS * blocks + b;
                    sum_many(kind, weights, d, m, (const float *)inputs + at * BLOCK * ROWS + row % ROWS,
                             room.totals + at * ROWS + row % ROWS,
                             room.sums + ((row / ROWS * 2 + t) * ROWS + row % ROWS) * ROWS);
                }
            }
        for (int64_t row_tile = 0; row_tile < row_tiles; row_tile++)
            for (int64_t t = 0; t < some; t += step)
                settle_tile(matrix, room.sums + (row_tile * 2 + t) * ROWS * ROWS, tile + t, row_tile, target);
    }
}

INLINE void multiply_as(int64_t kind, const Matrix *matrix, const uint8_t *inputs, int64_t rows, Target target,
                        atomic_int *next, Room room) {
    if (rows > FEW)
        multiply_many(kind, matrix, inputs, rows, target, next, room);
    else if (rows == 1)
        multiply_few(kind, 4, 1, matrix, inputs, target, next, room);
    else if (rows == 2)
        multiply_few(kind, 2, 2, matrix, inputs, target, next, room);
    else
        multiply_few(kind, LEVEL == AVX2 ? 1 : 2, 4, matrix, inputs, target, next, room);
}

static int64_t summed(int64_t row_tiles) { return (row_tiles < 2 ? 4 : 2 * row_tiles) * ROWS * ROWS; }

VECTOR void multiply(const Matrix *matrix, const uint8_t *inputs, int64_t rows, Target target, atomic_int *next,
                     uint8_t *scratch) {
    int64_t blocks = blocks_of(matrix->inputs), tiles = tiles_of(rows);
    Room room = {(float *)scratch, (float *)scratch + summed(tiles)};
    const float *numbers = (const float *)inputs;
    if (matrix->kind == GRID4)
        for (int64_t b = 0; b < tiles * blocks; b++) {
            __m512 sum = _mm512_setzero_ps();
            for (int64_t k = 0; k < BLOCK; k++) sum = _mm512_add_ps(sum, _mm512_loadu_ps(numbers + (b * BLOCK + k) * ROWS));
            _mm512_storeu_ps(room.totals + b * ROWS, sum);
        }
    if (rows <= FEW) memset(room.sums, 0, 4 * ROWS * ROWS * sizeof(float)); /* also places of rows that there are not */
    if (matrix->kind == PLAIN)
        multiply_as(PLAIN, matrix, inputs, rows, target, next, room);
    else if (matrix->kind == GRID4)
        multiply_as(GRID4, matrix, inputs, rows, target, next, room);
    else
        multiply_as(GRID8, matrix, inputs, rows, target, next, room);
}

VECTOR void configure_tiles(void) {}

VECTOR void release_tiles(void) {}

int64_t product_scratch(const Model *model, int64_t row_tiles, int64_t ranks) {
    return (summed(row_tiles) + row_tiles * most_blocks(model, ranks) * ROWS) * (int64_t)sizeof(float);
}
