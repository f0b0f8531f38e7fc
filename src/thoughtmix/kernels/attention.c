/* Attention over [shared prompt | own tokens] with grouped heads and an online softmax.

A row's sums run over its keys in their order, in chunks of 64 from the first: over the prompt's with many rows and query
heads side by side, on the matrix unit (prompt.c); over its own by itself, in float32; the two are joined by their maxima.
Places out of sight weigh 0 exactly. So what a row gathers depends on its own keys alone. */

#include "kernels.h"

#include <math.h>
#include <string.h>

/* Feature f of rows `row` to `row + rows - 1` (at most 16) side by side; the lanes beyond are 0. */
INLINE __m512 lanes(const float *numbers, int64_t features, int64_t row, int64_t rows, int64_t f) {
    int64_t offset = row % ROWS;
    const float *at = numbers + (row / ROWS * features + f) * ROWS;
    __mmask16 mask = (__mmask16)((1u << rows) - 1), here = (__mmask16)((1u << (ROWS - offset)) - 1);
    __m512 x = _mm512_maskz_loadu_ps(mask & here, at + offset);
    if (offset + rows > ROWS)
        x = _mm512_mask_loadu_ps(x, mask & ~here, at + features * ROWS - (ROWS - offset));
    return x;
}

VECTOR void turn_angles(const Model *model, const Batch *batch, RowBlock block, float *angles) {
    int64_t half = model->head_width / 2;
    for (int64_t i = 0; i < 2 * half * ROWS; i++) angles[i] = 0;
    for (int64_t r = 0; r < block.rows; r++) {
        int64_t position = batch->positions[block.row + r];
        for (int64_t i = 0; i < half; i++) {
            angles[i * ROWS + r] = model->cosine[position * half + i];
            angles[(half + i) * ROWS + r] = model->sine[position * half + i];
        }
    }
}

/* A head's features of a block of rows, normed where the model does that, turned by their positions: out[feature][16]. */
INLINE void rotated(const Attention *a, const RowBlock *block, int64_t feature, const float *gain, const float *angles,
                    float *out) {
    const Model *m = a->model;
    int64_t d = m->head_width, half = d / 2, features = (m->heads + 2 * m->kv_heads) * d;
    for (int64_t i = 0; i < d; i++)
        _mm512_storeu_ps(out + i * ROWS, lanes(a->qkv, features, block->row, block->rows, feature + i));
    if (gain) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < d; i++) {
            __m512 x = _mm512_loadu_ps(out + i * ROWS);
            sum = _mm512_fmadd_ps(x, x, sum);
        }
        sum = _mm512_add_ps(_mm512_div_ps(sum, _mm512_set1_ps((float)d)), _mm512_set1_ps(m->epsilon));
        __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1), _mm512_sqrt_ps(sum));
        for (int64_t i = 0; i < d; i++) {
            __m512 x = _mm512_mul_ps(_mm512_loadu_ps(out + i * ROWS), inverse);
            _mm512_storeu_ps(out + i * ROWS, _mm512_mul_ps(x, _mm512_set1_ps(gain[i])));
        }
    }
    for (int64_t i = 0; i < half; i++) {
        __m512 x = _mm512_loadu_ps(out + i * ROWS), y = _mm512_loadu_ps(out + (half + i) * ROWS);
        __m512 c = _mm512_loadu_ps(angles + i * ROWS), s = _mm512_loadu_ps(angles + (half + i) * ROWS);
        _mm512_storeu_ps(out + i * ROWS, _mm512_fmsub_ps(x, c, _mm512_mul_ps(y, s)));
        _mm512_storeu_ps(out + (half + i) * ROWS, _mm512_fmadd_ps(y, c, _mm512_mul_ps(x, s)));
    }
}

