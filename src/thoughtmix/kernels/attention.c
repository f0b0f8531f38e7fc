/* Attention over [shared prompt | own tokens] with grouped heads, in float32 with an online softmax.

A row's sums run over its keys in their order, in chunks of 64 from the first: over the prompt's with many rows and query
heads side by side, each key read once for all of them; over its own by itself; the two are joined by their maxima. Places
out of sight weigh 0 exactly. So what a row gathers depends on its own keys alone. */

#include "kernels.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 64, LANES = 64, SPARE = 8, MOST_HEADS = 16, MOST_WIDTH = 256 };

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
            int64_t row = block->row + r - segment->first;
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

/* --- many queries, the same keys --- */

/* Where the sums over the prompt of up to 64 queries (lanes) are kept while they run. */
typedef struct {
    float most[LANES], total[LANES]; /* greatest score so far; sum of weights */
    float weight[CHUNK + SPARE][LANES];
    float mixed[MOST_WIDTH][LANES];
    float query[MOST_WIDTH][LANES];
    int32_t limit[LANES]; /* keys that a lane sees */
} Shared;

/* width: 16 lanes each; together: keys multiplied at once. */
INLINE void shared_chunk(Shared *s, int width, int together, const float *keys, const float *values, int64_t first,
                         int64_t count, int64_t d) {
    __m512 most[4], scale[4];
    for (int w = 0; w < width; w++) most[w] = _mm512_loadu_ps(s->most + 16 * w);
    for (int64_t t = 0; t < count; t += together) {
        __m512 sum[8][4];
        const float *key[8];
        for (int i = 0; i < together; i++) {
            key[i] = keys + (first + (t + i < count ? t + i : count - 1)) * d;
            for (int w = 0; w < width; w++) sum[i][w] = _mm512_setzero_ps();
        }
        for (int64_t f = 0; f < d; f++) {
            __m512 query[4];
            for (int w = 0; w < width; w++) query[w] = _mm512_loadu_ps(&s->query[f][16 * w]);
            for (int i = 0; i < together; i++) {
                __m512 k = _mm512_set1_ps(key[i][f]);
                for (int w = 0; w < width; w++) sum[i][w] = _mm512_fmadd_ps(query[w], k, sum[i][w]);
            }
        }
        for (int i = 0; i < together; i++)
            for (int w = 0; w < width; w++) {
                __m512i limit = _mm512_loadu_si512(s->limit + 16 * w);
                __mmask16 seen = _mm512_cmpgt_epi32_mask(limit, _mm512_set1_epi32((int)(first + t + i)));
                if (t + i >= count) seen = 0;
                __m512 x = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, sum[i][w]);
                _mm512_storeu_ps(&s->weight[t + i][16 * w], x);
                most[w] = _mm512_max_ps(most[w], x);
            }
    }
    for (int w = 0; w < width; w++) {
        /* of a lane that has seen nothing yet: any finite number */
        __m512 old = _mm512_loadu_ps(s->most + 16 * w), base = _mm512_max_ps(most[w], _mm512_set1_ps(-1e30f));
        scale[w] = exp16(_mm512_sub_ps(_mm512_max_ps(old, _mm512_set1_ps(-1e30f)), base));
        __m512 total = _mm512_mul_ps(_mm512_loadu_ps(s->total + 16 * w), scale[w]);
        for (int64_t t = 0; t < count; t++) {
            __m512 x = _mm512_loadu_ps(&s->weight[t][16 * w]);
            x = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-INFINITY), _CMP_NEQ_UQ),
                                    exp16(_mm512_sub_ps(x, base)));
            _mm512_storeu_ps(&s->weight[t][16 * w], x);
            total = _mm512_add_ps(total, x);
        }
        _mm512_storeu_ps(s->most + 16 * w, most[w]);
        _mm512_storeu_ps(s->total + 16 * w, total);
    }
    for (int64_t f = 0; f < d; f += 4) {
        __m512 sum[4][4];
        for (int i = 0; i < 4; i++)
            for (int w = 0; w < width; w++) sum[i][w] = _mm512_mul_ps(_mm512_loadu_ps(&s->mixed[f + i][16 * w]), scale[w]);
        for (int64_t t = 0; t < count; t++) {
            const float *value = values + (first + t) * d + f;
            for (int w = 0; w < width; w++) {
                __m512 weight = _mm512_loadu_ps(&s->weight[t][16 * w]);
                for (int i = 0; i < 4; i++) sum[i][w] = _mm512_fmadd_ps(weight, _mm512_set1_ps(value[i]), sum[i][w]);
            }
        }
        for (int i = 0; i < 4; i++)
            for (int w = 0; w < width; w++) _mm512_storeu_ps(&s->mixed[f + i][16 * w], sum[i][w]);
    }
}

