/* What the C files share. The whole is described in kernels/__init__.py.

They are compiled once for each LEVEL, of which the best that a processor has is used: AMX (a matrix unit for bfloat16),
AVX512, AVX2. All but products and attention to prompts is the same code.

Numbers lie by feature, not by row: `x[tile][feature][16]` has sixteen rows of the batch side by side, so that all that
is done to a row (norms, rotary embedding, softmax, silu) is one vector instruction for sixteen of them, none of which
sees its neighbours. Inputs of products are bfloat16, `[tile][block of 32 inputs][pair of inputs][row][2]`, where there is
a matrix unit, which takes them as its second operand, weights as its first; else float32, `[tile][input][row]`. */

#ifndef THOUGHTMIX_KERNELS_H
#define THOUGHTMIX_KERNELS_H

#include <immintrin.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Instructions by function: the library runs on any x86-64 processor as long as these are not called. */
#define AVX2 1
#define AVX512 2
#define AMX 3
#if LEVEL == AMX
#define VECTOR __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma,f16c,amx-tile,amx-bf16")))
#elif LEVEL == AVX512
#define VECTOR __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")))
#else
#define VECTOR __attribute__((target("avx2,fma,f16c")))
#endif
#define INLINE static inline __attribute__((always_inline)) VECTOR
#define EXPORT __attribute__((visibility("default")))
#if LEVEL == AVX2
#include "avx2.h"
#endif

enum { ROWS = 16, BLOCK = 32, TILE = 1024 }; /* rows of a tile, inputs of one, its bytes in 16 bits a number */
enum { INPUTS = LEVEL == AMX ? TILE : 2 * TILE }; /* bytes of 32 inputs of sixteen rows */
enum { MOST_HEADS = 16, MOST_WIDTH = 256 };  /* query heads a key/value head, numbers a head */
enum { QUERIES = 256, LANES = 64 };          /* that attention looks at a prompt with: each chunk is read once, or at once */
enum { CHUNK = 64 };                         /* keys at once */
enum { PLAIN = 0, GRID4 = 1, GRID8 = 2 };    /* how a matrix is kept */

/* Bytes of 16 outputs by 32 inputs. PLAIN: 16 bits. GRID4: w = d q + m, q in 0..15: d and m of each output as IEEE
half, then 16 bytes an output, GRID8: w = d q, q in -127..127. In which order: pack.c. */
static const int64_t TILE_BYTES[3] = {TILE, 64 + 256, 32 + 512};

typedef struct {
    int64_t kind, outputs, inputs;
    uint8_t *data; /* [tile of 16 outputs][block of 32 inputs] */
    const float *bias;
    const uint8_t *idle; /* a PLAIN matrix's tiles of outputs that nobody wants; NULL: none */
} Matrix;

typedef struct {
    Matrix qkv, out, gated, down, lora_a, lora_b; /* gated: tiles of gate and up in turns */
    const float *norm, *norm_mlp, *q_norm, *k_norm;
    int64_t lora; /* number of this layer among those with a low-rank update; -1: it has none */
} Layer;

typedef struct {
    int64_t layers, width, inner, heads, kv_heads, head_width;
    float epsilon, scale; /* of norms, of attention scores */
    const Layer *layer;
    Matrix head;
    const float *norm;
    const float *cosine, *sine; /* (positions, head_width / 2) */
} Model;

/* Rows that look at the same keys. reads: they are tokens that follow each other from position `prompt` on, and their
keys go behind those before them; else they are the next tokens, so many each, of sequences of their own after `prompt`
shared ones. */
typedef struct {
    int64_t first, rows, prompt, reads, tokens, known;
    /* a layer each: (heads, tokens, head_width). The prompt's first `known` tokens may lie elsewhere, where others share
    them; the others' addresses are then as if all lay there. */
    float *const *prompt_keys, *const *prompt_values;
    int64_t prompt_stride;                            /* floats from head to head */
    float *const *own_keys, *const *own_values;       /* a layer each: (rows, heads, tokens, head_width) */
    int64_t own_row, own_head;                        /* floats from row to row, from head to head */
    float *const *known_keys, *const *known_values;
    int64_t known_stride;
} Segment;

typedef struct {
    int64_t rows, segments, picked, moves, scales, ranks, together; /* together: rows may look at each other's keys */
    const float *embedded;    /* (rows, width) */
    const int32_t *positions; /* (rows,) */
    const Segment *segment;
    const int32_t *pick;      /* (picked,) rows whose logits are wanted */
    float *logits;            /* (picked, vocabulary) */
    float *hidden;            /* (rows, width) after the last layer asked for; NULL: not wanted */
    const float *lora_scale, *lora_shift; /* (scales or moves, ranks, rows in whole tiles); NULL: none */
    uint8_t *memory;          /* `thoughtmix_memory` bytes, 64-byte aligned */
} Batch;

INLINE __m512 exp16(__m512 x) { /* e^x, to about one unit in the last place; 0 below -126 */
    x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-126.0f)), _mm512_set1_ps(88.0f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 720);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

#if LEVEL == AMX
/* Two features of sixteen rows as bfloat16 pairs. */
INLINE __m512i pair16(__m512 even, __m512 odd) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                           5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

/* Inputs f and f + 1 of sixteen rows. */
INLINE void put_inputs(uint8_t *packed, int64_t f, __m512 even, __m512 odd) { _mm512_storeu_si512(packed + f * 32, pair16(even, odd)); }
#else
INLINE void put_inputs(uint8_t *packed, int64_t f, __m512 even, __m512 odd) {
    _mm512_storeu_ps((float *)packed + f * ROWS, even);
    _mm512_storeu_ps((float *)packed + (f + 1) * ROWS, odd);
}
#endif