/* Rows of a block as columns in[feature][16] become rows of d numbers, each where `to` says. */
INLINE void write_rows(const float *in, int64_t d, int64_t rows, float *const *to) {
    for (int64_t f = 0; f < d; f += 16) {
        int64_t some = d - f < 16 ? d - f : 16;
        __m512 x[16];
        for (int i = 0; i < 16; i++) x[i] = i < some ? _mm512_loadu_ps(in + (f + i) * ROWS) : _mm512_setzero_ps();
        transpose16(x);
        for (int64_t r = 0; r < rows; r++) _mm512_mask_storeu_ps(to[r] + f, (__mmask16)((1u << some) - 1), x[r]);
    }
}

VECTOR void store_keys(const Attention *a, int64_t number, int64_t head, float *scratch) {
    const Model *m = a->model;
    const RowBlock *block = &a->block[number];
    const Segment *segment = &a->batch->segment[block->segment];
    int64_t d = m->head_width, features = (m->heads + 2 * m->kv_heads) * d;
    float *keys[ROWS], *values[ROWS];
    for (int64_t r = 0; r < block->rows; r++) {
        int64_t position = a->batch->positions[block->row + r];
        if (segment->reads) {
            int64_t at = head * segment->prompt_stride + position * d;
            keys[r] = segment->prompt_keys[a->layer] + at, values[r] = segment->prompt_values[a->layer] + at;
        } else {
            int64_t row = (block->row + r - segment->first) / segment->tokens;
            int64_t at = row * segment->own_row + head * segment->own_head + (position - segment->prompt) * d;
            keys[r] = segment->own_keys[a->layer] + at, values[r] = segment->own_values[a->layer] + at;
        }
    }
    const float *angles = a->angles + number * d * ROWS;
    rotated(a, block, (m->heads + head) * d, m->layer[a->layer].k_norm, angles, scratch);
    write_rows(scratch, d, block->rows, keys);
    for (int64_t i = 0; i < d; i++) {
        int64_t feature = (m->heads + m->kv_heads + head) * d + i;
        _mm512_storeu_ps(scratch + i * ROWS, lanes(a->qkv, features, block->row, block->rows, feature));
    }
    write_rows(scratch, d, block->rows, values);
}

/* --- one row, keys of its own --- */

typedef struct {
    float query[MOST_HEADS][MOST_WIDTH], mixed[MOST_HEADS][MOST_WIDTH];
    float weight[MOST_HEADS][CHUNK];
    float most[MOST_HEADS], total[MOST_HEADS];
} Own;

INLINE __m512 sums_of16(__m512 x[16]) { /* element i: the sum of all elements of x[i] */
    for (int i = 0; i < 8; i++)
        x[i] = _mm512_add_ps(_mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]), _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]));
    for (int i = 0; i < 4; i++) {
        __m512d p = _mm512_castps_pd(x[2 * i]), q = _mm512_castps_pd(x[2 * i + 1]);
        x[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(p, q)), _mm512_castpd_ps(_mm512_unpackhi_pd(p, q)));
    }
    for (int width = 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            x[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x[2 * i], x[2 * i + 1], 0x88),
                                 _mm512_shuffle_f32x4(x[2 * i], x[2 * i + 1], 0xdd));
    return x[0];
}

INLINE void own_scores(Own *o, int64_t j, const float *keys, int64_t count, int64_t d, int64_t at) {
    __m512 sum[16];
    if (d == 64 && at + 16 <= count) { /* the usual width, without loops */
        __m512 q0 = _mm512_loadu_ps(o->query[j]), q1 = _mm512_loadu_ps(o->query[j] + 16);
        __m512 q2 = _mm512_loadu_ps(o->query[j] + 32), q3 = _mm512_loadu_ps(o->query[j] + 48);
        for (int i = 0; i < 16; i++) {
            const float *key = keys + (at + i) * 64;
            __m512 x = _mm512_fmadd_ps(q0, _mm512_loadu_ps(key), _mm512_setzero_ps());
            x = _mm512_fmadd_ps(q1, _mm512_loadu_ps(key + 16), x);
            x = _mm512_fmadd_ps(q2, _mm512_loadu_ps(key + 32), x);
            sum[i] = _mm512_fmadd_ps(q3, _mm512_loadu_ps(key + 48), x);
        }
    } else
        for (int i = 0; i < 16; i++) {
            sum[i] = _mm512_setzero_ps();
            if (at + i < count)
                for (int64_t f = 0; f < d; f += 16) {
                    __m512 key = _mm512_maskz_loadu_ps(tail(d, f), keys + (at + i) * d + f);
                    sum[i] = _mm512_fmadd_ps(_mm512_loadu_ps(&o->query[j][f]), key, sum[i]);
                }
        }
    __mmask16 seen = count - at < 16 ? (__mmask16)((1u << (count - at)) - 1) : (__mmask16)0xffff;
    __m512 score = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, sums_of16(sum));
    _mm512_storeu_ps(&o->weight[j][at], score);
}