INLINE void over_shared(Shared *s, int width, const float *keys, const float *values, int64_t tokens, int64_t d) {
    for (int w = 0; w < width; w++) {
        _mm512_storeu_ps(s->most + 16 * w, _mm512_set1_ps(-INFINITY));
        _mm512_storeu_ps(s->total + 16 * w, _mm512_setzero_ps());
        for (int64_t f = 0; f < d; f++) _mm512_storeu_ps(&s->mixed[f][16 * w], _mm512_setzero_ps());
    }
    for (int64_t first = 0; first < tokens; first += CHUNK) {
        int64_t count = tokens - first < CHUNK ? tokens - first : CHUNK;
        if (width == 1)
            shared_chunk(s, 1, 8, keys, values, first, count, d);
        else if (width == 2)
            shared_chunk(s, 2, 8, keys, values, first, count, d);
        else if (width == 3)
            shared_chunk(s, 3, 8, keys, values, first, count, d);
        else
            shared_chunk(s, 4, 6, keys, values, first, count, d);
    }
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

INLINE __mmask16 tail(int64_t d, int64_t f) { return d - f < 16 ? (__mmask16)((1u << (d - f)) - 1) : (__mmask16)0xffff; }

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
    Shared shared;
    Own own;
    float column[MOST_WIDTH * ROWS];
    /* of each row and query head: */
    float mixed[ROWS * MOST_HEADS * MOST_WIDTH], query[ROWS * MOST_HEADS * MOST_WIDTH];
    float most[ROWS * MOST_HEADS], total[ROWS * MOST_HEADS];
} Scratch;

int64_t attention_scratch(const Model *model) {
    (void)model;
    return (sizeof(Scratch) + 63) / 64 * 64;
}

/* d numbers of a row, from feature f on, as inputs of the next product. */
INLINE void put(const Attention *a, int64_t row, int64_t f, int64_t d, const float *numbers) {
    int64_t blocks = blocks_of(a->model->heads * a->model->head_width);
    for (int64_t i = 0; i < d; i += 16) {
        uint32_t pairs[8];
        _mm256_storeu_si256((__m256i *)pairs, (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(numbers + i)));
        for (int64_t j = 0; j < 8 && i + 2 * j < d; j++) {
            int64_t at = f + i + 2 * j;
            uint8_t *to = a->packed + (row / ROWS * blocks + at / BLOCK) * TILE + at % BLOCK * 32 + row % ROWS * 4;
            *(uint32_t *)to = pairs[j];
        }
    }
}

/* Have the first keys and values of a row's own fetched from memory, where they lie behind others' room. */
INLINE void fetch_own(const Attention *a, const Segment *segment, int64_t row, int64_t head, int64_t tokens, int64_t d) {
    int64_t at = (row - segment->first) * segment->own_row + head * segment->own_head;
    const char *keys = (const char *)(segment->own_keys[a->layer] + at);
    const char *values = (const char *)(segment->own_values[a->layer] + at);
    int64_t bytes = (tokens < CHUNK ? tokens : CHUNK) * d * (int64_t)sizeof(float);
    for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(keys + i, _MM_HINT_T0);
    for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(values + i, _MM_HINT_T0);
}

