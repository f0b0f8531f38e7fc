/* Many queries over the same keys: attention to a prompt, on the matrix unit, 64 queries (lanes) at once.

FlashAttention (Dao et al. 2022, algorithm 1): chunks of 64 keys, earlier sums rescaled where a greater score comes. Scores
are keys times queries, each the sum of two bfloat16 numbers (the product of the two rests is left out), since powers make
much of small errors: of one number each, logits are twice as far from float32's. Weights and values are one bfloat16
number each; all sums, maxima and powers are float32. A lane is one column, then one row, of each tile, and does not know
the others. */

#include "kernels.h"

#include <string.h>

#define LOG2E 1.44269504f
#define LN2 0.693147181f
#define UNSEEN -1e30f /* a score that weighs 0 beside any other */

/* 2^x for x <= 0, to three millionths: the weights are rounded to bfloat16. 0 where it is too small. */
INLINE __m512 power_of_2(__m512 x) {
    __m512 n = _mm512_roundscale_ps(x, 8), r = _mm512_sub_ps(x, n);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.00958285f), r, _mm512_set1_ps(0.05590643f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.24024099f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.6931242f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

/* Thirty-two numbers as the sum of two of bfloat16 each. */
typedef struct {
    __m512i near, rest;
} Two;

INLINE __m512 widen(__m256i x) { return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16); }

/* Numbers f to f + 31 of d, times `by`, in their order. */
INLINE Two round32(const float *numbers, int64_t d, int64_t f, __m512 by) {
    __m512 low = _mm512_mul_ps(_mm512_maskz_loadu_ps(tail(d, f), numbers + f), by);
    __m512 high = _mm512_mul_ps(_mm512_maskz_loadu_ps(tail(d, f + 16), numbers + f + 16), by);
    __m512i near = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    low = _mm512_sub_ps(low, widen(_mm512_castsi512_si256(near)));
    high = _mm512_sub_ps(high, widen(_mm512_extracti64x4_epi64(near, 1)));
    return (Two){near, (__m512i)_mm512_cvtne2ps_pbh(high, low)};
}

/* In powers of two, so that the scores are. */
INLINE void pack_queries(Prompt *p, Queries q, int64_t d) {
    for (int64_t first = 0; first < q.count; first += ROWS)
        for (int64_t b = 0; b < blocks_of(d); b++) {
            __m512 near[16], rest[16]; /* a query each; its pairs of features become rows */
            for (int64_t i = 0; i < 16; i++) {
                near[i] = rest[i] = _mm512_setzero_ps();
                if (first + i >= q.count) continue;
                Two x = round32(q.query + (first + i) * q.apart, d, b * BLOCK, _mm512_set1_ps(LOG2E));
                near[i] = (__m512)x.near, rest[i] = (__m512)x.rest;
            }
            transpose16(near), transpose16(rest);
            for (int i = 0; i < 16; i++) {
                _mm512_store_ps(p->query[first / ROWS][b][0] + 64 * i, near[i]);
                _mm512_store_ps(p->query[first / ROWS][b][1] + 64 * i, rest[i]);
            }
        }
}

/* Keys and values of a chunk, from `first` on; 0 beyond the last one. */
INLINE void pack_keys(Prompt *p, const Keys *keys, int64_t first, int64_t count, int64_t d) {
    const __m512 one = _mm512_set1_ps(1), zero = _mm512_setzero_ps();
    for (int64_t t = 0; t < tiles_of(count) * ROWS; t++)
        for (int64_t b = 0; b < blocks_of(d); b++) {
            Two x = {_mm512_setzero_si512(), _mm512_setzero_si512()};
            if (t < count) x = round32(key_at(keys, first + t, d), d, b * BLOCK, one);
            _mm512_store_si512((__m512i *)(p->key[t / ROWS][b][0] + t % ROWS * 64), x.near);
            _mm512_store_si512((__m512i *)(p->key[t / ROWS][b][1] + t % ROWS * 64), x.rest);
        }
    for (int64_t t = 0; t < blocks_of(count) * BLOCK; t += 2)
        for (int64_t f = 0; f < d; f += 16) {
            __m512 even = t < count ? _mm512_maskz_loadu_ps(tail(d, f), value_at(keys, first + t, d) + f) : zero;
            __m512 odd = t + 1 < count ? _mm512_maskz_loadu_ps(tail(d, f), value_at(keys, first + t + 1, d) + f) : zero;
            _mm512_store_si512((__m512i *)(p->value[t / BLOCK][f / 16] + t % BLOCK * 32), pair16(even, odd));
        }
}

