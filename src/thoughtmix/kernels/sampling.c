/* A draw: a token a row of logits, by inverse CDF over those that all truncations leave (engine/sampling.py, whose
definition this is). A row is one thread's from its first look to its token, so that it depends on itself alone.

Every truncation is a floor under the logits. Those of top-k and top-p are found by halving the range of floats, as
ordered integers: what lies above a value is counted or weighed by one pass over the blocks that reach so high. */

#include "kernels.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef struct {
    int64_t rows, columns, width; /* width: of a block, which divides the columns */
    const float *logits;          /* (rows, columns); -inf: forbidden */
    const float *whole;           /* the same with nothing forbidden, of which log-probabilities are told */
    const double *uniform, *temperature, *top_k, *top_p, *min_p, *top_nsigma; /* (rows,) */
    int64_t *ids;
    float *logprobs;
    double *share, *rest;
    float *tops, *weights; /* room: (rows, columns / width); (threads, columns), NULL where no row has a top-p */
} Draw;

typedef struct {
    const Draw *draw;
    atomic_int next, bad;
    Barrier barrier;
} Drawing;

/* One row. tops: the largest of each block. */
typedef struct {
    const float *x;
    int64_t blocks, width;
    float *tops, top;
} Row;

INLINE __mmask16 some_of(int64_t left) { return left < 16 ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff; }

/* Sixteen logits of a block from i on, -inf behind its end. */
INLINE __m512 logits_at(const Row *row, int64_t block, int64_t i) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), some_of(row->width - i), row->x + block * row->width + i);
}

/* The largest of each block, and of the row; NaN where there is one. */
INLINE void find_tops(Row *row) {
    row->top = -INFINITY;
    for (int64_t block = 0; block < row->blocks; block++) {
        __m512 most = _mm512_set1_ps(-INFINITY);
        __mmask16 nan = 0;
        for (int64_t i = 0; i < row->width; i += 16) {
            __m512 y = logits_at(row, block, i);
            nan |= _mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q);
            most = _mm512_max_ps(most, y);
        }
        float here = nan ? NAN : _mm512_reduce_max_ps(most);
        row->tops[block] = here;
        if (here > row->top || isnan(here)) row->top = here;
        if (isnan(here)) return;
    }
}

/* log(sum(exp(x))): blocks in float32, their sums in float64, in a fixed order. */
INLINE float log_total(const Row *row) {
    __m512 base = _mm512_set1_ps(row->top);
    double sum = 0;
    for (int64_t block = 0; block < row->blocks; block++) {
        __m512 part = _mm512_setzero_ps();
        for (int64_t i = 0; i < row->width; i += 16) {
            __mmask16 here = some_of(row->width - i);
            part = _mm512_mask_add_ps(part, here, part, exp16(_mm512_sub_ps(logits_at(row, block, i), base)));
        }
        sum += (double)_mm512_reduce_add_ps(part);
    }
    return row->top + (float)log(sum);
}

/* exp((x - top) / temperature) of sixteen logits, 0 of those under the floor. */
INLINE __m512 weights_at(const Row *row, int64_t block, int64_t i, __m512 floor, __m512 inverse) {
    __m512 y = logits_at(row, block, i);
    __mmask16 stays = _mm512_cmp_ps_mask(y, floor, _CMP_GE_OQ) & some_of(row->width - i);
    return _mm512_maskz_mov_ps(stays, exp16(_mm512_mul_ps(_mm512_sub_ps(y, _mm512_set1_ps(row->top)), inverse)));
}

/* --- truncations --- */

/* Floats in their order as integers, and back. */
static inline int32_t key_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, 4);
    return bits < 0 ? bits ^ 0x7fffffff : bits;
}

static inline float of_key(int32_t key) {
    float x;
    key = key < 0 ? key ^ 0x7fffffff : key;
    memcpy(&x, &key, 4);
    return x;
}

/* How many logits lie above a value, or what these weigh. weights: of each logit; NULL: they are counted. */
INLINE double above(const Row *row, float value, const float *weights) {
    __m512 least = _mm512_set1_ps(value);
    __m512d sum = _mm512_setzero_pd();
    int64_t count = 0;
    for (int64_t block = 0; block < row->blocks; block++) {
        if (!(row->tops[block] > value)) continue;
        __m512 part = _mm512_setzero_ps();
        for (int64_t i = 0; i < row->width; i += 16) {
            __mmask16 high = _mm512_cmp_ps_mask(logits_at(row, block, i), least, _CMP_GT_OQ);
            if (weights)
                part = _mm512_add_ps(part, _mm512_maskz_loadu_ps(high, weights + block * row->width + i));
            else
                count += __builtin_popcount(high);
        }
        sum = _mm512_add_pd(sum, _mm512_cvtps_pd(_mm512_castps512_ps256(part)));
        sum = _mm512_add_pd(sum, _mm512_cvtps_pd(_mm512_extractf32x8_ps(part, 1)));
    }
    return weights ? _mm512_reduce_add_pd(sum) : (double)count;
}

