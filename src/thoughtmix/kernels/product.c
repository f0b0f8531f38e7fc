/* Products of packed weights on the matrix unit. Every sum runs over blocks of 32 inputs from the first to the last,
whatever the number of rows, threads and the storage: its bits depend on the row alone. */

#include "settle.h"

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

/* --- products --- */

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

VECTOR void multiply(const Matrix *matrix, const uint8_t *inputs, int64_t rows, Target target, atomic_int *next,
                     uint8_t *scratch) {
    int64_t row_tiles = tiles_of(rows);
    if (matrix->kind == PLAIN)
        multiply_as(PLAIN, matrix, inputs, row_tiles, target, next, scratch);
    else if (matrix->kind == GRID4)
        multiply_as(GRID4, matrix, inputs, row_tiles, target, next, scratch);
    else
        multiply_as(GRID8, matrix, inputs, row_tiles, target, next, scratch);
}

int64_t product_scratch(const Model *model, int64_t row_tiles, int64_t ranks) {
    (void)row_tiles;
    return (4 + 16 + 2 * most_blocks(model, ranks)) * TILE;
}