/* score[key][lane], of up to two tiles of keys and two groups of lanes at a time. from: the first group's queries. */
INLINE void multiply_scores(Prompt *p, int64_t from, int64_t groups, int64_t tiles, int64_t blocks) {
    enum { STRIDE = LANES * sizeof(float) };
    for (int64_t w = 0; w < groups; w += 2)
        for (int64_t k = 0; k < tiles; k += 2) {
            int more = w + 1 < groups, below = k + 1 < tiles;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int64_t b = 0; b < 3 * blocks; b++) { /* near by near, near by rest, rest by near */
                int64_t at = b / 3, of_key = b % 3 == 2, of_query = b % 3 == 1;
                _tile_loadd(4, p->key[k][at][of_key], 64);
                _tile_loadd(6, p->query[from + w][at][of_query], 64);
                _tile_dpbf16ps(0, 4, 6);
                if (below) {
                    _tile_loadd(5, p->key[k + 1][at][of_key], 64);
                    _tile_dpbf16ps(2, 5, 6);
                }
                if (!more) continue;
                _tile_loadd(7, p->query[from + w + 1][at][of_query], 64);
                _tile_dpbf16ps(1, 4, 7);
                if (below) _tile_dpbf16ps(3, 5, 7);
            }
            float *to = &p->score[k * ROWS][w * ROWS];
            _tile_stored(0, to, STRIDE);
            if (more) _tile_stored(1, to + ROWS, STRIDE);
            if (below) _tile_stored(2, to + ROWS * LANES, STRIDE);
            if (more && below) _tile_stored(3, to + ROWS * LANES + ROWS, STRIDE);
        }
}

/* Scores of sixteen lanes (group w, its queries from + w) become weights. first: the chunk's first key. Returns by how much
earlier sums shrink. */
INLINE __m512 weigh(Prompt *p, int64_t from, int64_t w, const int32_t *limit, int64_t first, int64_t tiles) {
    float *greatest = p->most + ROWS * (from + w), *sum = p->total + ROWS * (from + w);
    __m512 old = _mm512_loadu_ps(greatest), most = old, even = _mm512_setzero_ps(), odd = even;
    __m512i sees = _mm512_loadu_si512(limit + ROWS * (from + w));
    int all = _mm512_cmplt_epi32_mask(sees, _mm512_set1_epi32((int)(first + tiles * ROWS))) == 0;
    for (int64_t t = 0; t < tiles * ROWS; t++) {
        __m512 x = _mm512_load_ps(&p->score[t][ROWS * w]);
        if (!all) {
            __mmask16 seen = _mm512_cmpgt_epi32_mask(sees, _mm512_set1_epi32((int)(first + t)));
            x = _mm512_mask_mov_ps(_mm512_set1_ps(UNSEEN), seen, x);
            _mm512_store_ps(&p->score[t][ROWS * w], x);
        }
        most = _mm512_max_ps(most, x);
    }
    for (int64_t block = 0; block < (tiles + 1) / 2; block++) {
        __m512 pairs[16]; /* of keys, a lane in each place; a lane's pairs become a row */
        for (int64_t i = 0; i < 16; i++) {
            int64_t t = block * BLOCK + 2 * i;
            if (t < tiles * ROWS) {
                __m512 one = power_of_2(_mm512_sub_ps(_mm512_load_ps(&p->score[t][ROWS * w]), most));
                __m512 other = power_of_2(_mm512_sub_ps(_mm512_load_ps(&p->score[t + 1][ROWS * w]), most));
                even = _mm512_add_ps(even, one), odd = _mm512_add_ps(odd, other);
                pairs[i] = (__m512)pair16(one, other);
            } else
                pairs[i] = _mm512_setzero_ps();
        }
        transpose16(pairs);
        for (int i = 0; i < 16; i++) _mm512_store_ps(p->weight[w][block] + 64 * i, pairs[i]);
    }
    __m512 shrink = power_of_2(_mm512_sub_ps(old, most));
    _mm512_storeu_ps(sum, _mm512_fmadd_ps(_mm512_loadu_ps(sum), shrink, _mm512_add_ps(even, odd)));
    _mm512_storeu_ps(greatest, most);
    return shrink;
}