/* The lowest logit above which there is less than `most`; none lies under `least`. */
INLINE double lowest(const Row *row, double most, float least, const float *weights) {
    int64_t low = key_of(least), high = key_of(row->top);
    while (low < high) {
        int64_t middle = low + ((high - low) >> 1);
        if (above(row, of_key((int32_t)middle), weights) < most)
            high = middle;
        else
            low = middle + 1;
    }
    return of_key((int32_t)low);
}

/* The lowest logit in the nucleus of those that reach `floor`: the likelier ones weigh less than p of all. weights: room
for a number a logit. */
INLINE double nucleus(const Row *row, double p, double temperature, float floor, float *weights) {
    for (int64_t block = 0; block < row->blocks; block++)
        for (int64_t i = 0; i < row->width; i += 16) {
            __m512 weight = weights_at(row, block, i, _mm512_set1_ps(floor), _mm512_set1_ps((float)(1 / temperature)));
            _mm512_mask_storeu_ps(weights + block * row->width + i, some_of(row->width - i), weight);
        }
    /* All under this one together weigh less than 1 - p of the likeliest. */
    double least = row->top - temperature * (log((double)(row->blocks * row->width) / (1 - p)) + 1);
    return lowest(row, p * above(row, -INFINITY, weights), (float)fmax(fmax(least, floor), -FLT_MAX), weights);
}

/* The standard deviation of what is not forbidden. */
INLINE double spread(const Row *row) {
    double mean = 0, square = 0, count = 0;
    for (int turn = 0; turn < 2; turn++) {
        __m512d sum = _mm512_setzero_pd(), middle = _mm512_set1_pd(mean);
        for (int64_t block = 0; block < row->blocks; block++)
            for (int64_t i = 0; i < row->width; i += 16) {
                __m512 y = logits_at(row, block, i);
                __mmask16 open = _mm512_cmp_ps_mask(y, _mm512_set1_ps(-INFINITY), _CMP_GT_OQ);
                if (!turn) count += __builtin_popcount(open);
                for (int half = 0; half < 2; half++) {
                    __m256 some = half ? _mm512_extractf32x8_ps(y, 1) : _mm512_castps512_ps256(y);
                    __m512d off = _mm512_maskz_sub_pd((__mmask8)(open >> 8 * half), _mm512_cvtps_pd(some), middle);
                    sum = turn ? _mm512_fmadd_pd(off, off, sum) : _mm512_add_pd(sum, off);
                }
            }
        turn ? (square = _mm512_reduce_add_pd(sum)) : (mean = _mm512_reduce_add_pd(sum) / count);
    }
    return (float)sqrt(square / count);
}

/* The lowest logit that survives all truncations, of which the largest always does. */
INLINE float floor_of(const Row *row, const Draw *d, int64_t number, float *weights) {
    double top = row->top, temperature = d->temperature[number], floor = -FLT_MAX, kth = -FLT_MAX;
    if (!(temperature > 0)) return row->top;
    if (d->min_p[number] > 0) floor = fmax(floor, top + temperature * log(d->min_p[number]));
    if (d->top_nsigma[number] > 0) floor = fmax(floor, top - d->top_nsigma[number] * spread(row));
    if (d->top_k[number] > 0 && d->top_k[number] < (double)(row->blocks * row->width))
        kth = lowest(row, d->top_k[number], -FLT_MAX, NULL);
    if (d->top_p[number] < 1) kth = fmax(kth, nucleus(row, d->top_p[number], temperature, (float)kth, weights));
    return (float)fmin(fmax(floor, kth), top);
}

/* --- the draw --- */

typedef struct {
    int64_t id;
    double mass, all, into; /* the token's weight, that of all, how far into the token's the target lies */
} Pick;