/* heads: query heads at once; vectors: of 16 features at once. */
INLINE void own_values(Own *o, int64_t j, int heads, int64_t f, int vectors, const float *values, int64_t count, int64_t d,
                       const float *scale) {
    __m512 sum[4][4];
    for (int h = 0; h < heads; h++)
        for (int v = 0; v < vectors; v++)
            sum[h][v] = _mm512_mul_ps(_mm512_loadu_ps(&o->mixed[j + h][f + 16 * v]), _mm512_set1_ps(scale[j + h]));
    for (int64_t t = 0; t < count; t++)
        for (int v = 0; v < vectors; v++) {
            __m512 value = _mm512_maskz_loadu_ps(tail(d, f + 16 * v), values + t * d + f + 16 * v);
            for (int h = 0; h < heads; h++)
                sum[h][v] = _mm512_fmadd_ps(value, _mm512_set1_ps(o->weight[j + h][t]), sum[h][v]);
        }
    for (int h = 0; h < heads; h++)
        for (int v = 0; v < vectors; v++) _mm512_storeu_ps(&o->mixed[j + h][f + 16 * v], sum[h][v]);
}

INLINE void own_chunk(Own *o, int64_t heads, const float *keys, const float *values, int64_t count, int64_t d) {
    float scale[MOST_HEADS];
    for (int64_t j = 0; j < heads; j++) {
        __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
        for (int64_t at = 0; at < count; at += 16) {
            own_scores(o, j, keys, count, d, at);
            most = _mm512_max_ps(most, _mm512_loadu_ps(&o->weight[j][at]));
        }
        float new = _mm512_reduce_max_ps(most);
        if (new < o->most[j]) new = o->most[j];
        scale[j] = _mm512_cvtss_f32(exp16(_mm512_set1_ps(o->most[j] == -INFINITY ? -126.0f : o->most[j] - new)));
        for (int64_t at = 0; at < count; at += 16) {
            __m512 x = _mm512_loadu_ps(&o->weight[j][at]);
            __mmask16 seen = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-INFINITY), _CMP_NEQ_UQ);
            x = _mm512_maskz_mov_ps(seen, exp16(_mm512_sub_ps(x, _mm512_set1_ps(new))));
            _mm512_storeu_ps(&o->weight[j][at], x);
            total = _mm512_add_ps(total, x);
        }
        o->total[j] = o->total[j] * scale[j] + _mm512_reduce_add_ps(total);
        o->most[j] = new;
    }
    for (int64_t j = 0; j < heads;) {
        int64_t some = heads - j;
        for (int64_t f = 0; f < d;) {
            int wide = d - f >= 64;
            if (some >= 4)
                wide ? own_values(o, j, 4, f, 4, values, count, d, scale) : own_values(o, j, 4, f, 1, values, count, d, scale);
            else if (some == 3)
                wide ? own_values(o, j, 3, f, 4, values, count, d, scale) : own_values(o, j, 3, f, 1, values, count, d, scale);
            else if (some == 2)
                wide ? own_values(o, j, 2, f, 4, values, count, d, scale) : own_values(o, j, 2, f, 1, values, count, d, scale);
            else
                wide ? own_values(o, j, 1, f, 4, values, count, d, scale) : own_values(o, j, 1, f, 1, values, count, d, scale);
            f += wide ? 64 : 16;
        }
        j += some >= 4 ? 4 : some;
    }
}

