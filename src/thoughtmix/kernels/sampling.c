/* What a draw wants to know of every logit: where the largest are, and the sum of all probabilities. */

#include "kernels.h"

#include <math.h>

typedef struct {
    const float *logits;
    int64_t rows, columns, width;
    float *tops, *top, *total;
    atomic_int next;
    Barrier barrier;
} Scan;

INLINE __mmask16 some_of(int64_t left) { return left < 16 ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff; }

/* The largest of each block of a row, and of the row; NaN where there is one. */
INLINE float row_tops(const float *x, int64_t columns, int64_t width, float *tops) {
    float highest = -INFINITY;
    for (int64_t first = 0; first < columns; first += width) {
        __m512 most = _mm512_set1_ps(-INFINITY);
        __mmask16 nan = 0;
        for (int64_t i = 0; i < width; i += 16) {
            __m512 y = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), some_of(width - i), x + first + i);
            nan |= _mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q);
            most = _mm512_max_ps(most, y);
        }
        float here = nan ? NAN : _mm512_reduce_max_ps(most);
        tops[first / width] = here;
        if (here > highest || isnan(here)) highest = here;
        if (isnan(here)) break;
    }
    return highest;
}

/* log(sum(exp(x))): blocks in float32, their sums in float64, in a fixed order. */
INLINE float row_total(const float *x, int64_t columns, int64_t width, float top) {
    __m512 base = _mm512_set1_ps(top);
    double sum = 0;
    for (int64_t first = 0; first < columns; first += width) {
        __m512 part = _mm512_setzero_ps();
        for (int64_t i = 0; i < width; i += 16) {
            __m512 y = _mm512_maskz_loadu_ps(some_of(width - i), x + first + i);
            part = _mm512_mask_add_ps(part, some_of(width - i), part, exp16(_mm512_sub_ps(y, base)));
        }
        sum += (double)_mm512_reduce_add_ps(part);
    }
    return top + (float)log(sum);
}

VECTOR static void scan_rows(void *argument, int thread, int threads) {
    Scan *s = argument;
    unsigned modes = _mm_getcsr();
    _mm_setcsr(0x9fc0);
    for (int64_t row; (row = atomic_fetch_add(&s->next, 1)) < s->rows;) {
        const float *x = s->logits + row * s->columns;
        s->top[row] = row_tops(x, s->columns, s->width, s->tops + row * (s->columns / s->width));
        s->total[row] = isfinite(s->top[row]) ? row_total(x, s->columns, s->width, s->top[row]) : s->top[row];
    }
    _mm_setcsr(modes);
    (void)thread, (void)threads;
}

/* Of logits (rows, columns): the largest of each block of `width` (rows, columns / width) and of each row, and the log of
the sum of their exponentials. Of a row with a NaN the largest is NaN. */
EXPORT void thoughtmix_scan(const float *logits, int64_t rows, int64_t columns, int64_t width, float *tops, float *top,
                            float *total, int threads) {
    Scan scan = {.logits = logits, .rows = rows, .columns = columns, .width = width, .tops = tops, .top = top, .total = total};
    run_in_team(scan_rows, &scan, rows == 1 ? 1 : threads, &scan.barrier);
}