INLINE void transpose16(__m512 r[16]) { /* rows become columns */
    __m512 t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            __m512d a = _mm512_castps_pd(t[4 * i + j]), b = _mm512_castps_pd(t[4 * i + j + 2]);
            r[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++) {
            t[8 * i + j] = _mm512_shuffle_f32x4(r[8 * i + j], r[8 * i + 4 + j], 0x88);
            t[8 * i + 4 + j] = _mm512_shuffle_f32x4(r[8 * i + j], r[8 * i + 4 + j], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        r[j] = _mm512_shuffle_f32x4(t[j], t[8 + j], 0x88);
        r[8 + j] = _mm512_shuffle_f32x4(t[j], t[8 + j], 0xdd);
    }
}

/* Which of the numbers f to f + 15 there are, of d. */
INLINE __mmask16 tail(int64_t d, int64_t f) {
    return d <= f ? 0 : d - f < 16 ? (__mmask16)((1u << (d - f)) - 1) : (__mmask16)0xffff;
}

static inline int64_t blocks_of(int64_t inputs) { return (inputs + BLOCK - 1) / BLOCK; }
static inline int64_t tiles_of(int64_t outputs) { return (outputs + ROWS - 1) / ROWS; }

/* Blocks of inputs that a product has at most. */
static inline int64_t most_blocks(const Model *model, int64_t ranks) {
    int64_t most = model->heads * model->head_width;
    if (model->width > most) most = model->width;
    if (model->inner > most) most = model->inner;
    return blocks_of(ranks > most ? ranks : most);
}

/* --- team.c --- */

typedef struct {
    atomic_int arrived, phase;
    int threads;
} Barrier;

typedef void (*Job)(void *argument, int thread, int threads);

/* Run a job in up to so many threads, the caller's among them. */
void run_in_team(Job job, void *argument, int threads, Barrier *barrier);
void wait_for_all(Barrier *barrier);

/* --- product.c, product_vector.c --- */

enum { STORE, ADD, GATED, LOGITS }; /* what becomes of the sums */

typedef struct {
    int what;
    float *numbers; /* STORE, ADD: [tile][feature][16]; LOGITS: (rows, outputs) */
    int64_t features, rows;
    uint8_t *packed; /* GATED */
} Target;

/* One product of all rows, as far as this thread takes part. next: which pair of output tiles comes next. scratch:
`product_scratch` bytes of this thread's own. */
void multiply(const Matrix *matrix, const uint8_t *inputs, int64_t rows, Target target, atomic_int *next,
              uint8_t *scratch);
int64_t product_scratch(const Model *model, int64_t row_tiles, int64_t ranks);
void configure_tiles(void);
void release_tiles(void);

/* --- prompt.c, prompt_vector.c --- */

typedef struct {
    int64_t count, width, apart; /* at most QUERIES; numbers of one; from one to the next */
    const float *query;          /* scaled */
    int32_t *limit;              /* (QUERIES,) keys that one sees, the first so many; beyond `count` written */
} Queries;

/* Sums of weighted values, greatest score and sum of weights of each query. Of `mixed`, whole sixteens are written. */
typedef struct {
    float *mixed, *most, *total;
} Gathered;

#if LEVEL == AMX
/* Room for it. Tiles lie as the matrix unit takes them. */
typedef struct {
    uint8_t query[QUERIES / ROWS][MOST_WIDTH / BLOCK][2][TILE]; /* [pair of features][query], of the number and its rest */
    uint8_t key[CHUNK / ROWS][MOST_WIDTH / BLOCK][2][TILE];     /* [key][feature] */
    uint8_t weight[LANES / ROWS][CHUNK / BLOCK][TILE];          /* [query][key] */
    uint8_t value[CHUNK / BLOCK][MOST_WIDTH / ROWS][TILE];      /* [pair of keys][feature] */
    float score[CHUNK][LANES], most[QUERIES], total[QUERIES];
} Prompt;
#else
/* Room for sixteen queries. */
typedef struct {
    float query[MOST_WIDTH][ROWS], mixed[MOST_WIDTH][ROWS], weight[CHUNK + ROWS][ROWS], most[ROWS], total[ROWS];
    int32_t furthest; /* keys that any of them sees */
} PromptLanes;

typedef struct {
    PromptLanes lanes[QUERIES / ROWS];
} Prompt;
#endif

/* Keys and values of one head; the first `known` apart from the others, whose addresses are as if all lay there. */
typedef struct {
    const float *key, *value, *known_key, *known_value;
    int64_t known;
} Keys;

INLINE const float *key_at(const Keys *k, int64_t t, int64_t d) { return (t < k->known ? k->known_key : k->key) + t * d; }
INLINE const float *value_at(const Keys *k, int64_t t, int64_t d) { return (t < k->known ? k->known_value : k->value) + t * d; }

void over_prompt(Prompt *room, Queries queries, const Keys *keys, int64_t tokens, Gathered to);

/* --- attention.c --- */

typedef struct {
    int64_t segment, row, rows; /* row: of the batch */
} RowBlock;

typedef struct {
    const Model *model;
    const Batch *batch;
    const float *qkv;    /* [tile][feature][16] */
    uint8_t *packed;     /* what the rows have gathered, input of the next product */
    const float *angles; /* [block][2][head_width / 2][16]: cosines, sines */
    const RowBlock *block;
    int64_t layer, segment;
} Attention;

typedef struct {
    int64_t first, blocks; /* of one segment: their keys are read once for all of them */
} RowGroup;

void turn_angles(const Model *model, const Batch *batch, RowBlock block, float *angles);
void store_keys(const Attention *attention, int64_t block, int64_t head, float *scratch);
void attend(const Attention *attention, RowGroup group, int64_t head, float *scratch);
int64_t attention_scratch(const Model *model);

#endif