/* --- both --- */

typedef struct {
    Prompt prompt;
    Own own;
    float column[MOST_WIDTH * ROWS];
    float mixed[QUERIES * MOST_WIDTH], query[QUERIES * MOST_WIDTH], most[QUERIES], total[QUERIES];
    int32_t limit[QUERIES];
} Scratch;

int64_t attention_scratch(const Model *model) {
    (void)model;
    return (sizeof(Scratch) + 63) / 64 * 64;
}

/* d numbers of a row, from feature f on, as inputs of the next product. */
INLINE void put(const Attention *a, int64_t row, int64_t f, int64_t d, const float *numbers) {
    uint8_t *tile = a->packed + row / ROWS * blocks_of(a->model->heads * a->model->head_width) * INPUTS;
#if LEVEL == AMX
    for (int64_t i = 0; i < d; i += 16) {
        uint32_t pairs[8];
        _mm256_storeu_si256((__m256i *)pairs, (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(numbers + i)));
        for (int64_t j = 0; j < 8 && i + 2 * j < d; j++) {
            int64_t at = f + i + 2 * j;
            *(uint32_t *)(tile + at / BLOCK * INPUTS + at % BLOCK * 32 + row % ROWS * 4) = pairs[j];
        }
    }
#else
    for (int64_t i = 0; i < d; i++) ((float *)tile)[(f + i) * ROWS + row % ROWS] = numbers[i];
#endif
}

/* Have the first keys and values of a row's own fetched from memory, where they lie behind others' room. */
INLINE void fetch_own(const Attention *a, const Segment *segment, int64_t row, int64_t head, int64_t tokens, int64_t d) {
    int64_t at = (row - segment->first) / segment->tokens * segment->own_row + head * segment->own_head;
    const char *keys = (const char *)(segment->own_keys[a->layer] + at);
    const char *values = (const char *)(segment->own_values[a->layer] + at);
    int64_t bytes = (tokens < CHUNK ? tokens : CHUNK) * d * (int64_t)sizeof(float);
    for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(keys + i, _MM_HINT_T0);
    for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(values + i, _MM_HINT_T0);
}

/* The queries of a block, from place `at` on: of head j and row r at + j * rows + r. */
INLINE void take_queries(const Attention *a, int64_t number, int64_t head, Scratch *s, int64_t at, int64_t d, int64_t apart) {
    const Model *m = a->model;
    const RowBlock *block = &a->block[number];
    int64_t g = m->heads / m->kv_heads, rows = block->rows;
    for (int64_t j = 0; j < g; j++) {
        rotated(a, block, (head * g + j) * d, m->layer[a->layer].q_norm, a->angles + number * d * ROWS, s->column);
        float *to[ROWS];
        for (int64_t r = 0; r < rows; r++) to[r] = s->query + (at + j * rows + r) * apart;
        for (int64_t i = 0; i < d; i++)
            _mm512_storeu_ps(s->column + i * ROWS,
                             _mm512_mul_ps(_mm512_loadu_ps(s->column + i * ROWS), _mm512_set1_ps(m->scale)));
        write_rows(s->column, d, rows, to);
    }
}