INLINE void attend_as(const Attention *a, int64_t number, int64_t head, float *memory, int64_t d) {
    Scratch *s = (Scratch *)memory;
    const Model *m = a->model;
    const RowBlock *block = &a->block[number];
    const Segment *segment = &a->batch->segment[block->segment];
    int64_t g = m->heads / m->kv_heads, rows = block->rows, queries = rows * g;
    int64_t apart = (d + 15) / 16 * 16; /* numbers from one query's to the next's */
    const float *angles = a->angles + number * d * ROWS;
    const int32_t *positions = a->batch->positions + block->row;
    if (!segment->reads) fetch_own(a, segment, block->row, head, positions[0] - segment->prompt + 1, d);
    for (int64_t j = 0; j < g; j++) { /* query j * rows + r */
        rotated(a, block, (head * g + j) * d, m->layer[a->layer].q_norm, angles, s->column);
        float *to[ROWS];
        for (int64_t r = 0; r < rows; r++) to[r] = s->query + (j * rows + r) * apart;
        for (int64_t i = 0; i < d; i++)
            _mm512_storeu_ps(s->column + i * ROWS,
                             _mm512_mul_ps(_mm512_loadu_ps(s->column + i * ROWS), _mm512_set1_ps(m->scale)));
        write_rows(s->column, d, rows, to);
    }
    int64_t seen = segment->reads ? positions[rows - 1] + 1 : segment->prompt;
    for (int64_t first = 0; seen && first < queries; first += LANES) {
        int64_t some = queries - first < LANES ? queries - first : LANES, width = (some + 15) / 16;
        for (int64_t i = 0; i < width * 16; i++)
            s->shared.limit[i] = i >= some ? 0 : segment->reads ? positions[(first + i) % rows] + 1 : (int32_t)seen;
        for (int64_t w = 0; w < width; w++)
            for (int64_t f = 0; f < d; f += 16) {
                __m512 x[16];
                for (int i = 0; i < 16; i++) {
                    int64_t lane = 16 * w + i;
                    x[i] = lane < some ? _mm512_maskz_loadu_ps(tail(d, f), s->query + (first + lane) * apart + f) : _mm512_setzero_ps();
                }
                transpose16(x);
                for (int i = 0; i < 16 && f + i < d; i++) _mm512_storeu_ps(&s->shared.query[f + i][16 * w], x[i]);
            }
        const float *keys = segment->prompt_keys[a->layer] + head * segment->prompt_stride;
        const float *values = segment->prompt_values[a->layer] + head * segment->prompt_stride;
        over_shared(&s->shared, (int)width, keys, values, seen, d);
        for (int64_t w = 0; w < width; w++)
            for (int64_t f = 0; f < d; f += 16) {
                __m512 x[16];
                for (int i = 0; i < 16; i++)
                    x[i] = f + i < d ? _mm512_loadu_ps(&s->shared.mixed[f + i][16 * w]) : _mm512_setzero_ps();
                transpose16(x);
                for (int i = 0; i < 16 && 16 * w + i < some; i++) _mm512_storeu_ps(s->mixed + (first + 16 * w + i) * apart + f, x[i]);
            }
        memcpy(s->most + first, s->shared.most, some * sizeof(float));
        memcpy(s->total + first, s->shared.total, some * sizeof(float));
    }
    for (int64_t r = 0; r < rows; r++) {
        Own *o = &s->own;
        if (!segment->reads && r + 1 < rows)
            fetch_own(a, segment, block->row + r + 1, head, positions[r + 1] - segment->prompt + 1, d);
        int64_t own = segment->reads ? 0 : positions[r] - segment->prompt + 1;
        for (int64_t j = 0; own && j < g; j++) {
            for (int64_t f = 0; f < d; f += 16) {
                __m512 x = _mm512_maskz_loadu_ps(tail(d, f), s->query + (j * rows + r) * apart + f);
                _mm512_storeu_ps(&o->query[j][f], x), _mm512_storeu_ps(&o->mixed[j][f], _mm512_setzero_ps());
            }
            o->most[j] = -INFINITY, o->total[j] = 0;
        }
        int64_t at = own ? (block->row + r - segment->first) * segment->own_row + head * segment->own_head : 0;
        for (int64_t first = 0; first < own; first += CHUNK)
            own_chunk(o, g, segment->own_keys[a->layer] + at + first * d, segment->own_values[a->layer] + at + first * d,
                      own - first < CHUNK ? own - first : CHUNK, d);
        for (int64_t j = 0; j < g; j++) {
            float *mixed = s->mixed + (j * rows + r) * apart, one = 1, other = 0, total = seen ? s->total[j * rows + r] : 0;
            if (own && seen) {
                float most = s->most[j * rows + r], highest = most > o->most[j] ? most : o->most[j];
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
            put(a, block->row + r, (head * g + j) * d, d, mixed);
        }
    }
}

VECTOR void attend(const Attention *a, int64_t number, int64_t head, float *memory) {
    if (a->model->head_width == 64)
        attend_as(a, number, head, memory, 64);
    else
        attend_as(a, number, head, memory, a->model->head_width);
}