/* Sums of sixteen lanes by what they shrink. */
INLINE void shrink_sums(float *mixed, int64_t apart, __m512 shrink) {
    if (_mm512_cmp_ps_mask(shrink, _mm512_set1_ps(1), _CMP_NEQ_UQ) == 0) return;
    float by[ROWS];
    _mm512_storeu_ps(by, shrink);
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t f = 0; f < apart; f += 16) {
            float *at = mixed + i * apart + f;
            _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), _mm512_set1_ps(by[i])));
        }
}

/* mixed[lane][feature] += weights times values, of two groups of lanes and two tiles of features at a time. */
INLINE void multiply_values(Prompt *p, int64_t groups, int64_t key_blocks, float *mixed, int64_t apart) {
    int64_t features = apart / 16, stride = apart * (int64_t)sizeof(float);
    for (int64_t w = 0; w < groups; w += 2)
        for (int64_t f = 0; f < features; f += 2) {
            int more = w + 1 < groups, right = f + 1 < features;
            float *here = mixed + w * ROWS * apart + f * 16, *below = here + ROWS * apart;
            _tile_loadd(0, here, stride);
            if (right) _tile_loadd(1, here + 16, stride);
            if (more) _tile_loadd(2, below, stride);
            if (more && right) _tile_loadd(3, below + 16, stride);
            for (int64_t b = 0; b < key_blocks; b++) {
                _tile_loadd(4, p->weight[w][b], 64);
                _tile_loadd(6, p->value[b][f], 64);
                _tile_dpbf16ps(0, 4, 6);
                if (right) {
                    _tile_loadd(7, p->value[b][f + 1], 64);
                    _tile_dpbf16ps(1, 4, 7);
                }
                if (!more) continue;
                _tile_loadd(5, p->weight[w + 1][b], 64);
                _tile_dpbf16ps(2, 5, 6);
                if (right) _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, here, stride);
            if (right) _tile_stored(1, here + 16, stride);
            if (more) _tile_stored(2, below, stride);
            if (more && right) _tile_stored(3, below + 16, stride);
        }
}

INLINE void over_prompt_of(Prompt *p, Queries q, const Keys *keys, int64_t tokens, Gathered to, int64_t d) {
    int64_t tiles = tiles_of(q.count);
    int32_t furthest[QUERIES / LANES] = {0}; /* keys that any of 64 lanes sees */
    pack_queries(p, q, d);
    for (int64_t i = 0; i < tiles * ROWS; i++) {
        p->most[i] = UNSEEN, p->total[i] = 0;
        if (i >= q.count) q.limit[i] = 0;
        if (q.limit[i] > furthest[i / LANES]) furthest[i / LANES] = q.limit[i];
    }
    memset(to.mixed, 0, tiles * ROWS * q.apart * sizeof(float));
    for (int64_t first = 0; first < tokens; first += CHUNK) {
        int64_t count = tokens - first < CHUNK ? tokens - first : CHUNK;
        pack_keys(p, keys, first, count, d);
        for (int64_t w = 0; w < tiles; w += LANES / ROWS) {
            int64_t groups = tiles - w < LANES / ROWS ? tiles - w : LANES / ROWS;
            if (furthest[w * ROWS / LANES] <= first) continue;
            multiply_scores(p, w, groups, tiles_of(count), blocks_of(d));
            for (int64_t i = 0; i < groups; i++)
                shrink_sums(to.mixed + (w + i) * ROWS * q.apart, q.apart, weigh(p, w, i, q.limit, first, tiles_of(count)));
            multiply_values(p, groups, blocks_of(count), to.mixed + w * ROWS * q.apart, q.apart);
        }
    }
    for (int64_t i = 0; i < q.count; i++) to.most[i] = p->most[i] * LN2, to.total[i] = p->total[i];
}

VECTOR void over_prompt(Prompt *p, Queries q, const Keys *keys, int64_t tokens, Gathered to) {
    if (q.width == 64) /* the usual width, without tails */
        over_prompt_of(p, q, keys, tokens, to, 64);
    else
        over_prompt_of(p, q, keys, tokens, to, q.width);
}