/* What one row gathers of its own keys, and all together as input of the next product. first: its first query's place,
apart by `rows` from the next one's. */
INLINE void finish_row(const Attention *a, int64_t row, int64_t head, Scratch *s, int64_t first, int64_t rows, int64_t seen,
                       int64_t own, int64_t d, int64_t apart) {
    const Segment *segment = &a->batch->segment[a->segment];
    Own *o = &s->own;
    int64_t g = a->model->heads / a->model->kv_heads;
    for (int64_t j = 0; own && j < g; j++) {
        for (int64_t f = 0; f < d; f += 16) {
            __m512 x = _mm512_maskz_loadu_ps(tail(d, f), s->query + (first + j * rows) * apart + f);
            _mm512_storeu_ps(&o->query[j][f], x), _mm512_storeu_ps(&o->mixed[j][f], _mm512_setzero_ps());
        }
        o->most[j] = -INFINITY, o->total[j] = 0;
    }
    int64_t at = own ? (row - segment->first) / segment->tokens * segment->own_row + head * segment->own_head : 0;
    for (int64_t t = 0; t < own; t += CHUNK)
        own_chunk(o, g, segment->own_keys[a->layer] + at + t * d, segment->own_values[a->layer] + at + t * d,
                  own - t < CHUNK ? own - t : CHUNK, d);
    for (int64_t j = 0; j < g; j++) {
        int64_t query = first + j * rows;
        float *mixed = s->mixed + query * apart, one = 1, other = 0, total = seen ? s->total[query] : 0;
        if (own && seen) {
            float most = s->most[query], highest = most > o->most[j] ? most : o->most[j];
            one = _mm512_cvtss_f32(exp16(_mm512_set1_ps(most - highest)));
            other = _mm512_cvtss_f32(exp16(_mm512_set1_ps(o->most[j] - highest)));
            total = total * one + o->total[j] * other;
        } else if (own)
            one = 0, other = 1, total = o->total[j];
        for (int64_t f = 0; f < d; f += 16) {
            __m512 x = seen ? _mm512_mul_ps(_mm512_loadu_ps(mixed + f), _mm512_set1_ps(one)) : _mm512_setzero_ps();
            if (own) x = _mm512_fmadd_ps(_mm512_loadu_ps(&o->mixed[j][f]), _mm512_set1_ps(other), x);
            _mm512_storeu_ps(mixed + f, _mm512_div_ps(x, _mm512_set1_ps(total)));
        }
        put(a, row, (head * g + j) * d, d, mixed);
    }
}

INLINE void attend_as(Attention a, RowGroup group, int64_t head, Scratch *s, int64_t d) {
    const Segment *segment = &a.batch->segment[a.segment = a.block[group.first].segment];
    const RowBlock *block = a.block + group.first;
    const int32_t *positions = a.batch->positions;
    int64_t g = a.model->heads / a.model->kv_heads, apart = (d + 15) / 16 * 16, count = 0, last = block->row - 1;
    if (!segment->reads) fetch_own(&a, segment, block->row, head, positions[block->row] - segment->prompt + 1, d);
    for (int64_t i = 0; i < group.blocks; i++) {
        take_queries(&a, group.first + i, head, s, count, d, apart);
        last += block[i].rows;
        for (int64_t j = 0; j < g; j++)
            for (int64_t r = 0; r < block[i].rows; r++)
                s->limit[count++] = segment->reads ? positions[block[i].row + r] + 1 : (int32_t)segment->prompt;
    }
    int64_t seen = segment->reads ? positions[last] + 1 : segment->prompt, at = head * segment->prompt_stride;
    if (seen) {
        Keys keys = {segment->prompt_keys[a.layer] + at, segment->prompt_values[a.layer] + at, .known = segment->known};
        if (keys.known) {
            keys.known_key = segment->known_keys[a.layer] + head * segment->known_stride;
            keys.known_value = segment->known_values[a.layer] + head * segment->known_stride;
        }
        over_prompt(&s->prompt, (Queries){count, d, apart, s->query, s->limit}, &keys, seen,
                    (Gathered){s->mixed, s->most, s->total});
    }
    for (int64_t i = 0, first = 0; i < group.blocks; first += block[i].rows * g, i++)
        for (int64_t r = 0; r < block[i].rows; r++) {
            int64_t row = block[i].row + r, own = segment->reads ? 0 : positions[row] - segment->prompt + 1;
            if (own && row < last)
                fetch_own(&a, segment, row + 1, head, positions[row + 1] - segment->prompt + 1, d);
            finish_row(&a, row, head, s, first + r, block[i].rows, seen, own, d, apart);
        }
}

VECTOR void attend(const Attention *attention, RowGroup group, int64_t head, float *scratch) {
    if (attention->model->head_width == 64)
        attend_as(*attention, group, head, (Scratch *)scratch, 64);
    else
        attend_as(*attention, group, head, (Scratch *)scratch, attention->model->head_width);
}
