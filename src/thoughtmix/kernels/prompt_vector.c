/* Many queries over the same keys, without a matrix unit: as prompt.c, sixteen queries (lanes) side by side in each vector,
all in float32. A lane does not know the others. */

#include "kernels.h"

#include <math.h>
#include <string.h>

enum { TOGETHER = LEVEL == AVX2 ? 4 : 8 }; /* keys, or features, at once: as many sums as registers take */

/* The scores of a chunk of keys for sixteen lanes. sees: of each lane, how many keys. */
INLINE __m512 score(PromptLanes *l, const Keys *keys, int64_t first, int64_t count, int64_t d, const int32_t *sees) {
    __m512 most = _mm512_loadu_ps(l->most);
    for (int64_t t = 0; t < count; t += TOGETHER) {
        __m512 sum[TOGETHER];
        const float *key[TOGETHER];
        for (int i = 0; i < TOGETHER; i++) {
            key[i] = key_at(keys, first + (t + i < count ? t + i : count - 1), d);
            sum[i] = _mm512_setzero_ps();
        }
        for (int64_t f = 0; f < d; f++) {
            __m512 query = _mm512_loadu_ps(l->query[f]);
            for (int i = 0; i < TOGETHER; i++) sum[i] = _mm512_fmadd_ps(query, _mm512_set1_ps(key[i][f]), sum[i]);
        }
        for (int i = 0; i < TOGETHER; i++) {
            unsigned seen = 0;
            for (int lane = 0; lane < ROWS && t + i < count; lane++) seen |= (unsigned)(sees[lane] > first + t + i) << lane;
            sum[i] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), (__mmask16)seen, sum[i]);
            _mm512_storeu_ps(l->weight[t + i], sum[i]);
            most = _mm512_max_ps(most, sum[i]);
        }
    }
    return most;
}

INLINE void take_chunk(PromptLanes *l, const Keys *keys, int64_t first, int64_t count, int64_t d, const int32_t *sees) {
    const __m512 none = _mm512_set1_ps(-INFINITY);
    __m512 most = score(l, keys, first, count, d, sees);
    /* of a lane that has seen nothing yet: any finite number */
    __m512 old = _mm512_loadu_ps(l->most), base = _mm512_max_ps(most, _mm512_set1_ps(-1e30f));
    __m512 scale = exp16(_mm512_sub_ps(_mm512_max_ps(old, _mm512_set1_ps(-1e30f)), base));
    __m512 total = _mm512_mul_ps(_mm512_loadu_ps(l->total), scale);
    for (int64_t t = 0; t < count; t++) {
        __m512 x = _mm512_loadu_ps(l->weight[t]);
        x = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, none, _CMP_NEQ_UQ), exp16(_mm512_sub_ps(x, base)));
        _mm512_storeu_ps(l->weight[t], x);
        total = _mm512_add_ps(total, x);
    }
    _mm512_storeu_ps(l->most, most), _mm512_storeu_ps(l->total, total);
    for (int64_t f = 0; f < d; f += TOGETHER) {
        __m512 sum[TOGETHER];
        int64_t some = d - f < TOGETHER ? d - f : TOGETHER;
        for (int i = 0; i < TOGETHER; i++) sum[i] = _mm512_mul_ps(_mm512_loadu_ps(l->mixed[f + i]), scale);
        for (int64_t t = 0; t < count; t++) {
            const float *value = value_at(keys, first + t, d) + f;
            __m512 weight = _mm512_loadu_ps(l->weight[t]);
            for (int i = 0; i < TOGETHER; i++)
                if (i < some) sum[i] = _mm512_fmadd_ps(weight, _mm512_set1_ps(value[i]), sum[i]);
        }
        for (int i = 0; i < TOGETHER; i++) _mm512_storeu_ps(l->mixed[f + i], sum[i]);
    }
}

INLINE void over_prompt_of(Prompt *p, Queries q, const Keys *keys, int64_t tokens, Gathered to, int64_t d) {
    int64_t tiles = tiles_of(q.count);
    for (int64_t w = 0; w < tiles; w++) {
        PromptLanes *l = p->lanes + w;
        for (int64_t f = 0; f < d; f += 16) {
            __m512 x[16];
            for (int i = 0; i < 16; i++) {
                int64_t lane = w * ROWS + i;
                x[i] = lane < q.count ? _mm512_maskz_loadu_ps(tail(d, f), q.query + lane * q.apart + f) : _mm512_setzero_ps();
            }
            transpose16(x);
            for (int i = 0; i < 16; i++) _mm512_storeu_ps(l->query[f + i], x[i]);
        }
        _mm512_storeu_ps(l->most, _mm512_set1_ps(-INFINITY)), _mm512_storeu_ps(l->total, _mm512_setzero_ps());
        memset(l->mixed, 0, q.apart * sizeof *l->mixed);
        l->furthest = 0;
        for (int64_t i = w * ROWS; i < (w + 1) * ROWS; i++) {
            if (i >= q.count) q.limit[i] = 0;
            if (q.limit[i] > l->furthest) l->furthest = q.limit[i];
        }
    }
    for (int64_t first = 0; first < tokens; first += CHUNK)
        for (int64_t w = 0; w < tiles; w++)
            if (p->lanes[w].furthest > first)
                take_chunk(p->lanes + w, keys, first, tokens - first < CHUNK ? tokens - first : CHUNK, d, q.limit + w * ROWS);
    for (int64_t w = 0; w < tiles; w++)
        for (int64_t f = 0; f < d; f += 16) {
            __m512 x[16];
            for (int i = 0; i < 16; i++) x[i] = _mm512_loadu_ps(p->lanes[w].mixed[f + i]);
            transpose16(x);
            for (int i = 0; i < 16; i++) _mm512_storeu_ps(to.mixed + (w * ROWS + i) * q.apart + f, x[i]);
        }
    for (int64_t i = 0; i < q.count; i++)
        to.most[i] = p->lanes[i / ROWS].most[i % ROWS], to.total[i] = p->lanes[i / ROWS].total[i % ROWS];
}

VECTOR void over_prompt(Prompt *p, Queries q, const Keys *keys, int64_t tokens, Gathered to) {
    if (q.width == 64) /* the usual width, without tails */
        over_prompt_of(p, q, keys, tokens, to, 64);
    else
        over_prompt_of(p, q, keys, tokens, to, q.width);
}