/* Few are left: weights and sums in float64. */
INLINE Pick pick_of_few(const Row *row, float floor, double uniform, double temperature) {
    double warm = temperature > 0 ? temperature : 1, all = 0, sum = 0;
    Pick pick = {0};
    for (int turn = 0; turn < 2; turn++) { /* how much they weigh; who it is */
        double target = temperature > 0 ? uniform * all : 0;
        for (int64_t block = 0; block < row->blocks; block++) {
            if (!(row->tops[block] >= floor)) continue;
            for (int64_t i = 0; i < row->width; i += 16) {
                __mmask16 stay = _mm512_cmp_ps_mask(logits_at(row, block, i), _mm512_set1_ps(floor), _CMP_GE_OQ);
                for (unsigned left = stay; left; left &= left - 1) {
                    int64_t id = block * row->width + i + __builtin_ctz(left);
                    double mass = exp(((double)row->x[id] - (double)row->top) / warm);
                    if (!turn) {
                        all += mass;
                        continue;
                    }
                    sum += mass; /* rounding may leave the target at the end: the last one then */
                    pick = (Pick){id, mass, all, target - (sum - mass)};
                    if (sum > target) return pick;
                }
            }
        }
    }
    return pick;
}

/* Many are left: which block, by sums in float32; then which token in it. sums: room for one number a block. */
INLINE Pick pick_of_many(const Row *row, float floor, double uniform, double temperature, float *sums) {
    __m512 least = _mm512_set1_ps(floor), inverse = _mm512_set1_ps(temperature > 0 ? (float)(1 / temperature) : 1);
    double all = 0, sum = 0, before = 0, inside = 0;
    for (int64_t block = 0; block < row->blocks; block++) {
        __m512 part = _mm512_setzero_ps();
        for (int64_t i = 0; i < row->width; i += 16) part = _mm512_add_ps(part, weights_at(row, block, i, least, inverse));
        sums[block] = _mm512_reduce_add_ps(part);
        all += sums[block];
    }
    double target = temperature > 0 ? uniform * all : 0;
    int64_t found = 0;
    for (int64_t block = 0; block < row->blocks; block++) {
        if (!(sums[block] > 0)) continue;
        found = block, before = sum; /* the last one with any weight, where rounding leaves the target at the end */
        if ((sum += sums[block]) > target) break;
    }
    double left = target - before;
    Pick pick = {.id = found * row->width};
    for (int64_t i = 0; i < row->width; i += 16) {
        float weights[16];
        _mm512_storeu_ps(weights, weights_at(row, found, i, least, inverse));
        for (int j = 0; j < 16 && i + j < row->width; j++) {
            if (!(weights[j] > 0)) continue;
            inside += weights[j];
            pick = (Pick){found * row->width + i + j, weights[j], all, left - (inside - weights[j])};
            if (inside > left) return pick;
        }
    }
    return pick;
}

/* Returns 0 where there is NaN or nothing finite. */
INLINE int draw_row(const Draw *d, int64_t number, float *weights) {
    int64_t blocks = d->columns / d->width, high = 0;
    Row row = {d->logits + number * d->columns, blocks, d->width, d->tops + number * blocks, 0}, whole = row;
    if (d->whole != d->logits) {
        whole.x = d->whole + number * d->columns;
        find_tops(&whole);
        if (!isfinite(whole.top)) return 0;
    }
    find_tops(&row);
    if (!isfinite(row.top)) return 0;
    if (d->whole == d->logits) whole.top = row.top;
    float floor = floor_of(&row, d, number, weights);
    double uniform = d->uniform[number], temperature = d->temperature[number];
    for (int64_t block = 0; block < blocks; block++) high += row.tops[block] >= floor;
    Pick pick = high * 8 > blocks ? pick_of_many(&row, floor, uniform, temperature, row.tops)
                                  : pick_of_few(&row, floor, uniform, temperature);
    d->ids[number] = pick.id;
    d->share[number] = temperature > 0 ? pick.mass / pick.all : 1; /* of those that tie, greedy takes the first */
    d->rest[number] = fmin(fmax(pick.into / pick.mass, 0), 1 - 0x1p-53);
    d->logprobs[number] = whole.x[pick.id] - log_total(&whole);
    return 1;
}

VECTOR static void draw_rows(void *argument, int thread, int threads) {
    Drawing *drawing = argument;
    const Draw *d = drawing->draw;
    unsigned modes = _mm_getcsr();
    _mm_setcsr(0x9fc0);
    for (int64_t row; (row = atomic_fetch_add(&drawing->next, 1)) < d->rows;)
        if (!draw_row(d, row, d->weights + thread * d->columns)) drawing->bad = 1;
    _mm_setcsr(modes);
    (void)threads;
}

/* 0 where some row is NaN, or has nothing finite. */
EXPORT int thoughtmix_draw(const Draw *draw, int threads) {
    Drawing drawing = {.draw = draw};
    run_in_team(draw_rows, &drawing, draw->rows == 1 ? 1 : threads, &drawing.barrier);
    return !drawing.bad;
}
